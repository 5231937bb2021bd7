//go:build !linux

package agent

import "os/exec"

// endWithTest does nothing: only Linux can end a child with its parent.
func endWithTest(*exec.Cmd) {}

// runOnThread runs the command.
func runOnThread(cmd *exec.Cmd, started chan<- error) error {
	err := cmd.Start()
	started <- err
	if err != nil {
		return err
	}
	return cmd.Wait()
}
