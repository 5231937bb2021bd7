package agent

import (
	"cmp"
	"context"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/nomad-governor/governor/quotaagent/budget"
	"github.com/nomad-governor/governor/quotaagent/ledger"
	"github.com/nomad-governor/governor/quotaagent/metering"
	"github.com/nomad-governor/governor/quotaagent/nomadevents"
)

// nodeReader is what reads the clients with GPUs; *nomadevents.Client is it.
type nodeReader interface {
	Nodes(ctx context.Context) ([]nomadevents.Node, error)
	NodeStats(ctx context.Context, nodeID string) (nomadevents.Stats, error)
}

const (
	// gaugeReaders is how many clients are read at once, gaugeWithin how long one may
	// take to answer: one that does not costs the others nothing.
	gaugeReaders = 16
	gaugeWithin  = 5 * time.Second
	// idlePercent is up to which utilisation a GPU counts as unused.
	idlePercent = 1
)

// gauges is what the statistics of the clients said last: energy counters, and
// since when GPUs are not used. The leader reads them in rounds, beside its other
// work, once in each interval of the meter.
type gauges struct {
	nodes  nodeReader
	now    func() time.Time
	failed func(node string, err error)

	mu sync.Mutex
	// clients with GPUs, as listed last.
	clients []nomadevents.Node
	read    map[string]gaugeAt // by device id
}

// gaugeAt is what is known of one device.
type gaugeAt struct {
	node, nodeName string
	gauge          nomadevents.Gauge
	at             time.Time
	reading        metering.Reading
	// idleSince is the first of the unbroken row of readings in which it was not
	// used; zero if it was used, or that is not known.
	idleSince time.Time
}

// readGauges has the meter read the statistics of clients: for the energy that
// GPUs draw, and to see which are not used. Call it before the agent runs.
func (m *Meter) readGauges(nodes nodeReader) {
	m.gauges = newGauges(nodes, m.now)
	m.gauges.failed = func(node string, err error) { m.logger.Debug("statistics not read", "node", node, "error", err) }
	m.lines = newLines(m, m.gauges)
	m.duties.whileLeading(func(ctx context.Context, _ ledger.Fence) { m.gauges.lead(ctx, m.interval) })
	m.duties.onSnapshot("keep the lines of unused GPUs", m.lines.look)
}

// readings are the energy counters as read last; none where nobody reads them.
func (m *Meter) readings() map[string]metering.Reading {
	if m.gauges == nil {
		return nil
	}
	return m.gauges.readings(m.interval())
}

func newGauges(nodes nodeReader, now func() time.Time) *gauges {
	return &gauges{nodes: nodes, now: now, failed: func(string, error) {}, read: make(map[string]gaugeAt)}
}

// lead reads in rounds until ctx ends.
func (g *gauges) lead(ctx context.Context, interval func() time.Duration) {
	for ctx.Err() == nil {
		g.round(ctx)
		pause(ctx, interval())
	}
}

// round reads all clients once.
func (g *gauges) round(ctx context.Context) {
	clients, err := g.nodes.Nodes(ctx)
	if err != nil {
		g.failed("", err)
		return
	}
	todo := make(chan nomadevents.Node, len(clients))
	for _, n := range clients {
		todo <- n
	}
	close(todo)
	var reading sync.WaitGroup
	for range min(gaugeReaders, len(clients)) {
		reading.Go(func() {
			for n := range todo {
				g.readNode(ctx, n)
			}
		})
	}
	reading.Wait()
	g.mu.Lock()
	defer g.mu.Unlock()
	g.clients = clients
	known := make(map[string]bool, len(clients))
	for _, n := range clients {
		known[n.ID] = true
	}
	maps.DeleteFunc(g.read, func(_ string, r gaugeAt) bool { return !known[r.node] })
}

func (g *gauges) readNode(ctx context.Context, n nomadevents.Node) {
	ctx, cancel := context.WithTimeout(ctx, gaugeWithin)
	defer cancel()
	stats, err := g.nodes.NodeStats(ctx, n.ID)
	if err != nil {
		g.failed(n.Name, err)
		return
	}
	at := g.now()
	boot := int64(0)
	if stats.Uptime > 0 {
		boot = at.Add(-stats.Uptime).UnixMilli()
	}
	parts := make(map[string]int)
	for _, one := range stats.Gauges {
		parts[one.Parent]++
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	for _, one := range stats.Gauges {
		last := g.read[one.ID]
		next := gaugeAt{node: n.ID, nodeName: n.Name, gauge: one, at: at}
		if one.Counted {
			next.reading = metering.Reading{Counter: ledger.Counter{ID: one.ID, MilliJ: one.EnergyMJ, AtMS: at.UnixMilli(), BootMS: boot},
				Parent: one.Parent != "", Siblings: parts[one.Parent]}
			if last.gauge.Counted && last.node == n.ID {
				before := last.reading.Counter
				next.reading.Before = &before
			}
		}
		if one.Watched && one.Percent <= idlePercent {
			next.idleSince = at
			if !last.idleSince.IsZero() && last.node == n.ID {
				next.idleSince = last.idleSince
			}
		}
		g.read[one.ID] = next
	}
}

// fresh is how old a reading may be: two intervals, as for energy.
func fresh(interval time.Duration) time.Duration { return 2*interval + gaugeWithin }

// readings are the energy counters that were read lately.
func (g *gauges) readings(interval time.Duration) map[string]metering.Reading {
	g.mu.Lock()
	defer g.mu.Unlock()
	out := make(map[string]metering.Reading, len(g.read))
	for id, r := range g.read {
		if r.gauge.Counted && g.now().Sub(r.at) <= fresh(interval) {
			out[id] = r.reading
		}
	}
	return out
}

// span is a time during which every reading said the same.
type span struct{ from, to time.Time }

// idle is during what time none of the GPUs of running allocations was used, up to
// the last reading, by allocation. One whose GPUs cannot all be watched is not in it,
// nor one of which no reading was taken since it began: what is not known is no
// accusation.
func (g *gauges) idle(holds []heldAt, interval time.Duration) map[string]span {
	g.mu.Lock()
	defer g.mu.Unlock()
	out := make(map[string]span)
	for _, h := range holds {
		for _, t := range h.Live() {
			all, idle := true, span{from: time.UnixMilli(t.StartMS), to: g.now()}
			for _, id := range idsOf(t) {
				r, known := g.read[id]
				all = all && known && !r.idleSince.IsZero() && g.now().Sub(r.at) <= fresh(interval)
				if r.idleSince.After(idle.from) {
					idle.from = r.idleSince
				}
				if r.at.Before(idle.to) {
					idle.to = r.at
				}
			}
			if all && !idle.to.Before(idle.from) {
				out[t.Alloc] = idle
			}
		}
	}
	return out
}

// idleFor is how long the GPUs of running allocations were not used, for
// enforcement.
func (m *Meter) idleFor(open []heldAt) map[string]time.Duration {
	out := make(map[string]time.Duration)
	for alloc, idle := range m.gauges.idle(open, m.interval()) {
		out[alloc] = idle.to.Sub(idle.from)
	}
	return out
}

// rogues are the devices that processes use which do not hold them.
func (g *gauges) rogues(interval time.Duration) []gaugeAt {
	g.mu.Lock()
	defer g.mu.Unlock()
	var out []gaugeAt
	for _, r := range g.read {
		if r.gauge.Rogue != "" && g.now().Sub(r.at) <= fresh(interval) {
			out = append(out, r)
		}
	}
	slices.SortFunc(out, func(a, b gaugeAt) int {
		return cmp.Or(cmp.Compare(a.nodeName, b.nodeName), cmp.Compare(a.gauge.ID, b.gauge.ID))
	})
	return out
}

// deviceName is the full name of the group that a device is in; "" if it is not
// known.
func (g *gauges) deviceName(id string) string {
	g.mu.Lock()
	defer g.mu.Unlock()
	for _, n := range g.clients {
		for _, d := range n.Devices {
			if slices.Contains(d.IDs, id) {
				return d.Name
			}
		}
	}
	return ""
}

// capacity is how many devices of one class a node pool has, and how many of them
// no allocation has.
type capacity struct {
	pool, class string
	all, free   int
}

// capacities compares the clients with what runs on them. Those that take no work
// have no capacity.
func (g *gauges) capacities(p *budget.Policy, allocations []nomadevents.Allocation) []capacity {
	used := make(map[string]bool)
	for _, a := range allocations {
		for _, id := range a.IDs() {
			used[id] = used[id] || !a.Terminal
		}
	}
	g.mu.Lock()
	clients := g.clients
	g.mu.Unlock()
	sums := make(map[[2]string]*capacity)
	for _, n := range clients {
		if !n.Ready {
			continue
		}
		for _, d := range n.Devices {
			class, ok := p.ClassOf(d.Name)
			if !ok {
				class = unclassified
			}
			key := [2]string{n.Pool, class}
			if sums[key] == nil {
				sums[key] = &capacity{pool: n.Pool, class: class}
			}
			for _, id := range d.IDs {
				sums[key].all++
				if !used[id] {
					sums[key].free++
				}
			}
		}
	}
	out := make([]capacity, 0, len(sums))
	for _, c := range sums {
		out = append(out, *c)
	}
	slices.SortFunc(out, func(a, b capacity) int { return cmp.Or(cmp.Compare(a.pool, b.pool), cmp.Compare(a.class, b.class)) })
	return out
}
