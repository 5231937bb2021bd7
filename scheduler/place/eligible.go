package place

import "github.com/nomad-governor/governor/scheduler/cluster"

// Eligible counts the nodes on which a group of a system or sysbatch job would run
// now: those that are ready, that the job may use, and that have enough devices,
// busy or not. It is false when the job has no such group with devices.
func (p *Placer) Eligible(s cluster.Snapshot, a cluster.Ask, group string) (nodes int, known bool) {
	p.mu.Lock()
	defer p.mu.Unlock()

	for _, g := range asking(a) {
		if g.Name != group {
			continue
		}
		roomy := g
		roomy.CPU, roomy.MemoryMiB = 0, 0 // what is taken now may be free later
		order := specificFirst(g.Devices)
		for i := range s.Nodes {
			n := &s.Nodes[i]
			if reason, _ := unsuitable(n, &a, &roomy); reason != "" {
				continue
			}
			free := freeMasks(n, func(*cluster.Device) bool { return true })
			if _, outcome := p.assign(n, g.Devices, order, free); outcome != cannotServe {
				nodes++
			}
		}
		return nodes, true
	}
	return 0, false
}
