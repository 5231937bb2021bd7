package place

import (
	"math/bits"

	"github.com/nomad-governor/governor/scheduler/cluster"
	"github.com/nomad-governor/governor/scheduler/sets"
)

// offer turns the candidates into the offer, of so many nodes at most, and its
// explanation.
func offer(a *cluster.Ask, groups []cluster.GroupAsk, results []result, why string, most int) (cluster.Offer, Explanation) {
	out := cluster.Offer{Groups: make([]cluster.GroupOffer, len(groups))}
	explanation := Explanation{Groups: make([]GroupExplanation, len(groups))}
	for i := range groups {
		g, r := &groups[i], &results[i]
		unpinned := why
		if unpinned == "" {
			unpinned = unpinnedNow(g, r)
		}
		o := cluster.GroupOffer{Group: g.Name, Preferred: preferred(a, g, r.candidates, unpinned == "")}
		if unpinned == "" {
			for j := range min(len(r.candidates), most) {
				o.Nodes = append(o.Nodes, nodeOffer(g, &r.candidates[j]))
			}
		}
		out.Groups[i] = o
		explanation.Groups[i] = explainGroup(g, r, &o, unpinned, listed(most))
	}
	return out, explanation
}

// listed is how many candidates are listed where so many nodes are offered: the
// explanation names some alternatives.
func listed(most int) int { return max(most, 1+shown) }

// unpinnedNow says why this group cannot be pinned in the state of the
// cluster; empty when it can.
func unpinnedNow(g *cluster.GroupAsk, r *result) string {
	switch {
	case r.count == 0:
		return "no node has the GPUs free now; Nomad queues the job until they are"
	case r.count < g.Allocations():
		return "fewer nodes than allocations are free now; Nomad queues the rest"
	case r.count > pinnedNodesMax && r.uncertain:
		return "too many nodes to list, and some constraint of the job only Nomad can evaluate"
	}
	return ""
}

// preferred is the node to attract the group to: the best one. A pinned group
// has one even among equally good nodes, so that it is known where it will be and
// the next job can be placed beside it; without pins only a strictly better node
// is worth it. Jobs that run on every node, templates, and groups that
// spread over nodes have none.
func preferred(a *cluster.Ask, g *cluster.GroupAsk, cs []candidate, pinned bool) string {
	spreads := g.DistinctHosts && g.Allocations() > 1
	if len(cs) < 2 || a.Template || a.Type == "system" || a.Type == "sysbatch" || spreads {
		return ""
	}
	if !pinned && cs[0].equal(&cs[1]) {
		return ""
	}
	return cs[0].node.ID
}

func nodeOffer(g *cluster.GroupAsk, c *candidate) cluster.NodeOffer {
	n := cluster.NodeOffer{NodeID: c.node.ID, NodeName: c.node.Name}
	for i, ch := range c.choices {
		group := &c.node.Groups[ch.group]
		set := cluster.Set{Task: g.Devices[i].Task, Index: g.Devices[i].Index, Device: group.Name()}
		for _, at := range sets.Members(ch.set) {
			set.IDs = append(set.IDs, group.Devices[at].ID)
		}
		n.Sets = append(n.Sets, set)
	}
	return n
}

// chooseCount says how many sets of k there are among n: the binomial coefficient.
func chooseCount(n, k int) int64 {
	count := int64(1)
	for i := range min(k, n-k) {
		hi, lo := bits.Mul64(uint64(count), uint64(n-i))
		quotient, _ := bits.Div64(hi, lo, uint64(i+1))
		count = int64(quotient)
	}
	return count
}
