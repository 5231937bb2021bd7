package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"slices"

	"github.com/nomad-governor/governor/quotaagent/admission"
	"github.com/nomad-governor/governor/quotaagent/agent"
	"github.com/nomad-governor/governor/quotaagent/api"
	"github.com/nomad-governor/governor/quotaagent/gate"
	"github.com/nomad-governor/governor/quotaagent/jobspec"
	"github.com/nomad-governor/governor/scheduler/cluster"
	"github.com/nomad-governor/governor/scheduler/place"
	"github.com/nomad-governor/governor/scheduler/proposal"
	"github.com/nomad-governor/governor/scheduler/rewrite"
)

// placementMax bounds the body of a question: the largest jobs have a megabyte.
const placementMax = 4 << 20

// routes are the placement service's endpoints. budget is what the budget of a
// submission says of its placement.
func (p *placer) routes(budget func(gate.Submission) agent.Placing) []api.Route {
	return append(p.stateRoutes(), []api.Route{
		{Method: "GET", Path: "/governor/v1/topology", Right: api.Read, Serve: p.topology},
		{Method: "POST", Path: "/governor/v1/placement", Right: api.Read, BodyMax: placementMax, Serve: func(ctx context.Context, c api.Call) (any, error) {
			return p.propose(ctx, c, budget)
		}},
	}...)
}

// propose answers where GPUs would be given now.
func (p *placer) propose(ctx context.Context, c api.Call, budget func(gate.Submission) agent.Placing) (any, error) {
	q, err := api.Decode[proposal.Question](c)
	if err != nil {
		return nil, err
	}
	if err := q.Check(); err != nil {
		return nil, &api.Problem{Status: http.StatusBadRequest, Text: err.Error()}
	}
	if q.Job != nil {
		return p.proposeJob(ctx, c, &q, budget)
	}
	offer, why, err := p.choose(ctx, q.Ask(), nil, q.Most())
	if err != nil {
		return nil, err
	}
	return answered(proposal.AnswerOf(offer, why, q.Most()))
}

// answered is an answer in one line: programs ask many questions a second, and laying it
// out for people would take as long as deciding.
func answered(a proposal.Answer) (any, error) {
	body, err := a.Encode()
	if err != nil {
		return nil, fmt.Errorf("encode answer: %w", err)
	}
	return api.Raw{Type: "application/json", Write: func(w io.Writer) error {
		_, err := w.Write(body)
		return err
	}}, nil
}

// choose asks placement, with what is promised to others in sight. meta is that of a job.
func (p *placer) choose(ctx context.Context, ask cluster.Ask, meta map[string]string, most int) (cluster.Offer, place.Explanation, error) {
	snapshot, err := p.state.Snapshot(ctx, lookAge)
	if err != nil {
		return cluster.Offer{}, place.Explanation{}, &api.Problem{Status: http.StatusServiceUnavailable,
			Text: "Nomad cannot be asked for its nodes and allocations now; try again later"}
	}
	loading, unclear, err := p.assets.loading(ctx, meta, snapshot)
	if err != nil {
		return cluster.Offer{}, place.Explanation{}, err
	}
	if unclear != "" {
		return cluster.Offer{}, place.Explanation{}, &api.Problem{Status: http.StatusBadRequest, Text: unclear}
	}
	ask.Loading = loading
	marked := p.spared.Mark(snapshot, ask.Namespace, ask.JobID, p.now())
	if ask.Gang {
		offer, why, _ := p.sets.PlaceGang(marked, ask)
		return offer, why, nil
	}
	offer, why := p.sets.Choose(marked, ask, most)
	return offer, why, nil
}

// proposeJob answers for a job as if it was new and submitted by the caller.
func (p *placer) proposeJob(ctx context.Context, c api.Call, q *proposal.Question, budget func(gate.Submission) agent.Placing) (any, error) {
	s, err := submissionOf(q.Job, c.Caller)
	if err != nil {
		return nil, &api.Problem{Status: http.StatusBadRequest, Text: err.Error()}
	}
	ask := rewrite.AskOf(s.Job)
	offer, why, err := p.choose(ctx, ask, s.Ask.Meta, proposal.NodesMax) // the patch names all of them
	if err != nil {
		return nil, err
	}
	how := budget(s)
	offer, _ = p.moderate(s, how, offer, &why)
	answer := proposal.AnswerOf(offer, why, q.Most())
	answer.Mode, answer.ModeBy = p.modeOf(s, how)
	answer.Patch = proposal.PatchOf(rewrite.Rewrite(rewrite.Input{Submitted: s.Job, Offer: offer}))
	return answered(answer)
}

// submissionOf reads a job as the gate does.
func submissionOf(job json.RawMessage, caller api.Caller) (gate.Submission, error) {
	body := slices.Concat([]byte(`{"Job":`), job, []byte("}"))
	_, request, err := jobspec.ParseRegister(body)
	if err != nil {
		return gate.Submission{}, fmt.Errorf("read Job: %w", err)
	}
	effective, err := jobspec.Canonicalize(request.Job)
	if err != nil {
		return gate.Submission{}, fmt.Errorf("read Job: %w", err)
	}
	ask := jobspec.ExtractCanonical(effective, jobspec.Defaults{})
	if _, refusal := admission.PlacementMode(ask); refusal != nil {
		return gate.Submission{}, fmt.Errorf("%s; %s", refusal.Fact, refusal.Remedy)
	}
	return gate.Submission{Job: effective, Ask: ask, Identity: gate.Identity{Accessor: caller.Accessor, Names: caller.Names}}, nil
}
