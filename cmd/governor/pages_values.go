package main

import (
	"time"

	"github.com/nomad-governor/governor/quotaagent/agent"
	"github.com/nomad-governor/governor/quotaagent/web"
	"github.com/nomad-governor/governor/scheduler/clustermap"
)

func mapped[A, B any](all []A, of func(A) B) []B {
	out := make([]B, len(all))
	for i := range all {
		out[i] = of(all[i])
	}
	return out
}

func overviewOf(s agent.Status, waiting agent.QueueView) *web.Overview {
	o := &web.Overview{Time: s.Time, Currency: s.Policy.Currency, Revision: s.Policy.Revision, Enforcement: s.Policy.Enforcement,
		Author: s.Policy.Author, Commit: s.Policy.Commit, Since: s.Policy.Since, Broken: s.Policy.Broken != "", Observed: s.Observed,
		Budgets: mapped(s.Budgets, budgetOf), Jobs: mapped(s.Holds, jobOf), Waiting: mapped(waiting.Jobs, waitingOf)}
	for _, u := range s.Ungoverned {
		o.Strays = append(o.Strays, web.Stray{Namespace: u.Namespace, ID: u.JobID, Alloc: u.Alloc, Node: u.Node, GPUs: u.GPUs})
	}
	for _, i := range s.Idle {
		o.Idle = append(o.Idle, web.Idle{Namespace: i.Namespace, ID: i.JobID, Budget: i.Budget, Alloc: i.Alloc, Node: i.Node, GPUs: i.GPUs, Since: i.Since})
	}
	for _, r := range s.Rogue {
		o.Rogue = append(o.Rogue, web.Rogue(r))
	}
	for _, c := range s.Capacity {
		o.Capacity = append(o.Capacity, web.Capacity(c))
	}
	if b := s.Bypasses; b != nil {
		o.Ways = &web.Ways{Open: b.Open, Codes: b.Codes, Checked: b.Checked}
	}
	return o
}

func budgetOf(b agent.BudgetStatus) web.Budget {
	return web.Budget{Path: b.Path, Owner: b.Owner, Queued: b.Queued, Limits: mapped(b.Limits, limitOf)}
}

func limitOf(l agent.LimitStatus) web.Limit {
	return web.Limit{Window: l.Window, Start: l.Start, End: l.End, Dimension: l.Dimension, Limit: l.Limit, Unlimited: l.Unlimited, Posted: l.Posted, Held: l.Held,
		Available: l.Available, Source: l.Source, Health: l.Health}
}

func jobOf(h agent.HoldStatus) web.Job {
	j := web.Job{HoldID: h.ID, Namespace: h.Namespace, ID: h.JobID, Budget: h.Budget, State: h.State, Created: h.Created, Submitter: h.Submitter, GPUs: h.GPUs,
		Allocs: len(h.Allocations), Estimate: h.Estimate, Posted: h.Posted, Held: h.Held}
	for _, v := range h.Placement {
		j.Placement = append(j.Placement, web.Placed{Alloc: v.Alloc, Node: v.Node, IDs: v.IDs, Difference: v.Difference})
	}
	if e := h.Ending; e != nil {
		j.Ending = &web.Ending{Action: e.Action, Cause: e.Cause, Budget: e.Budget, Why: e.Why, Signal: e.Signal, Signalled: e.Signalled, Stop: e.Stop, Ordered: e.Ordered}
	}
	return j
}

func waitingOf(q agent.QueuedView) web.Waiting {
	return web.Waiting{Namespace: q.Namespace, ID: q.JobID, Budget: q.Budget, State: q.State, Position: q.Position, Of: q.Of, Overall: q.Overall, Aged: q.Aged,
		Need: q.Need, Estimate: q.Estimate, GPUs: q.GPUs, Submitter: q.Submitter, Since: q.Since, Until: q.Until, Expected: q.Expected, Reason: q.Reason, Detail: q.Detail}
}

func jobDetailOf(now agent.JobNow) web.JobDetail {
	d := web.JobDetail{State: now.State, Budget: now.Budget, Reason: now.Reason, Text: now.Text, Asked: now.Asked, Lines: now.Lines, Decisions: mapped(now.Decisions, decisionOf), Incomplete: now.Incomplete}
	if now.Hold != nil {
		j := jobOf(*now.Hold)
		d.Job = &j
	}
	if now.Queued != nil {
		w := waitingOf(*now.Queued)
		d.Waiting = &w
	}
	for _, a := range now.Allocations {
		d.Allocations = append(d.Allocations, web.Allocation{ID: a.ID, Name: a.Name, Group: a.Group, Node: a.Node, Start: a.Start, Posted: a.Posted, End: a.End,
			GPUs: mapped(a.GPUs, func(g agent.GPUNow) web.UsedGPU { return web.UsedGPU(g) })})
	}
	return d
}

func decisionOf(d agent.DecisionRow) web.Decision {
	return web.Decision{Number: d.ID, AtMS: d.AtMS, Namespace: d.Namespace, ID: d.JobID, Outcome: d.Outcome, Reason: d.Reason, Budget: d.Budget, Submitter: d.Submitter,
		GPUs: d.GPUs, Plan: d.Plan, Shadow: d.Shadow, Text: d.Text}
}

func overrideOf(o agent.OverrideStatus) web.Override {
	out := web.Override{ID: o.ID, Budget: o.Budget, Rule: o.Rule, State: string(o.State), Reason: o.Reason, Requester: o.Accessor, Adds: o.Adds}
	if o.FromMS != 0 {
		out.From, out.Until = time.UnixMilli(o.FromMS), time.UnixMilli(o.UntilMS)
	}
	return out
}

func policyOf(s *agent.PolicyState) web.Policy {
	now := s.Status()
	p := web.Policy{Revision: now.Revision, Enforcement: now.Enforcement, Author: now.Author, Commit: now.Commit, Since: now.Since, Files: s.Files, Broken: s.BrokenFiles}
	for _, f := range s.Faults {
		p.Faults = append(p.Faults, web.Fault(f))
	}
	return p
}

func revisionOf(e agent.HistoryEntry) web.Revision {
	return web.Revision{Nr: e.Nr, Digest: e.Digest, Author: e.Author, Commit: e.Commit, Time: e.Time, Changes: e.Changes, Restored: e.Restored}
}

func pageCluster(m clustermap.Map, used map[string]int64) *web.Cluster {
	c := &web.Cluster{Warnings: m.Warnings}
	for _, n := range m.Nodes {
		node := web.Node{ID: n.ID, Name: n.Name, Datacenter: n.Datacenter, Pool: n.Pool, Class: n.Class, Ready: n.Ready}
		for _, g := range n.Groups {
			group := web.Group{Device: g.Device, Free: g.Free, Islands: g.Islands, Links: g.Links, Topology: g.Topology,
				Sets: mapped(g.Sets, func(s clustermap.Set) web.Set { return web.Set(s) }),
				NICs: mapped(g.NICs, func(n clustermap.NIC) web.NIC { return web.NIC(n) })}
			for _, gpu := range g.GPUs {
				percent, known := used[gpu.ID]
				if !known {
					percent = -1
				}
				group.GPUs = append(group.GPUs, web.GPU{Index: gpu.Index, ID: gpu.ID, PCIBusID: gpu.PCIBusID, NUMANode: gpu.NUMANode, State: string(gpu.State),
					Alloc: gpu.Alloc, Namespace: gpu.Namespace, Job: gpu.JobID, Percent: percent})
			}
			node.Groups = append(node.Groups, group)
		}
		c.Nodes = append(c.Nodes, node)
	}
	for _, r := range m.Room {
		c.Room = append(c.Room, web.Room{Device: r.Device, Total: r.Total, Free: r.Free, Fits: mapped(r.Fits, func(f clustermap.Fits) web.Fits { return web.Fits(f) })})
	}
	return c
}
