package main

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"testing"
	"time"

	"github.com/shoenig/test/must"

	"github.com/nomad-governor/governor/hcl/agentconfig"
	"github.com/nomad-governor/governor/quotaagent/agent"
	"github.com/nomad-governor/governor/quotaagent/api"
	"github.com/nomad-governor/governor/quotaagent/gate"
	"github.com/nomad-governor/governor/quotaagent/jobspec"
	"github.com/nomad-governor/governor/quotaagent/ledger"
	"github.com/nomad-governor/governor/scheduler/locality"
)

// shelf is records in memory; others overtake the first writes.
type shelf struct {
	records   []ledger.Record
	conflicts int
	writes    []ledger.Write
}

func (s *shelf) Read(context.Context, ...string) ([]ledger.Record, error) { return nil, nil }

func (s *shelf) List(context.Context, string) ([]ledger.Record, uint64, error) {
	return s.records, 1, nil
}

func (s *shelf) Commit(_ context.Context, _ ledger.Fence, writes []ledger.Write) error {
	if s.conflicts > 0 {
		s.conflicts--
		return ledger.ErrConflict
	}
	s.writes = writes
	return nil
}

func assetRecord(i int, untilMS int64) ledger.Record {
	name := fmt.Sprintf("a%d", i)
	return ledger.Record{Key: statePrefix + name + "/n", Version: uint64(i + 1), Value: fmt.Appendf(nil, `{"name": %q, "node": "n", "tier": "disk", "until_ms": %d}`, name, untilMS)}
}

func TestAssets_put(t *testing.T) {
	t.Parallel()
	clock := func() time.Time { return now }
	put := func(s *shelf, name string) error {
		return newAssets(s, clock, agentconfig.Placement{}).put(t.Context(), locality.Asset{Name: name, Node: "n"}, []byte("{}"))
	}
	s := &shelf{records: []ledger.Record{assetRecord(0, now.UnixMilli()), assetRecord(1, now.UnixMilli()+1)}, conflicts: 2}
	must.NoError(t, put(s, "a1"))
	must.Eq(t, []ledger.Write{{Key: "state/a0/n", Version: 1}, {Key: "state/a1/n", Version: 2, Value: []byte("{}")}}, s.writes, must.Sprint("what has run out goes along"))
	s = &shelf{conflicts: stateRetries}
	var problem *api.Problem
	must.True(t, errors.As(put(s, "a"), &problem))
	must.Eq(t, http.StatusConflict, problem.Status)

	s = &shelf{}
	for i := range stateMost {
		s.records = append(s.records, assetRecord(i, now.UnixMilli()+1))
	}
	must.NoError(t, put(s, "a7"), must.Sprint("one that is there is renewed"))
	must.True(t, errors.As(put(s, "another"), &problem))
	must.Eq(t, http.StatusInsufficientStorage, problem.Status)
	must.StrContains(t, problem.Text, "4096 pieces of state are registered")
	s.records[0] = assetRecord(0, now.UnixMilli())
	must.NoError(t, put(s, "another"), must.Sprint("one has run out"))
}

// What a job says of its state and nobody understands is told its author also where no
// budget claims the job, and nothing refuses it.
func TestPlace_saysWhatItDoesNotUnderstand(t *testing.T) {
	t.Parallel()
	_, p := placementServer(t, recordedNomad)
	_, request, err := jobspec.ParseRegister([]byte(jobIn("default", "default", `{"governor_state": "a=lots"}`)))
	must.NoError(t, err)
	job, err := jobspec.Canonicalize(request.Job)
	must.NoError(t, err)
	placed, err := p.Place(t.Context(), gate.Submission{Job: job, Ask: jobspec.ExtractCanonical(job, jobspec.Defaults{})}, agent.Placing{})
	must.NoError(t, err)
	must.StrContains(t, placed.Unclear, `job meta governor_state is "a=lots": size of a: "lots" is no size`)
	must.Eq(t, "governor: placement: not placed: "+placed.Unclear, placed.Notice)
	must.Eq(t, 0, len(placed.Patch.Groups))
}
