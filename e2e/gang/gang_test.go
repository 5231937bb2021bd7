package gang_test

import (
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/hashicorp/nomad/api"
	"github.com/shoenig/test/must"

	"github.com/nomad-governor/governor/e2e/cluster"
	"github.com/nomad-governor/governor/e2e/clustertest"
	"github.com/nomad-governor/governor/quotaagent/agent"
)

// timeout is for how long a gang may run in part here, and slack what the leader needs
// to see it and to have Nomad stop it on a busy machine: it looks every five seconds.
const (
	timeout = 6 * time.Second
	slack   = 10 * time.Second
)

// raise starts four clients of different kinds, two in each rack, and two with parts of
// GPUs.
func raise(t *testing.T) *scene {
	t.Helper()
	c := clustertest.Start(t, cluster.Options{Consul: true, Governor: true, Clients: []cluster.ClientOptions{
		{Name: "cube", Fixture: "dgx1v", Meta: map[string]string{"governor_rack": "left"}},
		{Name: "switch", Fixture: "hgxh100-rdma", Meta: map[string]string{"governor_rack": "right"}},
		{Name: "bridge", Fixture: "rtx8000x4", Meta: map[string]string{"governor_rack": "left"}},
		{Name: "flat", Fixture: "l40s-x4", Meta: map[string]string{"governor_rack": "right"}},
		{Name: "shared", Fixture: "l40s-x4", PluginConfig: "sharing {\n  gpus     = [\"*\"]\n  replicas = 2\n}\n"},
		{Name: "sliced", Fixture: "mig-a100-single"},
	}})
	s := &scene{Cluster: c, t: t}
	s.apply()
	return s
}

func gangMeta() map[string]string {
	return map[string]string{"governor_gang": "true", "governor_gang_timeout": timeout.String()}
}

func TestGangsRunAsAWholeOrNotAtAll(t *testing.T) {
	s := raise(t)
	t.Run("NICs of their own", func(t *testing.T) { (&scene{s.Cluster, t}).network() })
	t.Run("parts of GPUs", func(t *testing.T) { (&scene{s.Cluster, t}).parts() })
	t.Run("they compete", func(t *testing.T) { (&scene{s.Cluster, t}).compete() })
	t.Run("Nomad picks the GPUs", func(t *testing.T) { (&scene{s.Cluster, t}).unpinned() })
	t.Run("several on one node", func(t *testing.T) { (&scene{s.Cluster, t}).shareANode() })
	t.Run("a node dies", func(t *testing.T) { (&scene{s.Cluster, t}).loseANode() })
}

// network has two GPUs on a machine where each NIC is shared by two: they get one each,
// and those of the next job too, although all GPUs are joined by NVSwitch.
func (s *scene) network() {
	const onSwitch = `constraint {
    attribute = "${node.unique.name}"
    value     = "switch"
  }`
	told := s.run(job{id: "talks", kind: "service", gpus: 2, constraint: onSwitch})
	must.StrContains(s.t, strings.Join(strings.Fields(told), " "), "network 50.0 GB/s for each GPU, NICs at PIX")
	first := s.running("talks", 1)[0]
	s.exact("talks", first)
	topology := s.governor("topology", "switch")
	for _, want := range []string{"NIC3", "NETWORK GB/s A GPU"} {
		must.StrContains(s.t, topology, want)
	}
	s.run(job{id: "talks-too", kind: "service", gpus: 2, constraint: onSwitch})
	second := s.running("talks-too", 1)[0]
	s.exact("talks-too", second)
	node, _, err := s.api().Nodes().Info(first.NodeID, nil)
	must.NoError(s.t, err)
	var order []string
	for _, d := range node.NodeResources.Devices[0].Instances {
		order = append(order, d.ID)
	}
	of := func(a *api.Allocation) (nics []int) {
		for _, id := range gpusOf(a) {
			nics = append(nics, slices.Index(order, id)/2) // two GPUs for each NIC
		}
		slices.Sort(nics)
		return nics
	}
	must.Eq(s.t, [][]int{{0, 1}, {0, 1}}, [][]int{of(first), of(second)}, must.Sprint("on one NUMA node, a NIC each"))
	for _, id := range []string{"talks", "talks-too"} {
		must.Eq(s.t, 0, s.nomad("job", "stop", "-detach", id).ExitCode)
	}
	s.eventually("nothing of them holds budget", func() error {
		if now := s.holds(); len(now) > 0 {
			return fmt.Errorf("%+v", now)
		}
		return nil
	})
}

// parts has shares, each of a GPU of its own while there are any, and MIG instances, all of
// one GPU while there are any.
func (s *scene) parts() {
	// on are the GPUs, by PCI address, that a new job's parts are of.
	on := func(id, device string, count int, why string) (gpus []string) {
		told := strings.Join(strings.Fields(s.run(job{id: id, device: device, kind: "service", gpus: count})), " ")
		must.StrContains(s.t, told, why)
		a := s.running(id, 1)[0]
		s.exact(id, a)
		node, _, err := s.api().Nodes().Info(a.NodeID, nil)
		must.NoError(s.t, err)
		for _, d := range node.NodeResources.Devices[0].Instances {
			if slices.Contains(gpusOf(a), d.ID) {
				gpus = append(gpus, d.Locality.PciBusID)
			}
		}
		slices.Sort(gpus)
		must.Len(s.t, count, gpus)
		return gpus
	}
	const shares, instances = "nvidia/gpu-share", "nvidia/mig"
	first := on("share-1", shares, 1, "share of a GPU on shared")
	second := on("share-2", shares, 1, "where the fewest shares are in use; out of 7 that are free")
	both := on("share-3", shares, 2, "2 shares of 2 GPUs on shared")
	all := slices.Concat(first, second, both)
	slices.Sort(all)
	must.Len(s.t, 4, slices.Compact(all), must.Sprint(first, second, both))
	must.Eq(s.t, on("slice-1", instances, 1, "MIG instance of a GPU on sliced"), slices.Compact(on("slice-2", instances, 2, "2 MIG instances of a GPU on sliced")))
	refused := s.nomad("job", "run", "-detach", job{id: "share-5", device: shares, gpus: 5}.file(s.t))
	must.NotEq(s.t, 0, refused.ExitCode)
	must.StrContains(s.t, strings.Join(strings.Fields(refused.Output()), " "), "asks for 5 x nvidia/gpu-share on one node, but the largest matching node, shared, has 4")
	for _, id := range []string{"share-1", "share-2", "share-3", "slice-1", "slice-2"} {
		must.Eq(s.t, 0, s.nomad("job", "stop", "-detach", id).ExitCode)
	}
	s.eventually("nothing of them holds budget", func() error {
		if now := s.holds(); len(now) > 0 {
			return fmt.Errorf("%+v", now)
		}
		return nil
	})
}

// compete submits more gangs at once than fit: at no time does one run in part, and all
// of them run.
func (s *scene) compete() {
	const gangs = 7
	wanted := map[string]int{}
	var files []string
	for i := range gangs {
		j := job{id: fmt.Sprintf("gang-%d", i), count: 2, gpus: 4, meta: gangMeta(), script: "exec sleep 4"}
		if i == 0 {
			j.count, j.gpus = 2, 8 // takes both large nodes, whole
		}
		wanted[j.id] = j.count
		files = append(files, j.file(s.t))
	}
	w := s.watch(wanted)
	outputs := make([]cluster.Result, gangs)
	var sending sync.WaitGroup
	for i, file := range files {
		sending.Go(func() { outputs[i], _ = s.Nomad(s.t.Context(), s.GovernorAddr, "job", "run", "-detach", file) })
	}
	sending.Wait()
	waited := 0
	for i, o := range outputs {
		must.Eq(s.t, 0, o.ExitCode, must.Sprintf("gang %d: %s", i, o.Output()))
		if strings.Contains(o.Output(), "gang_waits") {
			waited++
		}
	}
	must.Greater(s.t, 0, waited, must.Sprint("not all of them fit at once"))
	for i := range gangs {
		id := fmt.Sprintf("gang-%d", i)
		s.eventually(id+" has run", func() error {
			j, _, err := s.api().Jobs().Info(id, nil)
			must.NoError(s.t, err)
			if whole, _ := w.of(id); *j.Status != "dead" || whole == 0 {
				return cluster.Detail(func() string {
					return fmt.Sprintf("it is %s, and ran %d times: %s", *j.Status, whole, s.governor("queue", "list"))
				})
			}
			return nil
		})
	}
	must.NoError(s.t, w.err())
	for i := range gangs {
		whole, longest := w.of(fmt.Sprintf("gang-%d", i))
		must.Eq(s.t, 1, whole, must.Sprintf("gang %d ran once", i))
		must.Less(s.t, timeout, longest, must.Sprintf("gang %d ran in part", i))
	}
	must.StrNotContains(s.t, s.governor("audit", "list"), "gang.rolled_back")
}

// unpinned has gangs of which Nomad picks the GPUs, and of the second the nodes too: they
// wait all the same.
func (s *scene) unpinned() {
	of := func(id, mode string) job {
		j := job{id: id, count: 2, gpus: 8, meta: gangMeta()}
		j.meta["governor_placement"] = mode
		return j
	}
	s.run(of("prefers", "prefer"))
	s.running("prefers", 2)
	told := s.run(of("off", "off"))
	must.StrContains(s.t, told, "gang of 2 x 8 GPUs: 0 of 2 fit now (gang_waits)")
	must.Eq(s.t, 0, s.nomad("job", "stop", "-detach", "prefers").ExitCode)
	s.running("off", 2)
	for _, id := range []string{"prefers", "off"} {
		stored, _, err := s.api().Jobs().Info(id, nil)
		must.NoError(s.t, err)
		must.SliceEmpty(s.t, stored.TaskGroups[0].Tasks[0].Resources.Devices[0].Constraints, must.Sprint(id))
	}
	must.Eq(s.t, 0, s.nomad("job", "stop", "-detach", "off").ExitCode)
	s.eventually("their GPUs are free, and promised to nobody", func() error {
		plan := s.nomad("job", "plan", job{id: "next", count: 2, gpus: 8, meta: gangMeta()}.file(s.t)).Output()
		if !strings.Contains(strings.Join(strings.Fields(plan), " "), "gang of 2 x 8 GPUs on 2 nodes") || len(s.holds()) > 0 {
			return fmt.Errorf("%s", plan)
		}
		return nil
	})
}

// shareANode has one constraint for all allocations of a group on one node: each gets
// GPUs of its own out of the list, a set as good as those of the others, and no others.
func (s *scene) shareANode() {
	onSwitch := `constraint {
    attribute = "${node.unique.name}"
    value     = "switch"
  }`
	told := s.run(job{id: "pairs", count: 2, gpus: 2, meta: gangMeta(), constraint: onSwitch})
	must.StrContains(s.t, told, "gang of 2 x 2 GPUs on 1 node")
	must.StrNotContains(s.t, told, "Nomad divides")
	told = s.run(job{id: "singles", count: 4, gpus: 1, meta: gangMeta(), constraint: onSwitch})
	must.StrContains(s.t, told, "gang of 4 x 1 GPU on 1 node")
	pairs, singles := s.running("pairs", 2), s.running("singles", 4)
	s.exact("pairs", pairs...)
	s.exact("singles", singles...)
	had := map[string]bool{}
	for _, a := range slices.Concat(pairs, singles) {
		for _, id := range gpusOf(a) {
			must.False(s.t, had[id], must.Sprint(id))
			had[id] = true
		}
	}
	must.MapLen(s.t, 8, had)
	for _, id := range []string{"pairs", "singles"} {
		must.Eq(s.t, 0, s.nomad("job", "stop", "-detach", id).ExitCode)
	}
	s.eventually("nothing of them holds budget", func() error {
		if now := s.holds(); len(now) > 0 {
			return fmt.Errorf("%+v", now)
		}
		return nil
	})
}

// loseANode kills the node of one half of a gang, for which there is no other: the rest
// is stopped, its GPUs are free for others, and all of it runs again when the node is
// back. A service on another node that dies goes to the best set of the next.
func (s *scene) loseANode() {
	w := s.watch(map[string]int{"pair": 2})
	near := s.nomad("job", "plan", job{id: "near", count: 2, gpus: 4, meta: gangMeta(), constraint: `constraint {
    operator = "distinct_hosts"
    value    = "true"
  }`}.file(s.t))
	must.StrContains(s.t, strings.Join(strings.Fields(near.Output()), " "), `gang of 2 x 4 GPUs on 2 nodes of rack "`)
	told := s.run(job{id: "pair", count: 2, gpus: 8, meta: gangMeta()})
	must.StrContains(s.t, told, "gang of 2 x 8 GPUs on 2 nodes")
	both := s.running("pair", 2)
	s.exact("pair", both...)
	must.NotEq(s.t, both[0].NodeID, both[1].NodeID)
	for _, a := range both {
		must.Len(s.t, 8, gpusOf(a))
	}
	plan := s.nomad("job", "plan", job{id: "next", count: 2, gpus: 8, meta: gangMeta()}.file(s.t))
	must.StrContains(s.t, strings.Join(strings.Fields(plan.Output()), " "), `job "next" in namespace "default" would wait for GPUs: gang of 2 x 8 GPUs: 0 of 2 fit now (gang_waits)`)

	s.run(job{id: "serve", kind: "service", gpus: 2, constraint: `constraint {
    attribute = "${node.unique.name}"
    operator  = "set_contains_any"
    value     = "bridge,flat"
  }`})
	serving := s.running("serve", 1)[0]
	s.exact("serve", serving)
	must.Eq(s.t, "bridge", serving.NodeName, must.Sprint("NVLink bridges are better than none"))

	s.client("cube").Kill()
	s.client("bridge").Kill()
	s.eventually("the gang is stopped as a whole, and waits", func() error {
		j, _, err := s.api().Jobs().Info("pair", nil)
		must.NoError(s.t, err)
		if *j.Stop || !strings.Contains(fmt.Sprint(constraintsOf(j)), "held by governor: gang of 2 x 8 GPUs waits until all of it fits at once") {
			return cluster.Detail(func() string { return *j.Status + ": " + s.nomad("job", "status", "pair").Output() })
		}
		return nil
	})
	must.StrContains(s.t, s.governor("audit", "list"), `is stopped and waits again: the gang ran with 1 of its 2 allocations for`)
	must.StrContains(s.t, s.governor("job", "why", "pair"), "waits for GPUs")
	must.False(s.t, slices.ContainsFunc(s.holds(), func(h agent.HoldStatus) bool { return h.JobID == "pair" }), must.Sprint("who waits holds nothing"))
	s.run(job{id: "small", gpus: 2, script: "true", constraint: `constraint {
    attribute = "${node.unique.name}"
    value     = "switch"
  }`})

	moved := s.running("serve", 1)[0]
	must.Eq(s.t, "flat", moved.NodeName)
	s.exact("serve", moved)

	must.NoError(s.t, s.client("cube").Start(s.t.Context()))
	again := s.running("pair", 2)
	for _, a := range again {
		must.False(s.t, a.ID == both[0].ID || a.ID == both[1].ID)
	}
	s.exact("pair", again...)
	whole, longest := w.of("pair")
	must.Eq(s.t, 2, whole)
	must.Less(s.t, timeout+slack, longest)
	must.Greater(s.t, timeout-time.Second, longest, must.Sprint("it did run in part"))
	must.NoError(s.t, w.err())
	for _, id := range []string{"pair", "serve"} {
		must.Eq(s.t, 0, s.nomad("job", "stop", "-detach", id).ExitCode)
	}
}

func constraintsOf(j *api.Job) []string {
	var out []string
	for _, c := range j.TaskGroups[0].Constraints {
		out = append(out, c.RTarget)
	}
	return out
}
