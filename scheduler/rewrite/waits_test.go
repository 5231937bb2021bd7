package rewrite_test

import (
	"testing"

	"github.com/hashicorp/nomad/api"
	"github.com/shoenig/test/must"

	"github.com/nomad-governor/governor/scheduler/cluster"
	"github.com/nomad-governor/governor/scheduler/rewrite"
)

// setsOn is one group's offer of two devices on each of some nodes.
func setsOn(group string, nodes map[string][]string, order ...string) cluster.Offer {
	o := cluster.GroupOffer{Group: group}
	for _, n := range order {
		o.Nodes = append(o.Nodes, cluster.NodeOffer{NodeID: n, Sets: []cluster.Set{{Task: "main", Index: 0, IDs: nodes[n]}}})
	}
	return cluster.Offer{Groups: []cluster.GroupOffer{o}}
}

func TestWaits(t *testing.T) {
	t.Parallel()
	sets := map[string][]string{"n1": {"GPU-a", "GPU-b"}, "n2": {"GPU-e", "GPU-f"}}
	stored := apply(gpuJob(), rewrite.Rewrite(rewrite.Input{Submitted: gpuJob(), Offer: setsOn("g", sets, "n1", "n2")}))
	both := setsOn("g", sets, "n1", "n2").Groups[0].Nodes
	cases := map[string]struct {
		job   *api.Job
		taken map[string]cluster.Device
		nodes []cluster.NodeOffer
		want  bool
	}{
		"all are free":                         {stored, nil, both, false},
		"one node has its set free":            {stored, map[string]cluster.Device{"GPU-a": {Healthy: true, Use: cluster.Use{AllocID: "x"}}}, both, false},
		"every set lacks one":                  {stored, map[string]cluster.Device{"GPU-a": {Healthy: true, Use: cluster.Use{AllocID: "x"}}, "GPU-f": {}}, both, true},
		"promised to another":                  {stored, map[string]cluster.Device{"GPU-a": {Healthy: true, Reserved: true}, "GPU-f": {}}, both, true},
		"the other node cannot run it":         {stored, map[string]cluster.Device{"GPU-a": {}}, both[:1], true},
		"nowhere":                              {stored, nil, nil, true},
		"without pins Nomad takes what it has": {gpuJob(), map[string]cluster.Device{"GPU-a": {}, "GPU-f": {}}, both, false},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			var s cluster.Snapshot
			for _, node := range []struct {
				id  string
				ids []string
			}{{"n1", []string{"GPU-a", "GPU-b", "GPU-c", "GPU-d"}}, {"n2", []string{"GPU-e", "GPU-f"}}} {
				g := cluster.Group{Vendor: "nvidia", Type: "gpu", Model: "V"}
				for _, id := range node.ids {
					d, known := c.taken[id]
					if !known {
						d.Healthy = true
					}
					d.ID = id
					g.Devices = append(g.Devices, d)
				}
				s.Nodes = append(s.Nodes, cluster.Node{ID: node.id, Ready: true, Groups: []cluster.Group{g}})
			}
			must.Eq(t, c.want, rewrite.Waits(c.job, "g", &s, c.nodes))
		})
	}
	must.False(t, rewrite.Waits(stored, "another", &cluster.Snapshot{}, nil))
}

// A group that is placed again gets the offer; the others keep their pins to the letter,
// for anything else would restart what runs of them.
func TestOnlyTheGroupsThatWaitArePlacedAgain(t *testing.T) {
	t.Parallel()
	job := gpuJob()
	job.AddTaskGroup(gpuGroup("runs", "main"))
	first := setsOn("g", map[string][]string{"n1": {"GPU-a", "GPU-b"}}, "n1")
	first.Groups = append(first.Groups, setsOn("runs", map[string][]string{"n1": {"GPU-c", "GPU-d"}}, "n1").Groups...)
	stored := apply(job, rewrite.Rewrite(rewrite.Input{Submitted: job, Offer: first}))
	again := setsOn("g", map[string][]string{"n2": {"GPU-e", "GPU-f"}}, "n2")
	again.Groups = append(again.Groups, setsOn("runs", map[string][]string{"n2": {"GPU-g", "GPU-h"}}, "n2").Groups...)

	patch := rewrite.Rewrite(rewrite.Input{Submitted: job, Stored: stored, StoredRunning: true, Offer: again, Again: []string{"g"}})
	must.Eq(t, []string{"runs"}, patch.Kept)
	next := apply(job, patch)
	pins := func(j *api.Job, group int) string {
		list := j.TaskGroups[group].Tasks[0].Resources.Devices[0].Constraints
		must.SliceLen(t, 1, list)
		return list[0].RTarget
	}
	must.EqOp(t, "GPU-e,GPU-f", pins(next, 0))
	must.EqOp(t, "GPU-c,GPU-d", pins(next, 1))
	must.Eq(t, stored.TaskGroups[1], next.TaskGroups[1])
}
