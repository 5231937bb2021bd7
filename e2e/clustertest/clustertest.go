package clustertest

import (
	"context"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/nomad-governor/governor/e2e/cluster"
	"github.com/nomad-governor/governor/e2e/toolchain"
)

// startTimeout bounds the start of a whole cluster on two busy cores.
const startTimeout = 4 * time.Minute

// Start runs a cluster until the end of the test.
func Start(t testing.TB, opts cluster.Options) *cluster.Cluster {
	t.Helper()
	if opts.Progress == nil {
		opts.Progress = t.Logf
	}
	ctx, cancel := context.WithTimeout(t.Context(), startTimeout)
	defer cancel()
	c, err := cluster.Start(ctx, opts)
	if err != nil {
		t.Fatalf("start the cluster: %v", err)
	}
	t.Cleanup(func() {
		if t.Failed() {
			keepLogs(t, c)
		}
		if err := c.Close(); err != nil {
			t.Errorf("close the cluster: %v", err)
		}
	})
	return c
}

// tailLines is how much of each log a failed test shows.
const tailLines = 15

// keepLogs copies the logs to e2e/_out/failed/<test> and shows their ends.
func keepLogs(t testing.TB, c *cluster.Cluster) {
	t.Helper()
	root, err := toolchain.Root()
	if err != nil {
		t.Logf("logs not kept: %v", err)
		return
	}
	dir := filepath.Join(root, "e2e", "_out", "failed", strings.ReplaceAll(t.Name(), "/", "_"))
	if err := c.SaveLogs(dir); err != nil {
		t.Logf("logs not kept: %v", err)
	}
	t.Logf("all logs: %s\n%s", dir, c.LogTails(tailLines))
}
