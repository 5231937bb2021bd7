package main

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"

	"github.com/nomad-governor/governor/quotaagent/agent"
	"github.com/nomad-governor/governor/quotaagent/gate"
	"github.com/nomad-governor/governor/scheduler/cluster"
	"github.com/nomad-governor/governor/scheduler/place"
	"github.com/nomad-governor/governor/scheduler/rewrite"
)

// Replace implements agent.Placer. GPUs that are promised to others count as taken, as
// well as those that are held: whoever waits anyway does not take them away.
func (p *placer) Replace(ctx context.Context, s gate.Submission, groups []string, how agent.Placing) (out agent.Placement, again []string, err error) {
	snapshot, err := p.state.Snapshot(ctx, 0)
	if err != nil {
		return out, nil, fmt.Errorf("read cluster: %w", err)
	}
	ask := rewrite.AskOf(s.Job)
	ask.Namespace, ask.JobID = s.Ask.Namespace, s.Ask.JobID
	if ask.Loading, _, err = p.assets.loading(ctx, s.Ask.Meta, snapshot); err != nil {
		return out, nil, err
	}
	marked := p.spared.Mark(snapshot, ask.Namespace, ask.JobID, p.now())
	marked = p.aside.Taken(marked, cluster.Against(plansOf(how.Planned), ask.Namespace, ask.JobID, how.EndsMS))
	offer, why := p.sets.Place(marked, ask)
	for _, group := range groups {
		found := offer.Find(group)
		if found == nil || len(found.Nodes) == 0 || !rewrite.Waits(s.Stored, group, &marked, found.Nodes) {
			continue
		}
		if slices.ContainsFunc(why.Groups, func(g place.GroupExplanation) bool { return g.Group == group && g.UsesReserved }) {
			continue
		}
		again = append(again, group)
	}
	if len(again) == 0 {
		return out, nil, nil
	}
	patch := rewrite.Rewrite(rewrite.Input{Submitted: s.Job, Stored: s.Stored, StoredRunning: true, Offer: offer, Again: again})
	out = agent.Placement{Patch: convert(patch), Offered: offered(offer, patch, snapshot), Notice: notice(patch, why)}
	offer = offer.Without(patch.Kept)
	if out.Record, err = json.Marshal(record{ask.Namespace, ask.JobID, offer}); err != nil {
		return out, nil, fmt.Errorf("encode offer: %w", err)
	}
	p.spared.Reserve(ask, offer, p.now())
	out.Release = func() { p.spared.Release(ask.Namespace, ask.JobID) }
	return out, again, nil
}
