package main

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/nomad-governor/governor/hcl/agentconfig"
	"github.com/nomad-governor/governor/quotaagent/admission"
	"github.com/nomad-governor/governor/quotaagent/agent"
	"github.com/nomad-governor/governor/quotaagent/gate"
	"github.com/nomad-governor/governor/quotaagent/jobspec"
	"github.com/nomad-governor/governor/scheduler/cluster"
	"github.com/nomad-governor/governor/scheduler/nomadstate"
	"github.com/nomad-governor/governor/scheduler/place"
	"github.com/nomad-governor/governor/scheduler/rewrite"
)

// spareFor is how long the GPUs of an offer are spared for its job: Nomad
// places a registered job within a second or two, or not at all.
const spareFor = 10 * time.Second

// planAge is how old what a plan is told of the cluster may be. For what commits it is
// read after it was submitted.
const planAge = time.Second

// lookAge is the same for those who only want to look.
const lookAge = 2 * time.Second

// placer joins the placement service to the quota agent: it is the only place
// where the two meet.
type placer struct {
	state    *nomadstate.Shared
	sets     *place.Placer
	spared   *cluster.Reservations
	aside    cluster.SetAside
	deciding sync.Mutex // held from reading what is spared to sparing more
	now      func() time.Time
	// mode of jobs that do not say how they are placed, and in whose budgets nothing is
	// said of it, where pools has none for their node pool.
	mode     string
	pools    map[string]string
	assets   *assets
	allowAny bool // let jobs through that no node could serve now
}

func newPlacer(state *nomadstate.Reader, store records, now func() time.Time, how agentconfig.Placement, allowInfeasible bool) *placer {
	return &placer{mode: how.Mode, pools: how.Pools(), state: nomadstate.NewShared(state.WithFabric(nomadstate.Fabric{Rack: how.Rack, Block: how.Block}), now), sets: place.New(), spared: cluster.NewReservations(spareFor),
		assets: newAssets(store, now, how), now: now, allowAny: allowInfeasible}
}

// follow follows what the cluster is until the function that it returns is called.
func (p *placer) follow(ctx context.Context) (stop func()) {
	ctx, cancel := context.WithCancel(ctx)
	var following sync.WaitGroup
	following.Go(func() { p.state.Follow(ctx) })
	return func() {
		cancel()
		following.Wait()
	}
}

// Prepare implements gate.Preparer.
func (p *placer) Prepare() { p.state.Begin() }

// snapshot is the cluster as it must be known for a submission: what commits is placed by
// what was read after it came.
func (p *placer) snapshot(ctx context.Context, s gate.Submission, how agent.Placing) (cluster.Snapshot, error) {
	if !how.Commit {
		return p.state.Snapshot(ctx, planAge)
	}
	if came := p.now().Sub(s.Since); came >= 0 && came <= planAge {
		return p.state.SnapshotSince(ctx, s.Since)
	}
	return p.state.Snapshot(ctx, 0)
}

// Place implements agent.Placer.
func (p *placer) Place(ctx context.Context, s gate.Submission, how agent.Placing) (agent.Placement, error) {
	snapshot, err := p.snapshot(ctx, s, how)
	if err != nil {
		return agent.Placement{}, fmt.Errorf("read cluster: %w", err)
	}
	ask := rewrite.AskOf(s.Job)
	ask.Namespace, ask.JobID = s.Ask.Namespace, s.Ask.JobID
	running := snapshot.Holds(ask.Namespace, ask.JobID)
	out := agent.Placement{Release: func() {}}
	if ask.Loading, out.Unclear, err = p.assets.loading(ctx, s.Ask.Meta, snapshot); err != nil {
		return out, err
	}
	if out.Unclear != "" {
		out.Notice = "governor: placement: not placed: " + out.Unclear
		return out, nil
	}
	if how.Commit {
		// What is decided about GPUs is reserved before anybody else decides.
		p.deciding.Lock()
		defer p.deciding.Unlock()
	}
	marked := p.spared.Mark(snapshot, ask.Namespace, ask.JobID, p.now())
	offer, why, reserve := p.beside(marked, ask, how, running, &out)
	if s.Ask.EveryNode() {
		out.Eligible = func(group string) (int, bool) { return p.sets.Eligible(snapshot, ask, group) }
	}
	if offer.Infeasible != nil && !p.allowAny {
		out.Infeasible = offer.Infeasible.String()
		out.Account, err = accountOf(s, why)
		return out, err
	}
	offer, again := p.moderate(s, how, offer, &why)
	if out.Account, err = accountOf(s, why); err != nil {
		return agent.Placement{}, err
	}
	patch := rewrite.Rewrite(rewrite.Input{Submitted: s.Job, Stored: s.Stored, StoredRunning: running, Offer: offer, Again: again})
	if s.KeepsResources {
		for i := range patch.Groups {
			patch.Groups[i].Devices = nil
		}
	}
	out.Patch = convert(patch)
	out.Offered = offered(offer, patch, snapshot)
	out.Notice, out.Loads = notice(patch, why), loads(why.Without(patch.Kept))
	offer = offer.Without(patch.Kept)
	if len(patch.Kept) > 0 && len(offer.Groups) == 0 {
		return out, nil // nothing new was offered: the record of the old offer stays
	}
	if !how.Commit {
		return out, nil // nobody keeps what is only looked at
	}
	if out.Record, err = json.Marshal(record{ask.Namespace, ask.JobID, offer}); err != nil {
		return agent.Placement{}, fmt.Errorf("encode offer: %w", err)
	}
	if out.Waits == "" {
		if !reserve.Gang {
			reserve = offer
		}
		p.spared.Reserve(ask, reserve, p.now())
		out.Release = func() { p.spared.Release(ask.Namespace, ask.JobID) }
	}
	return out, nil
}

// loads is how long the groups of a job load state before they start, where they would
// run first.
func loads(why place.Explanation) map[string]time.Duration {
	out := map[string]time.Duration{}
	for _, g := range why.Groups {
		if len(g.Choices) > 0 && g.Choices[0].LoadsMS > 0 {
			out[g.Group] = time.Duration(g.Choices[0].LoadsMS) * time.Millisecond
		}
	}
	return out
}

// accountOf is the explanation as JSON, for a submission that asks for it.
func accountOf(s gate.Submission, why place.Explanation) (json.RawMessage, error) {
	if !s.Explain {
		return nil, nil
	}
	raw, err := json.Marshal(why)
	if err != nil {
		return nil, fmt.Errorf("encode explanation: %w", err)
	}
	return raw, nil
}

// modeOf is how a job is placed, and who says so: its author, else its budget, else what
// is configured for its node pool, else for the agent.
func (p *placer) modeOf(s gate.Submission, how agent.Placing) (mode, by string) {
	if said, _ := admission.PlacementMode(s.Ask); said != "" { // a wrong one is refused
		return said, "the job's meta"
	}
	if how.Mode != "" {
		return how.Mode, "budget " + how.Budget
	}
	pool := "default"
	if s.Job != nil && s.Job.NodePool != nil {
		pool = cmp.Or(*s.Job.NodePool, pool)
	}
	if mode := p.pools[pool]; mode != "" {
		return mode, "the agent's configuration for node pool " + pool
	}
	return p.mode, "the agent's configuration"
}

// offer places a job. reserve is what to spare for a gang; the offer says it for
// others. A gang that runs has its GPUs: what changes of it is placed like other jobs.
func (p *placer) offer(s cluster.Snapshot, ask cluster.Ask, running bool, out *agent.Placement) (offer cluster.Offer, why place.Explanation, reserve cluster.Offer) {
	if !ask.Gang || running {
		offer, why = p.sets.Place(s, ask)
		return offer, why, reserve
	}
	offer, why, gang := p.sets.PlaceGang(s, ask)
	out.Waits = gang.Waits
	if offer.Infeasible != nil && p.allowAny {
		out.Waits = offer.Infeasible.String()
	}
	return offer, why, gang.Reserve
}

// moderate takes from an offer what the mode of a job's placement does not want. A job
// whose author changes the mode gets all of it anew: the changed meta restarts it anyway.
func (p *placer) moderate(s gate.Submission, how agent.Placing, offer cluster.Offer, why *place.Explanation) (_ cluster.Offer, again []string) {
	mode, by := p.modeOf(s, how)
	changed := s.Stored != nil && s.Stored.Meta[admission.PlacementMeta] != s.Ask.Meta[admission.PlacementMeta]
	if mode == admission.PlacementRequire && !changed {
		return offer, nil
	}
	offer.Groups = slices.Clone(offer.Groups)
	for i := range offer.Groups {
		g := &offer.Groups[i]
		if changed {
			again = append(again, g.Group)
		}
		if mode == admission.PlacementRequire {
			continue
		}
		g.Nodes = nil
		if mode == admission.PlacementOff {
			g.Preferred = ""
		}
		at := slices.IndexFunc(why.Groups, func(e place.GroupExplanation) bool { return e.Group == g.Group })
		if at < 0 {
			continue
		}
		if mode == admission.PlacementOff {
			why.Groups[at].Preferred = ""
		}
		if why.Groups[at].Unpinned == "" {
			why.Groups[at].Unpinned = fmt.Sprintf("the mode of placement is %q by %s", mode, by)
		}
	}
	return offer, again
}

// notice tells the author where the job will run and why.
func notice(patch rewrite.Patch, why place.Explanation) string {
	var texts []string
	if text := why.Without(patch.Kept).String(); text != "" {
		texts = append(texts, text)
	}
	if len(patch.Kept) > 0 {
		texts = append(texts, fmt.Sprintf("unchanged for %s: what was registered before stays", strings.Join(patch.Kept, ", ")))
	}
	for _, g := range patch.Groups {
		if g.Warning != "" {
			texts = append(texts, fmt.Sprintf("group %q: %s", g.Group, g.Warning))
		}
	}
	if len(texts) == 0 {
		return ""
	}
	return "governor: placement: " + strings.Join(texts, "\n")
}

// record is what the ledger keeps of an offer until its allocations are there.
type record struct {
	Namespace string
	JobID     string
	Offer     cluster.Offer
}

// Verify implements agent.Placer. An allocation that is there needs no GPUs
// spared for it any more.
func (p *placer) Verify(kept json.RawMessage, group, node string, byTask map[string][]string) (string, bool) {
	var r record
	if json.Unmarshal(kept, &r) != nil {
		return "", false
	}
	if found := r.Offer.Find(group); found == nil || len(found.Nodes) == 0 {
		return "", false
	}
	var held []string
	for _, ids := range byTask {
		held = append(held, ids...)
	}
	p.spared.Placed(r.Namespace, r.JobID, group, node, held)
	p.state.Expire() // what was read before shows these GPUs free
	v := cluster.Verify(r.Offer, cluster.Allocation{Group: group, NodeID: node, Devices: byTask})
	return strings.Join(v.Mismatches, "; "), true
}

// offered tells which device names a block can end up with: those of its pin.
// A block without one goes wherever Nomad finds room, so nothing is known of it.
func offered(offer cluster.Offer, patch rewrite.Patch, snapshot cluster.Snapshot) func(string, jobspec.DeviceAsk) []string {
	return func(group string, d jobspec.DeviceAsk) []string {
		at := slices.IndexFunc(patch.Groups, func(g rewrite.GroupPatch) bool {
			return g.Group == group && slices.ContainsFunc(g.Devices, func(p rewrite.DevicePatch) bool { return p.Task == d.Task && p.Index == d.Index })
		})
		if at < 0 {
			return nil
		}
		if slices.Contains(patch.Kept, group) {
			return pinnedNames(patch.Groups[at], d, snapshot)
		}
		var names []string
		if found := offer.Find(group); found != nil {
			for _, node := range found.Nodes {
				for _, set := range node.Sets {
					if set.Task == d.Task && set.Index == d.Index {
						names = append(names, set.Device)
					}
				}
			}
		}
		slices.Sort(names)
		return slices.Compact(names)
	}
}

func pinnedNames(g rewrite.GroupPatch, d jobspec.DeviceAsk, snapshot cluster.Snapshot) []string {
	var names []string
	for _, pin := range g.Devices {
		if pin.Task != d.Task || pin.Index != d.Index {
			continue
		}
		for _, c := range pin.Constraints {
			ids := strings.Split(c.RTarget, ",")
			for i := range snapshot.Nodes {
				for j := range snapshot.Nodes[i].Groups {
					group := &snapshot.Nodes[i].Groups[j]
					if slices.ContainsFunc(group.Devices, func(dev cluster.Device) bool { return slices.Contains(ids, dev.ID) }) {
						names = append(names, group.Name())
					}
				}
			}
		}
	}
	slices.Sort(names)
	return slices.Compact(names)
}

// convert translates the placement service's patch into the gate's.
func convert(patch rewrite.Patch) jobspec.Patch {
	var out jobspec.Patch
	for _, g := range patch.Groups {
		group := jobspec.GroupPatch{Group: g.Group, Constraints: constraints(g.Constraints)}
		for _, a := range g.Affinities {
			group.Affinities = append(group.Affinities, jobspec.Affinity{LTarget: a.LTarget, RTarget: a.RTarget, Operand: a.Operand, Weight: a.Weight})
		}
		for _, d := range g.Devices {
			group.Devices = append(group.Devices, jobspec.DevicePatch{Task: d.Task, Index: d.Index, Constraints: constraints(d.Constraints)})
		}
		out.Groups = append(out.Groups, group)
	}
	return out
}

func constraints(in []cluster.Constraint) []jobspec.Constraint {
	var out []jobspec.Constraint
	for _, c := range in {
		out = append(out, jobspec.Constraint{LTarget: c.LTarget, RTarget: c.RTarget, Operand: c.Operand})
	}
	return out
}
