package cluster_test

import (
	"testing"
	"time"

	"github.com/nomad-governor/governor/scheduler/cluster"
	"github.com/shoenig/test/must"
	"pgregory.net/rapid"
)

func TestDatacenterPatterns(t *testing.T) {
	t.Parallel()
	cases := map[string]struct {
		patterns []string
		want     bool
	}{
		"no pattern":               {nil, true},
		"the name":                 {[]string{"eu-west-1"}, true},
		"another name":             {[]string{"eu-west"}, false},
		"everything":               {[]string{"*"}, true},
		"a prefix":                 {[]string{"eu-*"}, true},
		"a suffix":                 {[]string{"*-1"}, true},
		"the middle":               {[]string{"eu*1"}, true},
		"the middle, wrong end":    {[]string{"eu*2"}, false},
		"several stars":            {[]string{"*west*"}, true},
		"parts must not overlap":   {[]string{"eu-west*west-1"}, false},
		"one of several":           {[]string{"us-*", "eu-*"}, true},
		"a question mark is plain": {[]string{"eu-west-?"}, false},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			n := cluster.Node{Datacenter: "eu-west-1"}
			must.Eq(t, c.want, n.InDatacenter(c.patterns))
		})
	}
}

func TestPools(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		node, job string
		want      bool
	}{{"", "", true}, {"default", "", true}, {"", "default", true}, {"gpu", "", false}, {"gpu", "all", true}, {"gpu", "gpu", true}} {
		n := cluster.Node{Pool: c.node}
		must.Eq(t, c.want, n.InPool(c.job), must.Sprintf("node pool %q, job pool %q", c.node, c.job))
	}
}

func TestNodeConstraintsFollowNomad(t *testing.T) {
	t.Parallel()
	n := &cluster.Node{ID: "id", Name: "gpu-1", Datacenter: "dc1", Pool: "p", Class: "fast",
		Attributes: map[string]string{"cpu.numcores": "16", "kernel.name": "linux"}, Meta: map[string]string{"tags": "a, b"}}
	cases := map[string]struct {
		left, operand, right string
		want                 cluster.Verdict
	}{
		"equal":                         {"${attr.kernel.name}", "=", "linux", cluster.Holds},
		"equal, as is":                  {"${node.unique.name}", "is", "gpu-1", cluster.Holds},
		"equal on a missing attribute":  {"${attr.none}", "=", "", cluster.Fails},
		"unequal":                       {"${node.class}", "!=", "slow", cluster.Holds},
		"unequal, missing":              {"${attr.none}", "!=", "x", cluster.Holds},
		"numbers are not texts":         {"${attr.cpu.numcores}", ">", "9", cluster.Holds},
		"texts compare as texts":        {"${node.class}", "<", "g", cluster.Holds},
		"regexp":                        {"${node.unique.name}", "regexp", "^gpu-[0-9]$", cluster.Holds},
		"a broken regexp":               {"${node.unique.name}", "regexp", "(", cluster.Fails},
		"set_contains":                  {"${meta.tags}", "set_contains", "b,a", cluster.Holds},
		"set_contains, one missing":     {"${meta.tags}", "set_contains_all", "b,c", cluster.Fails},
		"set_contains_any":              {"${meta.tags}", "set_contains_any", "c,b", cluster.Holds},
		"is_set":                        {"${node.unique.id}", "is_set", "", cluster.Holds},
		"is_not_set":                    {"${meta.x}", "is_not_set", "", cluster.Holds},
		"distinct_hosts is about peers": {"", "distinct_hosts", "true", cluster.Holds},
		"versions are left to Nomad":    {"${attr.kernel.name}", "version", ">= 1", cluster.Unknown},
		"an unknown target":             {"${node.region}", "=", "global", cluster.Unknown},
		"an unknown operator":           {"${node.class}", "resembles", "fast", cluster.Unknown},
		"pool and datacenter":           {"${node.pool}", "!=", "${node.datacenter}", cluster.Holds},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			must.Eq(t, c.want, cluster.Constraint{LTarget: c.left, Operand: c.operand, RTarget: c.right}.OnNode(n))
		})
	}
	unread := &cluster.Node{}
	must.Eq(t, cluster.Unknown, cluster.Constraint{LTarget: "${attr.kernel.name}", Operand: "=", RTarget: "x"}.OnNode(unread))
	must.Eq(t, cluster.Unknown, cluster.Constraint{LTarget: "${meta.rack}", Operand: "is_set"}.OnNode(unread))
}

func TestDeviceConstraintsFollowNomad(t *testing.T) {
	t.Parallel()
	g := &cluster.Group{Vendor: "nvidia", Type: "gpu", Model: "H100", Devices: []cluster.Device{{ID: "GPU-a"}, {ID: "GPU-b"}},
		Attributes: map[string]cluster.Value{
			"memory": cluster.NumberValue(81559, "MiB"), "cores": cluster.NumberValue(16896, ""),
			"compute_capability": cluster.TextValue("9.0"), "ecc": cluster.BoolValue(true),
		}}
	cases := map[string]struct {
		left, operand, right string
		want                 cluster.Verdict
	}{
		"units are converted":           {"${device.attr.memory}", ">=", "79 GiB", cluster.Holds},
		"decimal units too":             {"${device.attr.memory}", ">", "86 GB", cluster.Fails},
		"the same unit":                 {"${device.attr.memory}", "=", "81559 MiB", cluster.Holds},
		"a unit is not a plain number":  {"${device.attr.memory}", ">", "1", cluster.Fails},
		"units of different things":     {"${device.attr.memory}", ">", "1 W", cluster.Fails},
		"a text is not a number":        {"${device.attr.compute_capability}", ">=", "8.0", cluster.Fails},
		"plain numbers":                 {"${device.attr.cores}", ">", "10000", cluster.Holds},
		"booleans":                      {"${device.attr.ecc}", "is", "true", cluster.Holds},
		"booleans that differ":          {"${device.attr.ecc}", "!=", "false", cluster.Holds},
		"model":                         {"${device.model}", "=", "H100", cluster.Holds},
		"vendor":                        {"${device.vendor}", "!=", "amd", cluster.Holds},
		"type":                          {"${device.type}", "regexp", "^g", cluster.Holds},
		"a missing attribute":           {"${device.attr.x}", "<", "1", cluster.Fails},
		"a missing attribute, unequal":  {"${device.attr.x}", "!=", "1", cluster.Holds},
		"a missing attribute, set":      {"${device.attr.x}", "is_set", "", cluster.Fails},
		"ids of the node":               {"${device.ids}", "set_contains_any", "GPU-b,GPU-z", cluster.Holds},
		"ids of another node":           {"${device.ids}", "set_contains_any", "GPU-y,GPU-z", cluster.Fails},
		"all ids":                       {"${device.ids}", "set_contains", "GPU-a,GPU-b", cluster.Holds},
		"a set of something not a text": {"${device.attr.cores}", "set_contains", "16896", cluster.Fails},
		"versions are left to Nomad":    {"${device.attr.compute_capability}", "version", ">= 8", cluster.Unknown},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			must.Eq(t, c.want, cluster.Constraint{LTarget: c.left, Operand: c.operand, RTarget: c.right}.OnGroup(g))
		})
	}
}

func offer(devices ...string) cluster.Offer {
	half := len(devices) / 2
	return cluster.Offer{Groups: []cluster.GroupOffer{{Group: "g", Nodes: []cluster.NodeOffer{
		{NodeID: "n1", Sets: []cluster.Set{{Task: "a", IDs: devices[:half]}}},
		{NodeID: "n2", Sets: []cluster.Set{{Task: "a", IDs: devices[half:]}}},
	}}}}
}

func TestVerify(t *testing.T) {
	t.Parallel()
	o := offer("GPU-1", "GPU-2", "GPU-3", "GPU-4")
	cases := map[string]struct {
		alloc cluster.Allocation
		want  []string
	}{
		"exact, in any order":      {cluster.Allocation{Group: "g", NodeID: "n1", Devices: map[string][]string{"a": {"GPU-2", "GPU-1"}}}, nil},
		"the other node's own set": {cluster.Allocation{Group: "g", NodeID: "n2", Devices: map[string][]string{"a": {"GPU-3", "GPU-4"}}}, nil},
		"a group without an offer": {cluster.Allocation{Group: "web", NodeID: "n9"}, nil},
		"one differs": {cluster.Allocation{Group: "g", NodeID: "n1", Devices: map[string][]string{"a": {"GPU-1", "GPU-9"}}},
			[]string{`task "a" holds [GPU-1,GPU-9], offered was [GPU-1,GPU-2]`}},
		"started without its GPUs": {cluster.Allocation{Group: "g", NodeID: "n1"},
			[]string{`task "a" holds [], offered was [GPU-1,GPU-2]`}},
		"a task that should have none": {cluster.Allocation{Group: "g", NodeID: "n1", Devices: map[string][]string{"a": {"GPU-1", "GPU-2"}, "b": {"GPU-3"}}},
			[]string{`task "b" holds [GPU-3], offered was []`}},
		"another node": {cluster.Allocation{ID: "x", Group: "g", NodeID: "n3"},
			[]string{"allocation x is on node n3, which was not offered"}},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			got := cluster.Verify(o, c.alloc)
			must.Eq(t, c.want, got.Mismatches)
			must.Eq(t, len(c.want) == 0, got.Verified)
		})
	}
}

func twoNodes() cluster.Snapshot {
	group := func(ids ...string) []cluster.Group {
		g := cluster.Group{Vendor: "nvidia", Type: "gpu", Model: "M"}
		for _, id := range ids {
			g.Devices = append(g.Devices, cluster.Device{ID: id, Healthy: true})
		}
		return []cluster.Group{g}
	}
	return cluster.Snapshot{Nodes: []cluster.Node{
		{ID: "n1", Groups: group("GPU-1", "GPU-2")}, {ID: "n2", Groups: group("GPU-3", "GPU-4")}}}
}

func reservedOf(s cluster.Snapshot) []bool {
	var out []bool
	for _, n := range s.Nodes {
		for _, d := range n.Groups[0].Devices {
			out = append(out, d.Reserved)
		}
	}
	return out
}

func TestReservationsLiveUntilTheAllocationOrTheirEnd(t *testing.T) {
	t.Parallel()
	start := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	ask := cluster.Ask{Namespace: "default", JobID: "train"}
	none := []bool{false, false, false, false}
	reserved := []bool{true, false, true, false}
	fresh := func() *cluster.Reservations {
		r := cluster.NewReservations(10 * time.Second)
		r.Reserve(ask, offer("GPU-1", "GPU-3"), start)
		return r
	}
	s := twoNodes()
	must.Eq(t, reserved, reservedOf(fresh().Mark(s, "default", "other", start.Add(9*time.Second))))
	must.Eq(t, none, reservedOf(s)) // the snapshot itself is not touched
	must.Eq(t, none, reservedOf(fresh().Mark(s, "default", "other", start.Add(10*time.Second))))
	must.Eq(t, none, reservedOf(fresh().Mark(s, "default", "train", start)))
	must.Eq(t, reserved, reservedOf(fresh().Mark(s, "elsewhere", "train", start)))

	released := fresh()
	released.Release("default", "train")
	must.Eq(t, none, reservedOf(released.Mark(s, "default", "other", start)))

	seen := fresh()
	seen.Placed("default", "train", "other group")
	must.Eq(t, reserved, reservedOf(seen.Mark(s, "default", "other", start)))
	seen.Placed("default", "train", "g")
	must.Eq(t, none, reservedOf(seen.Mark(s, "default", "other", start)))

	replaced := fresh()
	replaced.Reserve(ask, offer("GPU-2", "GPU-4"), start)
	must.Eq(t, []bool{false, true, false, true},
		reservedOf(replaced.Mark(s, "default", "other", start)))

	preferring := fresh()
	o := offer("GPU-1", "GPU-3")
	o.Groups[0].Preferred = "n2"
	preferring.Reserve(ask, o, start)
	must.Eq(t, []bool{false, false, true, false}, reservedOf(preferring.Mark(s, "default", "other", start)))

	placed := twoNodes()
	placed.Nodes[0].Groups[0].Devices[0].Use = cluster.Use{AllocID: "a", Namespace: "default", JobID: "train", Group: "g", Stopping: true}
	must.Eq(t, reserved, reservedOf(fresh().Mark(placed, "default", "other", start))) // an allocation of an earlier run
	placed.Nodes[0].Groups[0].Devices[0].Use.Stopping = false
	must.Eq(t, none, reservedOf(fresh().Mark(placed, "default", "other", start)))
	must.True(t, placed.Holds("default", "train"))
	must.False(t, placed.Holds("default", "other"))
}

func TestTheSameMarksAreMadeOnce(t *testing.T) {
	t.Parallel()
	start := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	s, other := twoNodes(), twoNodes()
	r := cluster.NewReservations(10 * time.Second)
	ask := cluster.Ask{Namespace: "default", JobID: "train"}
	offer := cluster.Offer{Groups: []cluster.GroupOffer{{Group: "g", Nodes: []cluster.NodeOffer{{NodeID: "n1", Sets: []cluster.Set{{IDs: []string{"GPU-1"}}}}}}}}
	mark := func(s cluster.Snapshot, job string, at time.Duration) cluster.Snapshot {
		return r.Mark(s, "default", job, start.Add(at))
	}
	same := func(a, b cluster.Snapshot) bool { return a.Same(&b) }
	must.True(t, same(s, mark(s, "a", 0)), must.Sprint("nothing is reserved"))
	r.Reserve(ask, offer, start)
	first := mark(s, "a", 0)
	must.False(t, same(s, first))
	must.True(t, same(first, mark(s, "b", time.Second)))
	must.False(t, same(first, mark(s, "train", time.Second)), must.Sprint("its own do not count"))
	must.True(t, same(first, mark(s, "b", time.Second)))
	must.False(t, same(first, mark(other, "b", time.Second)), must.Sprint("another reading"))
	must.True(t, same(s, mark(s, "b", 10*time.Second)), must.Sprint("they have ended"))
	r.Reserve(ask, offer, start)
	again := mark(s, "a", 0)
	r.Release("default", "train")
	must.False(t, same(again, mark(s, "a", 0)))
}

func TestParseValueNeverTakesAGPUIDForANumber(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		id := rapid.StringMatching(`(GPU|MIG)-[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{12}`).Draw(t, "id")
		must.True(t, cluster.ParseValue(id).IsText())
	})
}

func FuzzDatacenterPattern(f *testing.F) {
	f.Add("eu-*", "eu-1")
	f.Add("*a*b", "aab")
	f.Fuzz(func(t *testing.T, pattern, name string) {
		// A pattern matches itself with each star replaced by any text.
		n := cluster.Node{Datacenter: name}
		must.Eq(t, slowGlob(pattern, name), n.InDatacenter([]string{pattern}))
	})
}

// slowGlob is the textbook recursion.
func slowGlob(pattern, text string) bool {
	if len(pattern) > 12 || len(text) > 24 {
		n := cluster.Node{Datacenter: text}
		return n.InDatacenter([]string{pattern}) // too slow to recompute
	}
	if pattern == "" {
		return text == ""
	}
	if pattern[0] == '*' {
		return slowGlob(pattern[1:], text) || text != "" && slowGlob(pattern, text[1:])
	}
	return text != "" && pattern[0] == text[0] && slowGlob(pattern[1:], text[1:])
}
