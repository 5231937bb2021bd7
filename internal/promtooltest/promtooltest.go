package promtooltest

import (
	"bytes"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"
)

// patience bounds one run.
const patience = time.Minute

// Find returns the path of a promtool: PROMTOOL_BIN, then promtool in PATH, then the
// cache in which `make promtool` keeps it.
func Find() (string, error) {
	if bin := os.Getenv("PROMTOOL_BIN"); bin != "" {
		return bin, nil
	}
	if bin, err := exec.LookPath("promtool"); err == nil {
		return bin, nil
	}
	dir := os.Getenv("GOVERNOR_CACHE")
	if dir == "" {
		base, err := os.UserCacheDir()
		if err != nil {
			return "", err
		}
		dir = filepath.Join(base, "governor-tools")
	}
	bin := filepath.Join(dir, "promtool")
	if _, err := os.Stat(bin); err != nil {
		return "", errors.New("there is no promtool: run `make promtool`, or set PROMTOOL_BIN")
	}
	return bin, nil
}

// Run runs promtool with some input and fails the test when promtool does. Without a
// promtool the test is skipped, or fails when the environment variable CI is set.
func Run(tb testing.TB, input string, args ...string) {
	tb.Helper()
	bin, err := Find()
	if err != nil {
		if os.Getenv("CI") != "" {
			tb.Fatal(err)
		}
		tb.Skip(err)
	}
	cmd := exec.CommandContext(tb.Context(), bin, args...)
	cmd.WaitDelay = patience
	cmd.Stdin = bytes.NewBufferString(input)
	if out, err := cmd.CombinedOutput(); err != nil {
		tb.Fatalf("promtool %v: %v\n%s", args, err, out)
	}
}
