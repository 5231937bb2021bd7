package agent

import (
	"context"
	"fmt"
	"time"

	"github.com/nomad-governor/governor/quotaagent/ledger"
	"github.com/nomad-governor/governor/quotaagent/nomadevents"
)

// duty is something that only the leader does. An error is logged as a delay of
// metering; it does not keep the other duties from their turn.
type duty func(ctx context.Context, fence ledger.Fence) error

// lookout is a duty that looks at all allocations with GPUs that Nomad has, as
// of a snapshot that the meter has just taken in.
type lookout func(ctx context.Context, fence ledger.Fence, allocations []nomadevents.Allocation) error

// duties are those of the leader, in the order in which they were added. They
// run on the meter's goroutine, one after the other.
type duties struct {
	// ticks run with every tick, once a second.
	ticks []appointed[duty]
	// snapshots run after every snapshot, once in each interval of the meter.
	snapshots []appointed[lookout]
	// beside run on goroutines of their own for as long as the agent leads.
	beside []func(ctx context.Context, fence ledger.Fence)
	// strays are told of every allocation without a hold that was seen for the first
	// time.
	strays []func(a nomadevents.Allocation)
	// changed are told of every job that is not any more what its hold was made for.
	changed []func(namespace, jobID string)
	// jobs are told of every job that changed at Nomad or in the ledger.
	jobs []func(namespace, jobID string)
}

// onJob adds what is told of every job that changed, on the meter's goroutine. It
// must not take long: it notes the job for the next tick. Call it before the agent
// runs.
func (d *duties) onJob(note func(namespace, jobID string)) { d.jobs = append(d.jobs, note) }

// onStray adds what is told of every allocation that runs without a hold, like
// onJob.
func (d *duties) onStray(note func(a nomadevents.Allocation)) { d.strays = append(d.strays, note) }

// onChanged adds what is told of every job that became another one around the gate,
// like onJob.
func (d *duties) onChanged(note func(namespace, jobID string)) { d.changed = append(d.changed, note) }

// change tells of a job that became another one.
func (d *duties) change(namespace, jobID string) {
	for _, note := range d.changed {
		note(namespace, jobID)
	}
}

// stray tells of an allocation without a hold.
func (d *duties) stray(a nomadevents.Allocation) {
	for _, note := range d.strays {
		note(a)
	}
}

// job tells of a job that changed.
func (d *duties) job(namespace, jobID string) {
	for _, note := range d.jobs {
		note(namespace, jobID)
	}
}

// every does something again and again until ctx ends. An error is said when it is
// another one than before.
func every(ctx context.Context, interval time.Duration, do func() error, failed func(error)) {
	tick := time.NewTicker(interval)
	defer tick.Stop()
	failing := ""
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		text := ""
		if err := do(); err != nil && ctx.Err() == nil {
			if text = err.Error(); text != failing {
				failed(err)
			}
		}
		failing = text
	}
}

type appointed[F any] struct {
	name string
	run  F
}

// onTick adds a duty of every tick; name says in errors what it does. Call it
// before the agent runs.
func (d *duties) onTick(name string, run duty) {
	d.ticks = append(d.ticks, appointed[duty]{name, run})
}

// onSnapshot adds a duty after every snapshot. Call it before the agent runs.
func (d *duties) onSnapshot(name string, run lookout) {
	d.snapshots = append(d.snapshots, appointed[lookout]{name, run})
}

// whileLeading adds work that takes its own time; it must return soon after its
// context ends. Call it before the agent runs.
func (d *duties) whileLeading(run func(ctx context.Context, fence ledger.Fence)) {
	d.beside = append(d.beside, run)
}

// tick runs the duties of a tick until ctx ends.
func (d *duties) tick(ctx context.Context, fence ledger.Fence, failed func(error)) {
	for _, t := range d.ticks {
		if ctx.Err() != nil {
			return
		}
		if err := t.run(ctx, fence); err != nil {
			failed(fmt.Errorf("%s: %w", t.name, err))
		}
	}
}

// snapshot runs the duties after a snapshot until ctx ends.
func (d *duties) snapshot(ctx context.Context, fence ledger.Fence, allocations []nomadevents.Allocation, failed func(error)) {
	for _, s := range d.snapshots {
		if ctx.Err() != nil {
			return
		}
		if err := s.run(ctx, fence, allocations); err != nil {
			failed(fmt.Errorf("%s: %w", s.name, err))
		}
	}
}
