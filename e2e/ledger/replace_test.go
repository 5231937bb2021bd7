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

// The allocation of a service fails, and somebody whom Governor did not place takes its
// GPUs before Nomad replaces it: Nomad would wait for exactly those for ever, although
// others are free. It plays alone: it needs all L40S.
func TestAJobWhoseGPUsWereStolenIsPlacedAnew(t *testing.T) {
	s := alone(t, "stolen")
	s.apply(routesPolicy("stolen", 4))
	s.governing()
	ends := s.endings()
	first := s.run(job{id: "serve", kind: "service", gpus: 2, device: l40s, script: `trap "exit 1" USR1; while true; do sleep 1; done`, inGroup: `reschedule {
      delay          = "15s"
      delay_function = "constant"
      unlimited      = true
    }`})[0]
	pinned := gpusOf(first)

	thief := job{id: "thief", kind: "service", gpus: 2, device: l40s}
	text := strings.Replace(thief.hcl(), "count = 2\n", `count = 2
          constraint {
            attribute = "${device.ids}"
            operator  = "set_contains"
            value     = "`+strings.Join(pinned, ",")+`"
          }
`, 1)
	file := filepath.Join(t.TempDir(), "thief.nomad.hcl")
	must.NoError(t, os.WriteFile(file, []byte(text), 0o644))
	sent := s.around("job", "run", "-detach", file)
	must.Eq(t, 0, sent.ExitCode, must.Sprint(sent.Output()))
	fail := s.nomad("alloc", "signal", "-s", "SIGUSR1", first.ID)
	must.Eq(t, 0, fail.ExitCode, must.Sprint(fail.Output()))
	must.Eq(t, pinned, gpusOf(s.running("thief", 1)[0]))
	hold := s.hold("serve")
	must.NotNil(t, hold, must.Sprint("Nomad says dead for a moment, and replaces it"))

	again := s.running("serve", 1)[0]
	must.SliceLen(t, 2, gpusOf(again))
	for _, id := range gpusOf(again) {
		must.SliceNotContains(t, pinned, id)
	}
	must.Eq(t, 1, s.version("serve"), must.Sprint("one new version, and no more"))
	s.holding("serve", 4)
	must.Eq(t, hold.ID, s.hold("serve").ID)
	s.says(s.governor("audit", "list").Output(), "placement.replaced", `job "serve" in namespace "stolen" waits for GPUs that others have or that are gone, and others are free: group g is placed anew`)

	for _, id := range []string{"serve", "thief"} {
		must.Eq(t, 0, s.nomad("job", "stop", "-detach", id).ExitCode)
		s.settled(id)
	}
	s.paidUntil(ends, "serve", "thief")
}
