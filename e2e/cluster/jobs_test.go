package cluster_test

import (
	"context"
	"testing"
	"time"

	"github.com/shoenig/test/must"

	"github.com/nomad-governor/governor/e2e/cluster"
)

// A wait that fails says what it was for and why, and asks for a dear explanation once:
// commands run at every try kept the tasks from starting that the tests waited for.
func TestPollAsksForTheDetailOnce(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
	defer cancel()
	tries, asked := 0, 0
	err := cluster.Poll(ctx, "wait for nothing", func() error {
		tries++
		return cluster.Detail(func() string { asked++; return "the words of a command" })
	})
	must.EqError(t, err, "wait for nothing: the words of a command (context deadline exceeded)")
	must.Greater(t, 1, tries)
	must.Eq(t, 1, asked)
}

// Between two tries that take long, more time passes than between quick ones.
func TestPollLeavesTheMachineToWhatItWaitsFor(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), time.Second)
	defer cancel()
	tries := 0
	err := cluster.Poll(ctx, "wait for nothing", func() error {
		tries++
		time.Sleep(100 * time.Millisecond)
		return context.Canceled
	})
	must.ErrorIs(t, err, context.DeadlineExceeded)
	must.ErrorIs(t, err, context.Canceled)
	must.Eq(t, 1, tries)
}
