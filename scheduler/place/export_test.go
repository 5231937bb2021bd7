package place

import "github.com/nomad-governor/governor/scheduler/cluster"

// CompareAll is Choose without the index.
func (p *Placer) CompareAll(s cluster.Snapshot, a cluster.Ask, most int) (cluster.Offer, Explanation) {
	p.mu.Lock()
	defer p.mu.Unlock()
	groups := asking(a)
	return p.compareAll(&s, &a, groups, unpinnable(&a, groups), most)
}
