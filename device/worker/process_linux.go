package worker

import (
	"errors"
	"syscall"

	"golang.org/x/sys/unix"
)

// selfPath is this very program, also after its file was replaced.
const selfPath = "/proc/self/exe"

// attributes put the worker into a process group of its own, with what the
// library starts, and make it die with the thread that starts it.
func attributes() *syscall.SysProcAttr {
	return &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
}

func closeOnExec(fd uintptr) { syscall.CloseOnExec(int(fd)) }

// awaitExit returns when the process has ended and leaves it to be reaped, so
// that until then its number is not another's.
func awaitExit(pid int) {
	for {
		err := unix.Waitid(unix.P_PID, pid, nil, unix.WEXITED|unix.WNOWAIT, nil)
		if !errors.Is(err, unix.EINTR) {
			return
		}
	}
}

// killGroup ends the process and those that it started. It must not be called
// after the process was reaped. An error means that none is left.
func killGroup(pid int) { _ = syscall.Kill(-pid, syscall.SIGKILL) }
