package ledger_test

import (
	"errors"
	"testing"

	"github.com/hashicorp/nomad/api"
	"github.com/shoenig/test/must"

	"github.com/nomad-governor/governor/quotaagent/nomadctl"
)

// What enforcement asks of Nomad, and what Nomad's answers mean.
func TestWhatNomadAnswersToEnforcement(t *testing.T) {
	s := play(t, "nomadctl", 0)
	ctx := t.Context()
	ctl := nomadctl.New(s.api())
	const nobody = "11111111-2222-3333-4444-555555555555"
	acls, err := ctl.ACLs(ctx)
	must.NoError(t, err)
	must.False(t, acls)
	before, err := ctl.JobsIndex(ctx)
	must.NoError(t, err)
	a := s.run(job{id: "works", kind: "service", script: "trap 'echo got it' USR1; echo ready; while true; do sleep 0.2; done"})[0]
	s.printed(a, "ready")

	must.NoError(t, ctl.SignalAllocation(ctx, a.ID, "", "SIGUSR1"))
	s.printed(a, "got it")
	must.ErrorIs(t, ctl.SignalAllocation(ctx, nobody, "", "SIGUSR1"), nomadctl.ErrNotFound)
	must.NoError(t, ctl.StopAllocation(ctx, nobody))
	must.NoError(t, ctl.StopJob(ctx, s.name, "nobody", "test"))

	after, err := ctl.JobsIndex(ctx)
	must.NoError(t, err)
	must.Greater(t, before, after)
	_, err = ctl.Scale(ctx, nomadctl.Scaling{Namespace: s.name, JobID: "nobody", Group: "g", Count: 1})
	must.ErrorIs(t, err, nomadctl.ErrNotFound)
	spec, err := ctl.JobSpec(ctx, s.name, "works")
	must.NoError(t, err)
	scale := nomadctl.Scaling{Namespace: s.name, JobID: "works", Group: "g", Count: 2, Index: spec.Index - 1, Message: "test"}
	s.eventually("the deployment is over and the index is compared", func() error {
		_, err := ctl.Scale(ctx, scale)
		if errors.Is(err, nomadctl.ErrRefused) {
			return err
		}
		must.ErrorIs(t, err, nomadctl.ErrConflict)
		return nil
	})
	scale.Index = spec.Index
	index, err := ctl.Scale(ctx, scale)
	must.NoError(t, err)
	must.Greater(t, spec.Index, index)
	s.running("works", 2)

	must.NoError(t, ctl.StopJob(ctx, s.name, "works", "test"))
	must.NoError(t, ctl.StopJob(ctx, s.name, "works", "test"))
	ended := s.ended(a.ID)
	must.Eq(t, api.AllocDesiredStatusStop, ended.DesiredStatus)
	must.ErrorIs(t, ctl.SignalAllocation(ctx, a.ID, "", "SIGUSR1"), nomadctl.ErrNotFound)
	must.NoError(t, ctl.StopAllocation(ctx, a.ID))
}
