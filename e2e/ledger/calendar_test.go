package ledger_test

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/hashicorp/nomad/api"
	"github.com/shoenig/test/must"

	"github.com/nomad-governor/governor/e2e/cluster"
	"github.com/nomad-governor/governor/e2e/clustertest"
	"github.com/nomad-governor/governor/internal/quantity"
	"github.com/nomad-governor/governor/quotaagent/budget"
)

// zone is a time zone that is made for a test: its clock shows before until an
// instant, and after from then on.
type zone struct {
	at            time.Time
	before, after time.Duration
}

// file is the zone as a TZif file of version 1 (RFC 8536).
func (z zone) file() []byte {
	var b bytes.Buffer
	put := func(v any) { _ = binary.Write(&b, binary.BigEndian, v) } // a Buffer takes everything
	b.WriteString("TZif")
	b.Write(make([]byte, 16))
	put([]uint32{0, 0, 0, 1, 2, 8}) // one transition, two types, eight bytes of names
	put(uint32(z.at.Unix()))
	put(uint8(1))
	put(int32(z.before.Seconds()))
	put([]uint8{1, 0})
	put(int32(z.after.Seconds()))
	put([]uint8{0, 4})
	b.WriteString("TDT\x00TST\x00")
	return b.Bytes()
}

// soonest is the whole minute to come that is not too near to start a job before.
func soonest() time.Time {
	return time.Now().Add(100 * time.Second).Truncate(time.Minute)
}

// offsetFor is the offset from UTC of a clock that shows this hour at an instant.
func offsetFor(at time.Time, hour int) time.Duration {
	offset := time.Duration(hour)*time.Hour - at.UTC().Sub(at.UTC().Truncate(24*time.Hour))
	if offset < -12*time.Hour {
		offset += 24 * time.Hour
	}
	return offset
}

// A day ends while a job runs, and a day has 25 hours: what the job used is in the
// periods in which it used it, to the millisecond.
func TestPeriodsEndUnderARunningJob(t *testing.T) {
	t.Parallel()
	zones := t.TempDir()
	must.NoError(t, os.Mkdir(filepath.Join(zones, "Test"), 0o755))
	c := clustertest.Start(t, cluster.Options{Consul: true, Governor: true, GovernorEnv: []string{"ZONEINFO=" + zones},
		Clients: []cluster.ClientOptions{{Name: "turn", Fixture: "l40s-x4"}}})
	s := &scene{Cluster: c, t: t, name: "turn"}
	_, err := s.api().Namespaces().Register(&api.Namespace{Name: s.name}, nil)
	must.NoError(t, err)
	runOver := func(name string, z zone, at time.Time) *api.Allocation {
		must.NoError(t, os.WriteFile(filepath.Join(zones, "Test", name), z.file(), 0o644))
		s.put(name)
		a := s.run(job{id: name, gpus: 2, device: l40s, meta: map[string]string{"governor_max_runtime": "30m"}})[0]
		must.True(t, time.Now().Before(at), must.Sprint("the job started too late for this test"))
		time.Sleep(time.Until(at.Add(3 * time.Second)))
		must.Eq(t, 0, s.nomad("job", "stop", "-detach", name).ExitCode)
		a = s.ended(a.ID)
		s.settled(name)
		return a
	}
	used := func(from, to int64) quantity.Amount { return quantity.Amount(2 * (to - from)) }

	// Midnight comes while the job runs.
	at := soonest()
	midnight := offsetFor(at, 0)
	a := runOver("midnight", zone{at.Add(-240 * time.Hour), midnight, midnight}, at)
	created, ended := a.CreateTime/1e6, a.ModifyTime/1e6
	day := s.limit("turn", budget.Day, budget.GPUTime(budget.AnyClass))
	must.Eq(t, at.UTC(), day.Start.UTC())
	must.Eq(t, used(at.UnixMilli(), ended), day.Posted)
	must.Eq(t, 0, day.Held)
	total := s.limit("turn", budget.Total, budget.GPUTime(budget.AnyClass)).Posted
	must.Eq(t, used(created, ended), total)

	// The clock goes back from three to two: the day has 25 hours, and the hour
	// comes twice.
	at = soonest()
	summer := offsetFor(at, 3)
	a = runOver("twice", zone{at, summer, summer - time.Hour}, at)
	created, ended = a.CreateTime/1e6, a.ModifyTime/1e6
	day = s.limit("turn", budget.Day, budget.GPUTime(budget.AnyClass))
	must.Eq(t, 25*time.Hour, day.End.Sub(*day.Start))
	must.Eq(t, at.Add(-3*time.Hour).UTC(), day.Start.UTC())
	hour := s.limit("turn", budget.Hour, budget.GPUTime(budget.AnyClass))
	must.Eq(t, at.UTC(), hour.Start.UTC())
	must.Eq(t, time.Hour, hour.End.Sub(*hour.Start))
	must.Eq(t, used(at.UnixMilli(), ended), hour.Posted)
	must.Eq(t, total+used(created, ended), s.limit("turn", budget.Total, budget.GPUTime(budget.AnyClass)).Posted)
}

// put applies the budgets of this cluster with a time zone.
func (s *scene) put(zone string) {
	s.t.Helper()
	file := filepath.Join(s.t.TempDir(), "turn.hcl")
	must.NoError(s.t, os.WriteFile(file, fmt.Appendf(nil, `
governor {
  timezone = "Test/%s"
}

gpu_class "l40s" {
  devices = ["nvidia/gpu/NVIDIA L40S"]
}

budget "turn" {
  match {
    namespaces = ["turn"]
  }
  limit "hour" {
    gpu_hours = 50
  }
  limit "day" {
    gpu_hours = 100
  }
  limit "total" {
    gpu_hours = 1000
  }
}
`, zone), 0o644))
	result := s.governor("budget", "apply", "-auto-approve", file)
	must.Eq(s.t, 0, result.ExitCode, must.Sprint(result.Output()))
}
