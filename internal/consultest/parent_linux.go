package consultest

import (
	"os/exec"
	"syscall"
)

// endWithParent has the kernel kill the command when the test binary dies
// without running its clean-up, as on a test timeout.
func endWithParent(cmd *exec.Cmd) {
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
}
