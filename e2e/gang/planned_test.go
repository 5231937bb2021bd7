package gang_test

import (
	"fmt"
	"strings"
	"testing"

	"github.com/shoenig/test/must"

	"github.com/nomad-governor/governor/e2e/cluster"
	"github.com/nomad-governor/governor/e2e/clustertest"
)

// A gang of a whole machine waits while small jobs keep that busy. Once it has waited for
// long its GPUs are set aside: what is over before it starts still gets some, what may
// not be waits behind it, and it starts when those before it are gone.
func TestSmallJobsDoNotKeepAGangFromStarting(t *testing.T) {
	s := &scene{Cluster: clustertest.Start(t, cluster.Options{Consul: true, Governor: true, GovernorConfig: "placement {\n  gang_plan_after = \"2s\"\n}\n",
		Clients: []cluster.ClientOptions{{Name: "cube", Fixture: "dgx1v"}}}), t: t}
	s.apply()
	short := map[string]string{"governor_max_runtime": "20m"}
	s.run(job{id: "large", gpus: 6, meta: short})
	s.run(job{id: "small", gpus: 1, meta: short})
	s.running("large", 1)
	s.running("small", 1)
	told := s.run(job{id: "gang", count: 2, gpus: 4, meta: gangMeta()})
	must.StrContains(t, told, "gang of 2 x 4 GPUs: 0 of 2 fit now (gang_waits)")
	s.eventually("GPUs are set aside for the gang", func() error {
		if list := s.governor("queue", "list"); !strings.Contains(list, "8 GPUs are set aside for it, which are free by") {
			return fmt.Errorf("%s", list)
		}
		return nil
	})
	must.StrContains(t, s.governor("audit", "list"), "gang.planned")

	// The last free GPU is for work that is over in time only.
	told = s.run(job{id: "long", gpus: 1})
	must.StrContains(t, told, `job "long" in namespace "default" waits for GPUs: no GPUs are free for it but those that are set aside for gang default/gang, which starts by`)
	must.StrContains(t, s.governor("job", "why", "long"), "(planned_for_gang)")
	plan := s.nomad("job", "plan", job{id: "longer", gpus: 1}.file(t))
	must.StrContains(t, strings.Join(strings.Fields(plan.Output()), " "), `job "longer" in namespace "default" would wait for GPUs`)
	s.run(job{id: "quick", gpus: 1, meta: map[string]string{"governor_max_runtime": "1m"}})
	s.exact("quick", s.running("quick", 1)...)

	// What is given back is the gang's, and nobody's who waits behind it.
	for _, id := range []string{"small", "quick", "large"} {
		must.Eq(t, 0, s.nomad("job", "stop", "-detach", id).ExitCode)
	}
	gang := s.running("gang", 2)
	s.exact("gang", gang...)

	// With that nothing is set aside any more, and it has its turn: with GPUs of its own
	// choice if that comes when the gang is gone, else by Nomad's queue.
	must.Eq(t, 0, s.nomad("job", "stop", "-detach", "gang").ExitCode)
	long := s.running("long", 1)[0]
	for _, a := range gang {
		must.Greater(t, a.CreateIndex, long.CreateIndex, must.Sprint("the gang came first"))
	}
}
