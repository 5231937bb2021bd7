package nomadevents

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/hashicorp/nomad/api"
	"github.com/nomad-governor/governor/internal/gpu"
)

// Node is a client with GPUs.
type Node struct {
	ID, Name, Pool string
	// Ready says that work can be placed on it now.
	Ready bool
	// Devices are the healthy GPUs by full device name.
	Devices []Devices
}

// Gauge is what a client's statistics say about one device.
type Gauge struct {
	ID string
	// EnergyMJ is the energy counter in millijoules; it is known if Counted. Parent
	// is the whole GPU that it belongs to, where the device is a part of one.
	EnergyMJ int64
	Counted  bool
	Parent   string
	// Percent is the share of time in which a kernel ran; known if Watched.
	Percent int64
	Watched bool
	// Rogue says which processes use the device without holding it; "" for none.
	Rogue string
}

// Stats are the statistics of one client's GPUs.
type Stats struct {
	// Uptime is how long ago the host was started.
	Uptime time.Duration
	Gauges []Gauge
}

// Nodes lists the clients that have GPUs.
func (c *Client) Nodes(ctx context.Context) ([]Node, error) {
	stubs, _, err := c.nomad.Nodes().List((&api.QueryOptions{Params: map[string]string{"resources": "true"}}).WithContext(ctx))
	if err != nil {
		return nil, fmt.Errorf("list nodes: %w", err)
	}
	var out []Node
	for _, s := range stubs {
		n := Node{ID: s.ID, Name: s.Name, Pool: s.NodePool, Ready: s.Status == api.NodeStatusReady && s.SchedulingEligibility == api.NodeSchedulingEligible && !s.Drain}
		if s.NodeResources == nil {
			continue
		}
		for _, group := range s.NodeResources.Devices {
			if !gpu.IsType(group.Type) {
				continue
			}
			d := Devices{Name: gpu.DeviceName(group.Vendor, group.Type, group.Name)}
			for _, one := range group.Instances {
				if one.Healthy {
					d.IDs = append(d.IDs, one.ID)
				}
			}
			slices.Sort(d.IDs)
			n.Devices = append(n.Devices, d)
		}
		if len(n.Devices) > 0 {
			out = append(out, n)
		}
	}
	slices.SortFunc(out, func(a, b Node) int { return strings.Compare(a.ID, b.ID) })
	return out, nil
}

// NodeStats reads the statistics of one client's GPUs, from the client itself.
func (c *Client) NodeStats(ctx context.Context, nodeID string) (Stats, error) {
	host, err := c.nomad.Nodes().Stats(nodeID, (&api.QueryOptions{}).WithContext(ctx))
	if err != nil {
		return Stats{}, fmt.Errorf("read the statistics of node %s: %w", nodeID, err)
	}
	out := Stats{Uptime: time.Duration(host.Uptime) * time.Second}
	for _, group := range host.DeviceStats {
		if group == nil || !gpu.IsType(group.Type) {
			continue
		}
		for id, d := range group.InstanceStats {
			if d != nil && d.Stats != nil {
				out.Gauges = append(out.Gauges, gaugeOf(id, d.Stats.Attributes))
			}
		}
	}
	slices.SortFunc(out.Gauges, func(a, b Gauge) int { return strings.Compare(a.ID, b.ID) })
	return out, nil
}

// gaugeOf reads the statistics of the device plugin (docs/device.md). A share has
// the counter of its whole GPU, and an instance has it under another name.
func gaugeOf(id string, stats map[string]*api.StatValue) Gauge {
	g := Gauge{ID: id}
	g.EnergyMJ, g.Counted = number(stats["energy"])
	if whole, _, share := strings.Cut(id, "::"); share {
		g.Parent = whole
	}
	if mj, ok := number(stats["mig.parent.energy"]); ok && !g.Counted {
		g.EnergyMJ, g.Counted = mj, true
		if parent := stats["mig.parent"]; parent != nil && parent.StringVal != nil {
			g.Parent = *parent.StringVal
		}
	}
	g.Percent, g.Watched = number(stats["gpu.utilization"])
	if rogue := stats["processes.rogue"]; rogue != nil && rogue.StringVal != nil {
		g.Rogue = *rogue.StringVal
	}
	return g
}

// number is a statistic as a whole number.
func number(v *api.StatValue) (int64, bool) {
	switch {
	case v == nil:
		return 0, false
	case v.IntNumeratorVal != nil:
		return *v.IntNumeratorVal, true
	case v.FloatNumeratorVal != nil:
		return int64(*v.FloatNumeratorVal), true
	}
	return 0, false
}
