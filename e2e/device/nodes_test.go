package device_test

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/hashicorp/nomad/api"
	"github.com/shoenig/test/must"

	"github.com/nomad-governor/governor/e2e/cluster"
)

// nodes is a cluster whose nodes are followed: every state in which Nomad's
// servers knew a node's devices is kept, however short it was.
type nodes struct {
	*cluster.Cluster

	mu       sync.Mutex
	states   map[string][]state // by the node's name, oldest first
	leaving  []string           // the ids of devices that may leave their node
	restarts map[string]int     // by the node's name
	ended    error              // why nothing is followed any more
}

// state is what Nomad's servers know of one node's devices, in Nomad's order.
type state struct {
	devices []gpuState
	groups  []groupState
}

// gpuState is one device.
type gpuState struct {
	group, id string
	healthy   bool
	// why is the health description.
	why string
}

// groupState is one group of devices: its name, such as
// "nvidia/gpu/NVIDIA L40S", and its attributes as text.
type groupState struct {
	name       string
	attributes map[string]string
}

// follow follows a cluster's nodes until the end of the test.
func follow(t *testing.T, c *cluster.Cluster) *nodes {
	t.Helper()
	n := &nodes{Cluster: c, states: map[string][]state{}, restarts: map[string]int{}}
	client, err := c.API(c.NomadAddr)
	must.NoError(t, err)
	_, meta, err := client.Nodes().List(nil)
	must.NoError(t, err)
	ctx, cancel := context.WithCancel(context.WithoutCancel(t.Context()))
	stream, err := client.EventStream().Stream(ctx, map[api.Topic][]string{api.TopicNode: {"*"}}, meta.LastIndex, nil)
	must.NoError(t, err)
	for _, part := range c.Clients {
		node, _, err := client.Nodes().Info(part.NodeID, nil)
		must.NoError(t, err)
		n.note(node)
	}
	var wg sync.WaitGroup
	wg.Go(func() {
		for events := range stream {
			if events.Err != nil {
				n.end(events.Err)
				return
			}
			for _, event := range events.Events {
				node, err := nodeOf(event)
				if err != nil {
					n.end(err)
					return
				}
				n.note(node)
			}
		}
		n.end(errors.New("the stream of events ended"))
	})
	t.Cleanup(func() {
		cancel()
		wg.Wait()
		client.Close()
	})
	return n
}

func (n *nodes) end(err error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.ended = err
}

// nodeOf is the node that an event tells of. Events carry attributes under
// other names than the rest of the API, which the API's own decoder passes over.
func nodeOf(event api.Event) (*api.Node, error) {
	node, err := event.Node()
	if err != nil {
		return nil, err
	}
	text, err := json.Marshal(event.Payload)
	if err != nil {
		return nil, err
	}
	var payload struct {
		Node struct {
			NodeResources struct {
				Devices []struct {
					Attributes map[string]struct {
						Float  *float64
						Int    *int64
						String *string
						Bool   *bool
						Unit   string
					}
				}
			}
		}
	}
	if err := json.Unmarshal(text, &payload); err != nil {
		return nil, err
	}
	for i, group := range payload.Node.NodeResources.Devices {
		for name, a := range group.Attributes {
			node.NodeResources.Devices[i].Attributes[name] = &api.Attribute{
				FloatVal: a.Float, IntVal: a.Int, StringVal: a.String, BoolVal: a.Bool, Unit: a.Unit,
			}
		}
	}
	return node, nil
}

// note keeps a state that differs from the one before.
func (n *nodes) note(node *api.Node) {
	var next state
	for _, group := range node.NodeResources.Devices {
		g := groupState{group.ID(), map[string]string{}}
		for name, attribute := range group.Attributes {
			g.attributes[name] = attribute.String()
		}
		next.groups = append(next.groups, g)
		for _, d := range group.Instances {
			next.devices = append(next.devices, gpuState{g.name, d.ID, d.Healthy, d.HealthDescription})
		}
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	if all := n.states[node.Name]; len(all) == 0 || !same(all[len(all)-1], next) {
		n.states[node.Name] = append(all, next)
	}
}

func same(a, b state) bool {
	return slices.Equal(a.devices, b.devices) && slices.EqualFunc(a.groups, b.groups, func(a, b groupState) bool {
		return a.name == b.name && maps.Equal(a.attributes, b.attributes)
	})
}

// history is every state of a node since mark, an earlier length of it.
func (n *nodes) history(client string, mark int) []state {
	n.mu.Lock()
	defer n.mu.Unlock()
	return slices.Clone(n.states[client][mark:])
}

// mark is the present length of a node's history.
func (n *nodes) mark(client string) int { return len(n.history(client, 0)) }

// wait waits until the present state of a node is as it should be; what says
// in the failure what was waited for.
func (n *nodes) wait(t *testing.T, client, what string, as func(state) error) state {
	t.Helper()
	var now state
	must.NoError(t, n.try(t.Context(), client, what, func(s state) error {
		now = s
		return as(s)
	}))
	return now
}

func (n *nodes) try(ctx context.Context, client, what string, as func(state) error) error {
	return cluster.Poll(ctx, fmt.Sprintf("wait until node %s %s", client, what), func() error {
		n.mu.Lock()
		ended, all := n.ended, n.states[client]
		n.mu.Unlock()
		if ended != nil {
			return ended
		}
		if len(all) == 0 {
			return errors.New("nothing is known of it")
		}
		return as(all[len(all)-1])
	})
}

// ids are the ids of a node's devices, in Nomad's order.
func (s state) ids() []string {
	var ids []string
	for _, d := range s.devices {
		ids = append(ids, d.id)
	}
	return ids
}

// attribute is an attribute of the first group, or "".
func (s state) attribute(name string) string {
	if len(s.groups) == 0 {
		return ""
	}
	return s.groups[0].attributes[name]
}

// attributes are those of the group of that name; none without one.
func (s state) attributes(group string) map[string]string {
	for _, g := range s.groups {
		if g.name == group {
			return g.attributes
		}
	}
	return nil
}

// unhealthy is satisfied when each of the devices is unhealthy and its
// description contains part.
func unhealthy(part string, ids ...string) func(state) error {
	return func(s state) error {
		return each(s, ids, func(d gpuState) bool { return !d.healthy && strings.Contains(d.why, part) })
	}
}

// degraded is satisfied when each of the devices is healthy and its description
// contains part.
func degraded(part string, ids ...string) func(state) error {
	return func(s state) error {
		return each(s, ids, func(d gpuState) bool {
			return d.healthy && strings.HasPrefix(d.why, "degraded: ") && strings.Contains(d.why, part)
		})
	}
}

// healthy is satisfied when each of the devices is.
func healthy(ids ...string) func(state) error {
	return func(s state) error {
		return each(s, ids, func(d gpuState) bool { return d.healthy && d.why == "" })
	}
}

func each(s state, ids []string, good func(gpuState) bool) error {
	for _, id := range ids {
		i := slices.IndexFunc(s.devices, func(d gpuState) bool { return d.id == id })
		if i < 0 {
			return fmt.Errorf("device %s is missing from %v", id, s.ids())
		}
		if d := s.devices[i]; !good(d) {
			return fmt.Errorf("device %s is healthy: %t, %q", id, d.healthy, d.why)
		}
	}
	return nil
}

// devices waits until a node has that many healthy devices and returns their ids.
func (n *nodes) devices(t *testing.T, client string, count int) []string {
	t.Helper()
	return n.wait(t, client, fmt.Sprintf("has %d healthy devices", count), func(s state) error {
		if len(s.devices) != count {
			return fmt.Errorf("it has %d", len(s.devices))
		}
		return healthy(s.ids()...)(s)
	}).ids()
}

// answered waits until the plugin has read each of a client's devices after
// that time, and found it healthy. Unlike the node, the client's own statistics
// are as fresh as the plugin's.
func (n *nodes) answered(t *testing.T, part *cluster.Client, ids []string, since time.Time) {
	t.Helper()
	client, err := n.API(n.NomadAddr)
	must.NoError(t, err)
	defer client.Close()
	must.NoError(t, cluster.Poll(t.Context(), "wait until all devices of "+part.Name+" answer", func() error {
		stats, err := client.Nodes().Stats(part.NodeID, nil)
		if err != nil {
			return err
		}
		all := map[string]*api.DeviceStats{}
		for _, group := range stats.DeviceStats {
			maps.Copy(all, group.InstanceStats)
		}
		for _, id := range ids {
			switch s := all[id]; {
			case s == nil || s.Timestamp.Before(since):
				return fmt.Errorf("device %s has no new statistics", id)
			case s.Summary.IntNumeratorVal == nil:
				return fmt.Errorf("device %s: %s", id, s.Summary)
			}
		}
		return nil
	}))
}

// leave says of devices that they may leave their node from now on.
func (n *nodes) leave(ids ...string) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.leaving = append(n.leaving, ids...)
}

// restartClient restarts a client. Nomad may then tell its servers of no devices until
// the next update, some seconds later: it does not wait until its device manager
// has passed on the plugin's first answer (1.11.3, devicemanager/instance.go,
// handleFingerprint, and node_updater.go).
func (n *nodes) restartClient(t *testing.T, client *cluster.Client) {
	t.Helper()
	n.mu.Lock()
	n.restarts[client.Name]++
	n.mu.Unlock()
	must.NoError(t, client.Restart(t.Context()))
}

// losses lists each device that a node had at one time and not at a later one.
// There must never be any that does not leave by somebody's will: Nomad would
// stop offering it, and fail those who ask for it.
func (n *nodes) losses() []string {
	n.mu.Lock()
	defer n.mu.Unlock()
	var losses []string
	for _, client := range slices.Sorted(maps.Keys(n.states)) {
		restarts := n.restarts[client]
		var before []string
		for i, now := range n.states[client] {
			if len(now.devices) == 0 && restarts > 0 {
				restarts--
				continue
			}
			for _, id := range before {
				if !slices.Contains(now.ids(), id) && !slices.Contains(n.leaving, id) {
					losses = append(losses, fmt.Sprintf("node %s, state %d: %s is missing", client, i, id))
				}
			}
			before = now.ids()
		}
	}
	return losses
}

// story tells a node's history, for the report of a failure.
func (n *nodes) story(client string) string {
	var text strings.Builder
	for i, s := range n.history(client, 0) {
		fmt.Fprintf(&text, "%3d: %d devices, driver %s\n", i, len(s.devices), cmp.Or(s.attribute("driver_version"), "unknown"))
		for _, d := range s.devices {
			if !d.healthy {
				fmt.Fprintf(&text, "     %s: %s\n", d.id, d.why)
			}
		}
	}
	return text.String()
}
