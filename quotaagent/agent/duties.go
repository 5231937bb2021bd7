package agent

import (
	"context"
	"fmt"
	"runtime/debug"
	"sync"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/nomad-governor/governor/quotaagent/ledger"
)

// duty is work that only the leader does, beside metering. It runs in a goroutine
// of its own, so it may take its time; its commits must carry the fence.
type duty struct {
	// name for the log.
	name string
	// every is the pause between two runs.
	every time.Duration
	run   func(ctx context.Context, fence ledger.Fence) error
}

// duties are all of them; a new one is a line here.
func (a *Agent) duties() []duty {
	return []duty{}
}

// lead is one term of leadership: the meter and every duty, until ctx ends.
func (a *Agent) lead(ctx context.Context, fence ledger.Fence) {
	ctx, cancel := context.WithCancel(ctx)
	var all sync.WaitGroup
	defer all.Wait()
	defer cancel()
	for _, d := range a.duties() {
		all.Go(func() { d.keep(ctx, fence, a.logger.Named(d.name)) })
	}
	a.Meter.Lead(ctx, fence)
}

// keep runs a duty until ctx ends. A failure is logged once, however often it is
// repeated.
func (d duty) keep(ctx context.Context, fence ledger.Fence, logger hclog.Logger) {
	failing := false
	for ctx.Err() == nil {
		err := d.once(ctx, fence)
		switch {
		case ctx.Err() != nil:
			return
		case err != nil && !failing:
			logger.Warn("delayed, trying again", "error", err)
		case err == nil && failing:
			logger.Info("caught up")
		}
		failing = err != nil
		pause(ctx, d.every)
	}
}

// once runs a duty; a bug in one does not take the agent down.
func (d duty) once(ctx context.Context, fence ledger.Fence) (err error) {
	defer func() {
		if v := recover(); v != nil {
			err = fmt.Errorf("bug in %s: %v\n%s", d.name, v, debug.Stack())
		}
	}()
	return d.run(ctx, fence)
}
