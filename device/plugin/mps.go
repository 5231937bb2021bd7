package plugin

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"

	"github.com/nomad-governor/governor/device/inventory"
)

// mpsPIDFile is what the control daemon leaves in its pipe directory.
const mpsPIDFile = "nvidia-cuda-mps-control.pid"

// MPSProblem says why the MPS shares cannot be used; empty when they can, or
// when there are none.
func MPSProblem(s Settings) string {
	usesMPS := slices.ContainsFunc(s.Layout.Sharing, func(r inventory.ShareRule) bool { return r.Strategy == inventory.MPS })
	if !usesMPS {
		return ""
	}
	if dir := s.MPSPipeDirectory; !mpsRuns(dir) {
		return fmt.Sprintf("mps_daemon: no MPS control daemon serves %s: start nvidia-cuda-mps-control -d with CUDA_MPS_PIPE_DIRECTORY=%s", dir, dir)
	}
	return ""
}

// mpsRuns reports whether the daemon that wrote the pid file lives.
func mpsRuns(dir string) bool {
	text, err := os.ReadFile(filepath.Join(dir, mpsPIDFile))
	if err != nil {
		return false
	}
	pid, err := strconv.Atoi(strings.TrimSpace(string(text)))
	if err != nil || pid < 1 {
		return false
	}
	err = syscall.Kill(pid, 0) // asks only
	return err == nil || errors.Is(err, syscall.EPERM)
}
