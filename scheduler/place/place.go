package place

import (
	"cmp"
	"fmt"
	"slices"

	"github.com/nomad-governor/governor/scheduler/cluster"
)

// pinnedNodesMax bounds the length of the constraint that lists the devices.
const pinnedNodesMax = 64

// Place decides for every group of the ask which GPUs it should get on each
// node that can run it now, and which node is best. A group gets no devices
// pinned, and the explanation says so, when that could not be exact: several
// allocations on one node, system jobs, templates, devices pinned by the user.
func (p *Placer) Place(s cluster.Snapshot, a cluster.Ask) (cluster.Offer, Explanation) {
	return p.Choose(s, a, pinnedNodesMax)
}

// Choose is Place for those who want to know of fewer nodes: the best ones, one at
// least, as many as most. The answer takes less time to make and to send.
func (p *Placer) Choose(s cluster.Snapshot, a cluster.Ask, most int) (cluster.Offer, Explanation) {
	most = max(1, min(most, pinnedNodesMax))
	groups := asking(a)
	why := unpinnable(&a, groups)
	results, inf := p.find(&s, &a, groups, why, most)
	if inf != nil {
		return cluster.Offer{Infeasible: inf}, Explanation{Infeasible: inf.String()}
	}
	return offer(&a, groups, results, why, most)
}

// find finds the candidates of all groups, or says why there can be none.
func (p *Placer) find(s *cluster.Snapshot, a *cluster.Ask, groups []cluster.GroupAsk, why string, most int) ([]result, *cluster.Infeasible) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if why == "" && len(groups) == 1 && a.Loading == nil {
		if r, ok := p.lookUp(s, a, &groups[0], listed(most)); ok {
			return []result{r}, nil
		}
	}
	return p.compareAll(s, a, groups, why)
}

// compareAll is find by looking at every node.
func (p *Placer) compareAll(s *cluster.Snapshot, a *cluster.Ask, groups []cluster.GroupAsk, why string) ([]result, *cluster.Infeasible) {
	for i := range groups {
		if inf := p.infeasible(s, a, &groups[i]); inf != nil {
			return nil, inf
		}
	}
	best := p.placeAll(s, a, groups, why, false)
	if placedGroups(best) < len(groups) && len(groups) > 1 {
		// Offering every group its set on every node may leave the last ones
		// nothing although a division of the nodes would serve all.
		if divided := p.placeAll(s, a, groups, why, true); placedGroups(divided) > placedGroups(best) {
			best = divided
		}
	}
	return best, nil
}

// asking lists the groups that will run something.
func asking(a cluster.Ask) []cluster.GroupAsk {
	return slices.DeleteFunc(slices.Clone(a.Groups), func(g cluster.GroupAsk) bool {
		return g.Count <= 0 || g.GPUs() == 0
	})
}

// unpinnable says why devices of the job cannot be pinned; empty when they
// can. It holds for the whole job: an unpinned group may take the GPUs that
// another group is pinned to, which would then wait for them.
func unpinnable(a *cluster.Ask, groups []cluster.GroupAsk) string {
	if a.Template {
		return "every launch of a periodic or parameterized job copies the constraints, so the launches would wait for the same GPUs"
	}
	if a.Type == "system" || a.Type == "sysbatch" {
		return "a " + a.Type + " job runs on every node"
	}
	for i := range groups {
		g := &groups[i]
		if slices.ContainsFunc(g.Devices, func(d cluster.DeviceAsk) bool { return d.PinnedByUser() }) {
			return fmt.Sprintf("group %q names its devices itself", g.Name)
		}
		if g.Allocations() > 1 && !g.DistinctHosts {
			return fmt.Sprintf("group %q runs %d allocations, and one constraint cannot give each its own GPUs (distinct_hosts or one group for each would)",
				g.Name, g.Allocations())
		}
	}
	return ""
}

// result is what was found for one group.
type result struct {
	// candidates, the best first: all of them, or as many as are listed.
	candidates []candidate
	// count is how many there are, uncertain whether of one of them a constraint could
	// not be evaluated.
	count     int
	uncertain bool
	rejected  map[string]tally
}

func placedGroups(results []result) int {
	count := 0
	for _, r := range results {
		if len(r.candidates) > 0 {
			count++
		}
	}
	return count
}

// placeAll finds the candidates of all groups, those with most GPUs first, so
// that the sets of different groups are disjoint on every node. With divide,
// each group gets only the nodes that it needs.
func (p *Placer) placeAll(s *cluster.Snapshot, a *cluster.Ask, groups []cluster.GroupAsk, why string, divide bool) []result {
	order := make([]int, len(groups))
	for i := range order {
		order[i] = i
	}
	slices.SortStableFunc(order, func(i, j int) int { return cmp.Compare(groups[j].GPUs(), groups[i].GPUs()) })
	given := taken{}
	results := make([]result, len(groups))
	for _, i := range order {
		r := p.placeGroup(s, a, &groups[i], given)
		if divide && len(r.candidates) > groups[i].Allocations() {
			r.count = groups[i].Allocations()
			r.candidates = r.candidates[:r.count]
		}
		if why == "" {
			for j := range r.candidates {
				given.add(&r.candidates[j])
			}
		}
		results[i] = r
	}
	return results
}

func (p *Placer) placeGroup(s *cluster.Snapshot, a *cluster.Ask, g *cluster.GroupAsk, given taken) result {
	r := result{}
	rejected := map[string][]string{}
	for i := range s.Nodes {
		n := &s.Nodes[i]
		reason, uncertain := unsuitable(n, a, g)
		if reason == "" {
			c, ok := p.evaluate(n, a, g, given)
			if ok {
				c.loading, c.weighs = a.Loading[n.ID], a.Loading != nil
				r.uncertain = r.uncertain || uncertain
				r.candidates = append(r.candidates, c)
				continue
			}
			reason = shortage(n, a, g)
		}
		rejected[reason] = append(rejected[reason], n.Name)
	}
	r.rejected = tallies(rejected)
	sortCandidates(r.candidates)
	r.count = len(r.candidates)
	return r
}

// tallies counts the nodes of each reason.
func tallies(rejected map[string][]string) map[string]tally {
	out := make(map[string]tally, len(rejected))
	for reason, nodes := range rejected {
		slices.Sort(nodes)
		out[reason] = tally{count: len(nodes), first: slices.Clone(nodes[:min(len(nodes), shown)])}
	}
	return out
}

// shortage says why a suitable node cannot serve the devices.
func shortage(n *cluster.Node, a *cluster.Ask, g *cluster.GroupAsk) string {
	for i := range g.Devices {
		d := &g.Devices[i]
		groups := matching(n, d)
		if len(groups) == 0 {
			return notAccepted(d)
		}
		most := -1
		all := 0
		for _, at := range groups {
			mask := freeMasks(n, func(d *cluster.Device) bool { return usable(d, a, g) })[at]
			if free := n.Groups[at].Room(mask); free > most {
				most, all = free, n.Groups[at].Room(n.Groups[at].All())
			}
		}
		if most < d.Count {
			return tooFew(most, all)
		}
	}
	return "too few free GPUs for all tasks and groups of the job"
}

func notAccepted(d *cluster.DeviceAsk) string { return "no " + d.Name + " that the job accepts" }

func tooFew(free, all int) string { return fmt.Sprintf("%d of %d GPUs free", free, all) }

// infeasible reports whether no node that the job may use has enough devices,
// busy or not, healthy or not, ready or not.
func (p *Placer) infeasible(s *cluster.Snapshot, a *cluster.Ask, g *cluster.GroupAsk) *cluster.Infeasible {
	order := specificFirst(g.Devices)
	inf := cluster.Infeasible{Group: g.Name, Count: g.GPUs()}
	for i := range s.Nodes {
		n := &s.Nodes[i]
		for j := range n.Groups {
			inf.Names = append(inf.Names, n.Groups[j].Name())
		}
		if !n.InDatacenter(a.Datacenters) || !n.InPool(a.Pool) {
			continue
		}
		free := freeMasks(n, func(*cluster.Device) bool { return true })
		if _, outcome := p.assign(n, g.Devices, order, free); outcome != cannotServe {
			return nil
		}
	}
	slices.Sort(inf.Names)
	inf.Names = slices.Compact(inf.Names)
	blame(&inf, s, a, g)
	return &inf
}

// blame names the first device block that no node can serve alone, or else
// the group as a whole, and the largest node for it.
func blame(inf *cluster.Infeasible, s *cluster.Snapshot, a *cluster.Ask, g *cluster.GroupAsk) {
	for i := range g.Devices {
		d := &g.Devices[i]
		node, count := largest(s, a, g.Devices[i:i+1])
		if count < d.Count {
			inf.Task, inf.Device, inf.Count = d.Task, d.Name, d.Count
			inf.LargestNode, inf.LargestCount = node, count
			return
		}
	}
	inf.LargestNode, inf.LargestCount = largest(s, a, g.Devices)
}

// largest finds the node with the most devices for the asks, of shares the most GPUs. One
// ask is served from one device group, several may add up.
func largest(s *cluster.Snapshot, a *cluster.Ask, asks []cluster.DeviceAsk) (name string, count int) {
	for i := range s.Nodes {
		n := &s.Nodes[i]
		if !n.InDatacenter(a.Datacenters) || !n.InPool(a.Pool) {
			continue
		}
		usable := map[int]int{}
		for j := range asks {
			for _, group := range matching(n, &asks[j]) {
				usable[group] = n.Groups[group].Room(n.Groups[group].All())
			}
		}
		have := 0
		for _, devices := range usable {
			if len(asks) == 1 {
				have = max(have, devices)
			} else {
				have += devices
			}
		}
		if have > count || have == count && have > 0 && n.Name < name {
			name, count = n.Name, have
		}
	}
	return name, count
}
