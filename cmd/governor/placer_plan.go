package main

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/nomad-governor/governor/quotaagent/agent"
	"github.com/nomad-governor/governor/quotaagent/ledger"
	"github.com/nomad-governor/governor/scheduler/cluster"
	"github.com/nomad-governor/governor/scheduler/place"
)

// plansOf are the plans of the ledger as placement knows them.
func plansOf(planned []agent.PlannedFor) []cluster.Planned {
	var out []cluster.Planned
	for _, p := range planned {
		out = append(out, cluster.Planned{Namespace: p.Namespace, JobID: p.JobID, StartMS: p.StartMS, Devices: p.Devices})
	}
	return out
}

// beside is offer beside what is set aside for gangs; out gets the plan for a gang that
// does not fit, and behind whom another job waits.
func (p *placer) beside(s cluster.Snapshot, ask cluster.Ask, how agent.Placing, running bool, out *agent.Placement) (offer cluster.Offer, why place.Explanation, reserve cluster.Offer) {
	plans := plansOf(how.Planned)
	apart := cluster.Against(plans, ask.Namespace, ask.JobID, how.EndsMS)
	seen := p.aside.Taken(s, apart)
	offer, why, reserve = p.offer(seen, ask, running, out)
	switch {
	case ask.Gang && out.Waits != "" && how.Ends != nil:
		out.Planned = p.plan(seen, ask, plans, how.Ends)
	case !running && !ask.Gang && len(apart) > 0 && offer.Infeasible == nil:
		out.Waits = p.behind(s, ask, apart, why)
	}
	return offer, why, reserve
}

// plan is where a gang that does not fit can start first, and when: where it was to
// start before, as long as it can; nil where it cannot for all that is known.
func (p *placer) plan(s cluster.Snapshot, ask cluster.Ask, plans []cluster.Planned, ends map[string]int64) *ledger.Planned {
	own := slices.IndexFunc(plans, func(o cluster.Planned) bool { return o.Namespace == ask.Namespace && o.JobID == ask.JobID })
	if own >= 0 {
		if start, stands := plans[own].Stands(&s, ends); stands {
			return &ledger.Planned{StartMS: start, Devices: plans[own].Devices}
		}
	}
	planned, known := p.sets.PlanGang(s, ask, ends)
	if !known {
		return nil
	}
	return &ledger.Planned{StartMS: planned.StartMS, Devices: planned.Devices}
}

// behind says for which gangs the GPUs are set aside that a job could have, if it has
// none now; "" if it has some, or could not have those either. In that case Nomad lets it
// wait as any other job.
func (p *placer) behind(s cluster.Snapshot, ask cluster.Ask, apart []cluster.Planned, why place.Explanation) string {
	if everyGroup(why) {
		return ""
	}
	if _, with := p.sets.Place(cluster.Idle(s, apart), ask); !everyGroup(with) {
		return ""
	}
	var gangs []string
	for i := range apart {
		gangs = append(gangs, fmt.Sprintf("gang %s/%s, which starts by %s", apart[i].Namespace, apart[i].JobID,
			time.UnixMilli(apart[i].StartMS).UTC().Format("2006-01-02 15:04 UTC")))
	}
	return "no GPUs are free for it but those that are set aside for " + strings.Join(gangs, " and ") + ", and it may not be over by then"
}

// everyGroup reports whether every group that asks for GPUs could be placed.
func everyGroup(why place.Explanation) bool {
	return !slices.ContainsFunc(why.Groups, func(g place.GroupExplanation) bool { return g.Candidates == 0 })
}
