package ledger_test

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/hashicorp/nomad/api"
	"github.com/shoenig/test/must"
)

// gpusOf are the devices of an allocation.
func gpusOf(a *api.Allocation) []string {
	var ids []string
	for _, task := range a.AllocatedResources.Tasks {
		for _, d := range task.Devices {
			ids = append(ids, d.DeviceIDs...)
		}
	}
	slices.Sort(ids)
	return ids
}

// beside is the job with another group that runs on its own GPU.
func beside(j job) string {
	text := j.hcl()
	at, end := strings.Index(text, "  group \"g\" {"), strings.LastIndex(text, "}\n")
	other := strings.NewReplacer(`group "g"`, `group "side"`, "count = 2\n", "count = 1\n", l40s, h100, `trap "exit 1" USR1; while true; do sleep 1; done`, "exec sleep 3600").Replace(text[at:end])
	return text[:end] + other + text[end:]
}

// of are the allocations of one group.
func of(group string, all []*api.Allocation) *api.Allocation {
	at := slices.IndexFunc(all, func(a *api.Allocation) bool { return a.TaskGroup == group })
	return all[at]
}

// An allocation of a service fails, and somebody whom Governor did not place takes its
// GPUs before Nomad replaces it: Nomad would wait for exactly those for ever, although
// others are free. What runs of the job is not touched. It plays alone: it needs all L40S.
func TestAJobWhoseGPUsWereStolenIsPlacedAnew(t *testing.T) {
	s := alone(t, "stolen")
	s.apply(strings.Replace(routesPolicy("stolen", 6), "gpu_hours = 100", "gpu_hours = 1000", 1))
	s.governing()
	ends := s.endings()
	write := func(name, text string) string {
		file := filepath.Join(t.TempDir(), name+".nomad.hcl")
		must.NoError(t, os.WriteFile(file, []byte(text), 0o644))
		return file
	}
	serve := write("serve", beside(job{id: "serve", kind: "service", gpus: 2, device: l40s, script: `trap "exit 1" USR1; while true; do sleep 1; done`, inGroup: `reschedule {
      delay          = "15s"
      delay_function = "constant"
      unlimited      = true
    }`}))
	run := s.nomad("job", "run", "-detach", serve)
	must.Eq(t, 0, run.ExitCode, must.Sprint(run.Output()))
	both := s.running("serve", 2)
	first, side := of("g", both), of("side", both)
	pinned := gpusOf(first)

	thief := job{id: "thief", kind: "service", gpus: 2, device: l40s}
	text := strings.Replace(thief.hcl(), "count = 2\n", `count = 2
          constraint {
            attribute = "${device.ids}"
            operator  = "set_contains"
            value     = "`+strings.Join(pinned, ",")+`"
          }
`, 1)
	sent := s.around("job", "run", "-detach", write("thief", text))
	must.Eq(t, 0, sent.ExitCode, must.Sprint(sent.Output()))
	fail := s.nomad("alloc", "signal", "-s", "SIGUSR1", first.ID)
	must.Eq(t, 0, fail.ExitCode, must.Sprint(fail.Output()))
	must.Eq(t, pinned, gpusOf(s.running("thief", 1)[0]))
	hold := s.hold("serve")
	must.NotNil(t, hold, must.Sprint("Nomad says dead for a moment, and replaces it"))

	both = s.running("serve", 2)
	must.Eq(t, side.ID, of("side", both).ID, must.Sprint("what runs goes on"))
	must.Eq(t, gpusOf(side), gpusOf(of("side", both)))
	again := gpusOf(of("g", both))
	must.SliceLen(t, 2, again)
	for _, id := range again {
		must.SliceNotContains(t, pinned, id)
	}
	must.Eq(t, 1, s.version("serve"), must.Sprint("one new version, and no more"))
	s.holding("serve", 5)
	must.Eq(t, hold.ID, s.hold("serve").ID)
	s.says(s.governor("audit", "list").Output(), "placement.replaced", `job "serve" in namespace "stolen" waits for GPUs that others have or that are gone, and others are free: group g is placed anew`)

	for _, id := range []string{"serve", "thief"} {
		must.Eq(t, 0, s.nomad("job", "stop", "-detach", id).ExitCode)
		s.settled(id)
	}
	s.paidUntil(ends, "serve", "thief")
}
