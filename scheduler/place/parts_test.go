package place_test

import (
	"fmt"
	"math/bits"
	"slices"
	"strings"
	"testing"

	"github.com/shoenig/test/must"
	"pgregory.net/rapid"

	"github.com/nomad-governor/governor/internal/gpu"
	"github.com/nomad-governor/governor/scheduler/cluster"
	"github.com/nomad-governor/governor/scheduler/place"
)

// divide makes parts of a node's GPUs: for each GPU a word with a letter for each part, f
// free, t taken, b broken.
func divide(name, typ, model string, gpus ...string) cluster.Node {
	n := node(name, "H100", dgxh100())
	g := cluster.Group{Vendor: gpu.Vendor, Type: typ, Model: model}
	for i, parts := range gpus {
		for j, state := range parts {
			d := cluster.Device{ID: fmt.Sprintf("GPU-%s-%d::%d", name, i, j), PCIBusID: fmt.Sprintf("0000:%02x:00.0", i+1), Healthy: state != 'b'}
			if typ != gpu.TypeShare {
				d.ID = fmt.Sprintf("MIG-%s-%s-%d-%d", name, model, i, j)
			}
			if state == 't' {
				d.Use = cluster.Use{AllocID: "other", Namespace: "default", JobID: "other", Group: "g"}
			}
			g.Devices = append(g.Devices, d)
		}
	}
	n.Groups = cluster.Divide([]cluster.Group{g})
	return n
}

func parts(name string, count int) cluster.Ask {
	ask := jobOf(count)
	ask.Groups[0].Devices[0].Name = name
	return ask
}

// chosen are the GPUs, by number, of the parts that the best node offers.
func chosen(t *testing.T, a cluster.Ask, nodes ...cluster.Node) (node, gpus, text string) {
	t.Helper()
	offer, why := place.New().Place(cluster.Snapshot{Nodes: nodes}, a)
	if len(offer.Groups) == 0 || len(offer.Groups[0].Nodes) == 0 {
		return "", "", why.String()
	}
	best := offer.Groups[0].Nodes[0]
	for _, id := range best.Sets[0].IDs {
		id, _, _ = strings.Cut(id, "::")
		fields := strings.Split(id, "-")
		at := fields[2]
		if fields[0] == "MIG" {
			at = fields[3]
		}
		gpus += at
	}
	return best.NodeName, gpus, why.String()
}

func TestSharesAreOfGPUsThatFewestUse(t *testing.T) {
	t.Parallel()
	const shares = "nvidia/gpu-share"
	for name, c := range map[string]struct {
		gpus  []string
		count int
		want  string
	}{
		"all are idle":                {[]string{"ff", "ff", "ff"}, 1, "0"},
		"the one with the fewest":     {[]string{"ttf", "tff", "tft"}, 1, "1"},
		"one of each":                 {[]string{"ff", "ff", "ff"}, 2, "01"},
		"of those with the fewest":    {[]string{"tff", "fff", "fff"}, 2, "12"},
		"broken ones are in use":      {[]string{"bff", "tff", "fff"}, 1, "2"},
		"as many as there are GPUs":   {[]string{"tf", "ff", "tf"}, 3, "012"},
		"several, and few GPUs":       {[]string{"ffff", "tttt"}, 2, ""},
		"more than the node has GPUs": {[]string{"ffff", "ffff"}, 3, ""},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			_, got, text := chosen(t, parts(shares, c.count), divide("n1", gpu.TypeShare, "A", c.gpus...))
			must.Eq(t, c.want, got, must.Sprint(text))
		})
	}
	_, _, text := chosen(t, parts(shares, 1), divide("n1", gpu.TypeShare, "A", "tf", "ff"))
	must.StrContains(t, text, "share of a GPU on n1: GPU-n1-1::0 (where the fewest shares are in use; out of 3 that are free)")
	_, _, text = chosen(t, parts(shares, 2), divide("n1", gpu.TypeShare, "A", "ff", "ff"))
	must.StrContains(t, text, "2 shares of 2 GPUs on n1")
	_, _, text = chosen(t, parts(shares, 2), divide("n1", gpu.TypeShare, "A", "ff", "tt"))
	must.StrContains(t, text, "1 of 2 GPUs free")
	_, _, text = chosen(t, parts(shares, 3), divide("n1", gpu.TypeShare, "A", "ffff", "ffff"))
	must.StrContains(t, text, "asks for 3 x nvidia/gpu-share on one node, but the largest matching node, n1, has 2")
}

func TestMIGInstancesAreOfGPUsThatMostUse(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		gpus  []string
		count int
		want  string
	}{
		"all are whole":                     {[]string{"ff", "ff", "ff"}, 1, "0"},
		"one that is divided already":       {[]string{"ff", "ft", "ff"}, 1, "1"},
		"the fullest":                       {[]string{"fft", "ftt", "fff"}, 1, "1"},
		"the rest of one, then of the next": {[]string{"fff", "ftt", "fft"}, 2, "12"},
		"a whole one that is enough":        {[]string{"ff", "fff", "ffff"}, 3, "111"},
		"and else the largest":              {[]string{"ff", "ff", "fff"}, 4, "0222"},
		"what is broken is not in use":      {[]string{"fff", "bff", "tff"}, 1, "2"},
		"and wants to be reset":             {[]string{"bff", "fff"}, 1, "1"},
		"even where it is in use":           {[]string{"ttb", "tff"}, 1, "1"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			n := divide("n1", gpu.TypeMIG, "1g", c.gpus...)
			_, got, text := chosen(t, parts("nvidia/mig", c.count), n)
			must.Eq(t, c.want, got, must.Sprint(text))
			n.Groups[0].Type = gpu.TypeGPU // the strategy "single"
			n.Groups = cluster.Divide(n.Groups)
			_, got, _ = chosen(t, parts("nvidia/gpu", c.count), n)
			must.Eq(t, c.want, got)
		})
	}
	// A GPU is divided into two sizes: what is in use of the other one counts.
	n := divide("n1", gpu.TypeMIG, "1g", "ff", "ff", "ff")
	n.Groups = cluster.Divide(append(n.Groups, divide("n1", gpu.TypeMIG, "3g", "f", "f", "t").Groups[0]))
	_, got, text := chosen(t, parts("nvidia/mig/1g", 1), n)
	must.Eq(t, "2", got)
	must.StrContains(t, text, "MIG instance of a GPU on n1")
	must.StrContains(t, text, "(where the most instances are in use, so that other GPUs stay whole; out of 6 that are free)")
}

func TestOfEquallyFullNodesTheOneThatKeepsMoreWholeGPUs(t *testing.T) {
	t.Parallel()
	for _, names := range [][2]string{{"a", "b"}, {"b", "a"}} {
		whole, divided := divide(names[0], gpu.TypeMIG, "1g", "ff", "tt"), divide(names[1], gpu.TypeMIG, "1g", "ft", "ft")
		got, _, _ := chosen(t, parts("nvidia/mig", 1), whole, divided)
		must.Eq(t, names[1], got)
		last, more := divide(names[0], gpu.TypeShare, "A", "tf", "tf"), divide(names[1], gpu.TypeShare, "A", "ff", "tt")
		got, _, _ = chosen(t, parts("nvidia/gpu-share", 1), last, more)
		must.Eq(t, names[1], got, must.Sprint("it keeps as many GPUs with a free share"))
	}
}

// What an offer takes never leaves less than another choice would.
func TestPartsLeaveAsMuchAsPossible(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		typ := rapid.SampledFrom([]string{gpu.TypeShare, gpu.TypeMIG}).Draw(t, "type")
		each := "[ftb]{1,3}"
		if typ == gpu.TypeShare { // all GPUs of a group have as many
			each = fmt.Sprintf("[ftb]{%d}", rapid.IntRange(1, 3).Draw(t, "shares"))
		}
		gpus := rapid.SliceOfN(rapid.StringMatching(each), 1, 4).Draw(t, "GPUs")
		n := divide("n1", typ, "A", gpus...)
		g := n.Groups[0]
		k := rapid.IntRange(1, 4).Draw(t, "count")
		var free uint64
		for i, d := range g.Devices {
			if d.Healthy && !d.Use.Held() {
				free |= 1 << i
			}
		}
		// worth is how many GPUs have a free share after a choice, or nothing in use.
		worth := func(left uint64) int {
			at := map[string][2]int{} // free, all
			for i, d := range g.Devices {
				c := at[d.PCIBusID]
				if d.Healthy {
					c[1]++
				}
				c[0] += int(left >> i & 1)
				at[d.PCIBusID] = c
			}
			count := 0
			for _, c := range at {
				if typ == gpu.TypeShare && c[0] > 0 || typ == gpu.TypeMIG && c[0] == c[1] {
					count++
				}
			}
			return count
		}
		allowed := func(set uint64) bool {
			seen := map[string]bool{}
			for i, d := range g.Devices {
				if set>>i&1 == 1 && typ == gpu.TypeShare {
					if seen[d.PCIBusID] {
						return false
					}
					seen[d.PCIBusID] = true
				}
			}
			return true
		}
		most := -1
		for set := free; set != 0; set = (set - 1) & free {
			if bits.OnesCount64(set) == k && allowed(set) {
				most = max(most, worth(free&^set))
			}
		}
		offer, _ := place.New().Place(cluster.Snapshot{Nodes: []cluster.Node{n}}, parts("nvidia/"+typ, k))
		if most < 0 {
			must.True(t, len(offer.Groups) == 0 || len(offer.Groups[0].Nodes) == 0)
			return
		}
		var got uint64
		for _, id := range offer.Groups[0].Nodes[0].Sets[0].IDs {
			for i, d := range g.Devices {
				if d.ID == id {
					got |= 1 << i
				}
			}
		}
		must.Eq(t, k, bits.OnesCount64(got))
		must.True(t, allowed(got), must.Sprint("two shares of one GPU"))
		must.Eq(t, most, worth(free&^got))
	})
}

// What somebody has is no reason to move: who is asked for again keeps it.
func TestWhoHasPartsKeepsThem(t *testing.T) {
	t.Parallel()
	for _, typ := range []string{gpu.TypeShare, gpu.TypeMIG} {
		n := divide("n1", typ, "A", "fff", "ttf", "fff")
		n.Groups = cluster.Divide(append(n.Groups, divide("n1", typ, "B", "ff", "ft", "ff").Groups[0]))
		ask := parts("nvidia/"+typ+"/A", 1)
		ask.Groups[0].Devices = append(ask.Groups[0].Devices, cluster.DeviceAsk{Task: "task0", Index: 1, Name: "nvidia/" + typ + "/B", Count: 1})
		other := ask.Groups[0]
		other.Name = "other"
		ask.Groups = append(ask.Groups, other)
		s := cluster.Snapshot{Nodes: []cluster.Node{n}}
		had := map[string]string{}
		for round := range 3 {
			offer, why := place.New().Place(s, ask)
			must.Len(t, 2, offer.Groups, must.Sprint(why))
			has := map[string]string{}
			for _, g := range offer.Groups {
				for _, set := range g.Nodes[0].Sets {
					for _, id := range set.IDs {
						has[id] = g.Group
					}
				}
			}
			must.MapLen(t, 4, has)
			if round > 0 {
				must.Eq(t, had, has)
			}
			had = has
			for i := range s.Nodes[0].Groups {
				for j := range s.Nodes[0].Groups[i].Devices {
					if d := &s.Nodes[0].Groups[i].Devices[j]; has[d.ID] != "" {
						d.Use = cluster.Use{AllocID: "alloc-" + has[d.ID], Namespace: ask.Namespace, JobID: ask.JobID, Group: has[d.ID]}
					}
				}
			}
		}
	}
}

func TestEveryOneOfManySharesCanBeHad(t *testing.T) {
	t.Parallel()
	gpus := make([]string, 8)
	for i := range gpus {
		gpus[i] = strings.Repeat("f", 10)
	}
	n := divide("n1", gpu.TypeShare, "A", gpus...)
	must.Len(t, 2, n.Groups)
	must.Eq(t, []int{64, 16}, []int{len(n.Groups[0].Devices), len(n.Groups[1].Devices)})
	s := cluster.Snapshot{Nodes: []cluster.Node{n}}
	_, got, text := chosen(t, parts("nvidia/gpu-share", 8), n)
	must.Eq(t, "01234567", got, must.Sprint(text))
	_, got, _ = chosen(t, parts("nvidia/gpu-share", 9), n)
	must.Eq(t, "", got)
	used := map[string]int{}
	for round := range 80 {
		offer, why := place.New().Place(s, parts("nvidia/gpu-share", 1))
		must.Len(t, 1, offer.Groups[0].Nodes, must.Sprint(round, why))
		id := offer.Groups[0].Nodes[0].Sets[0].IDs[0]
		name, _, _ := strings.Cut(id, "::")
		used[name]++
		least, most := 80, 0
		for i := range 8 {
			count := used[fmt.Sprintf("GPU-n1-%d", i)]
			least, most = min(least, count), max(most, count)
		}
		must.LessEq(t, 1, most-least, must.Sprint(used))
		for i := range n.Groups {
			for j := range n.Groups[i].Devices {
				if d := &n.Groups[i].Devices[j]; d.ID == id {
					must.False(t, d.Use.Held())
					d.Use = cluster.Use{AllocID: fmt.Sprint(round), Namespace: "default", JobID: fmt.Sprint(round), Group: "g"}
				}
			}
		}
	}
	_, got, _ = chosen(t, parts("nvidia/gpu-share", 1), n)
	must.Eq(t, "", got)
}

// The properties of every offer, of parts: it is feasible, the order of nodes does not
// change it, who has it is offered it again, and a part more that is free takes none away.
func TestOffersOfParts(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		typ := rapid.SampledFrom([]string{gpu.TypeShare, gpu.TypeMIG}).Draw(t, "type")
		var s cluster.Snapshot
		for i := range rapid.IntRange(1, 3).Draw(t, "nodes") {
			each := "[ftb]{1,4}"
			if typ == gpu.TypeShare { // all GPUs of a group have as many
				each = fmt.Sprintf("[ftb]{%d}", rapid.IntRange(1, 9).Draw(t, "parts"))
			}
			gpus := rapid.SliceOfN(rapid.StringMatching(each), 1, 9).Draw(t, "GPUs")
			s.Nodes = append(s.Nodes, divide(fmt.Sprintf("n%d", i), typ, "A", gpus...))
		}
		ask := parts("nvidia/"+typ, rapid.IntRange(1, 4).Draw(t, "count"))
		ids := func(s cluster.Snapshot) []string {
			offer, _ := place.New().Place(s, ask)
			if len(offer.Groups) == 0 || len(offer.Groups[0].Nodes) == 0 {
				return nil
			}
			return offer.Groups[0].Nodes[0].Sets[0].IDs
		}
		found := map[string]*cluster.Device{}
		var closed []*cluster.Device
		for _, n := range s.Nodes {
			for i := range n.Groups {
				for j := range n.Groups[i].Devices {
					d := &n.Groups[i].Devices[j]
					if found[d.ID] = d; d.Use.Held() {
						closed = append(closed, d)
					}
				}
			}
		}
		offered := ids(s)
		reversed := cluster.Snapshot{Nodes: slices.Clone(s.Nodes)}
		slices.Reverse(reversed.Nodes)
		must.Eq(t, offered, ids(reversed))
		if len(offered) > 0 {
			must.Len(t, ask.Groups[0].Devices[0].Count, offered)
			gpus := map[string]bool{}
			for _, id := range offered {
				must.True(t, found[id].Healthy && !found[id].Use.Held())
				must.False(t, typ == gpu.TypeShare && gpus[found[id].PCIBusID])
				gpus[found[id].PCIBusID] = true
			}
			if len(closed) > 0 {
				one := rapid.SampledFrom(closed).Draw(t, "freed")
				was := one.Use
				one.Use = cluster.Use{}
				must.SliceNotEmpty(t, ids(s))
				one.Use = was
			}
		}
		if len(s.Nodes) == 1 && rapid.Bool().Draw(t, "two groups") { // elsewhere one may follow the other to its node
			other := ask.Groups[0]
			other.Name = "other"
			ask.Groups = append(ask.Groups, other)
		}
		all := func() map[string]string {
			has := map[string]string{}
			offer, _ := place.New().Place(s, ask)
			for _, g := range offer.Groups {
				if len(g.Nodes) > 0 {
					for _, id := range g.Nodes[0].Sets[0].IDs {
						has[id] = g.Group
					}
				}
			}
			return has
		}
		has := all()
		for id, group := range has {
			found[id].Use = cluster.Use{AllocID: group, Namespace: ask.Namespace, JobID: ask.JobID, Group: group}
		}
		must.Eq(t, has, all())
	})
}

// What another group of the job has counts as in use, and is no reason to follow it.
func TestGroupsOfAJobKeepTheirInstances(t *testing.T) {
	t.Parallel()
	for count, gpus := range map[int][]string{1: {"f", "ff"}, 2: {"tf", "ffff"}} {
		ask := parts("nvidia/mig", count)
		other := ask.Groups[0]
		other.Name = "other"
		ask.Groups = append(ask.Groups, other)
		n := divide("n1", gpu.TypeMIG, "1g", gpus...)
		first, _ := place.New().Place(cluster.Snapshot{Nodes: []cluster.Node{n}}, ask)
		for _, g := range first.Groups {
			for j := range n.Groups[0].Devices {
				if d := &n.Groups[0].Devices[j]; slices.Contains(g.Nodes[0].Sets[0].IDs, d.ID) {
					d.Use = cluster.Use{AllocID: g.Group, Namespace: ask.Namespace, JobID: ask.JobID, Group: g.Group}
				}
			}
		}
		second, _ := place.New().Place(cluster.Snapshot{Nodes: []cluster.Node{n}}, ask)
		must.Eq(t, first, second)
	}
}
