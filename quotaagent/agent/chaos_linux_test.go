package agent

import (
	"os/exec"
	"runtime"
	"syscall"
)

// endWithTest has the kernel kill the command, stopped or not, when the test binary
// dies without running its clean-up, as on a test timeout.
func endWithTest(cmd *exec.Cmd) {
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
}

// runOnThread runs the command from a thread that lives until it ends: the kernel
// watches the thread that started it.
func runOnThread(cmd *exec.Cmd, started chan<- error) error {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	err := cmd.Start()
	started <- err
	if err != nil {
		return err
	}
	return cmd.Wait()
}
