//go:build !linux

package worker

import (
	"os"
	"syscall"
)

// NVIDIA's driver and Nomad's device plugins are for Linux; elsewhere the
// program only builds.
const selfPath = ""

func attributes() *syscall.SysProcAttr { return nil }

func closeOnExec(uintptr) {}

func awaitExit(int) {}

func killGroup(pid int) {
	if p, err := os.FindProcess(pid); err == nil {
		_ = p.Kill() // it has ended
	}
}
