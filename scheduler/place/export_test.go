package place

import "github.com/nomad-governor/governor/scheduler/cluster"

// CompareAll is Choose without the index.
func (p *Placer) CompareAll(s cluster.Snapshot, a cluster.Ask, most int) (cluster.Offer, Explanation) {
	p.mu.Lock()
	defer p.mu.Unlock()
	groups := asking(a)
	why := unpinnable(&a, groups)
	results, inf := p.compareAll(&s, &a, groups, why)
	if inf != nil {
		return cluster.Offer{Infeasible: inf}, Explanation{Infeasible: inf.String()}
	}
	return offer(&a, groups, results, why, most)
}

// After is after for tests.
var After = after
