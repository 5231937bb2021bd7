package passage_test

import (
	"bytes"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/shoenig/test/must"

	"github.com/nomad-governor/governor/e2e/cluster"
	"github.com/nomad-governor/governor/e2e/clustertest"
	"github.com/nomad-governor/governor/e2e/load"
	"github.com/nomad-governor/governor/quotaagent/agent"
)

// benchBudgets have room for every job of the benchmark.
const benchBudgets = `
governor {
  timezone = "UTC"
  currency = "USD"
}

gpu_class "v100" {
  devices = ["nvidia/gpu/Tesla V100-SXM2-16GB"]
}

rate_card "2026" {
  effective_from = "2026-01-01T00:00:00Z"

  gpu "v100" { per_hour = 0.90 }
}

budget "bench" {
  match {
    namespaces = ["default"]
  }

  limit "month" {
    cost = 1000000
  }

  per_job {
    default_runtime = "10m"
  }
}
`

// benchJob is a job that no node takes, with GPUs or without.
func benchJob(id string, gpus int) string {
	devices := ""
	if gpus > 0 {
		devices = fmt.Sprintf(`, "Resources": {"Devices": [{"Name": "nvidia/gpu", "Count": %d}]}`, gpus)
	}
	return fmt.Sprintf(`{"Job": {"ID": %q, "Name": %q, "Type": "batch", "Datacenters": ["nowhere"], "TaskGroups": [{"Name": "g",
		"Tasks": [{"Name": "t", "Driver": "exec", "Config": {"command": "/bin/true"}%s}]}]}, "Diff": true}`, id, id, devices)
}

// BenchmarkBesideNginxOnNomad compares the gate with nginx as a reverse proxy in front
// of a real Nomad, with the ledger on a real Consul, in turns in one run. Of
// registrations, which nginx does not decide, it tells what the gate adds: to jobs
// without GPUs, and to those that are held, and of these what it adds to a client that
// first makes a transaction of the size of a hold in Consul and then registers at Nomad:
// both write to disk, and who does two things that are slow once in a hundred times is slow
// twice. With one client it is latency that is measured, with eight what two cores can do.
// Registrations are timed in turns of one, since Nomad collects its garbage for 0.2 s at a
// time, and everything waits then.
func BenchmarkBesideNginxOnNomad(b *testing.B) {
	c := clustertest.Start(b, cluster.Options{Consul: true, Governor: true, GovernorLogLevel: "info", GovernorConfig: "gate {\n  infeasible = \"allow\"\n}\n",
		Clients: []cluster.ClientOptions{{Name: "client1", Fixture: "dgx1v"}}})
	file, err := c.WriteFile("bench.hcl", benchBudgets)
	must.NoError(b, err)
	applied, err := c.GovernorCLI(b.Context(), "budget", "apply", "-auto-approve", file)
	must.NoError(b, err)
	must.Eq(b, 0, applied.ExitCode, must.Sprint(applied.Output()))
	nginx, stop, err := load.StartNginx(b.TempDir(), c.NomadAddr)
	if errors.Is(err, load.ErrNoNginx) {
		b.Skip(err)
	}
	must.NoError(b, err)
	defer stop()
	var ids atomic.Int64
	for _, c1 := range []struct {
		name       string
		clients, n int
		of         func(side string) load.Request
	}{
		{"read", 8, 2000, func(string) load.Request { return load.Request{Method: "GET", Path: "/v1/jobs"} }},
		{"readAlone", 1, 2000, func(string) load.Request { return load.Request{Method: "GET", Path: "/v1/jobs"} }},
		{"plan", 8, 400, func(string) load.Request {
			return load.Request{Method: "PUT", Path: "/v1/job/train/plan", Body: benchJob("train", 2)}
		}},
		{"planNew", 8, 400, func(side string) load.Request {
			id := fmt.Sprintf("%s-%d", side, ids.Add(1))
			return load.Request{Method: "PUT", Path: "/v1/job/" + id + "/plan", Body: benchJob(id, 2)}
		}},
		{"register", 1, 100, func(side string) load.Request {
			id := ids.Add(1)
			return load.Request{Method: "PUT", Path: "/v1/jobs", Body: benchJob(fmt.Sprintf("%s-%d", side, id), 0)}
		}},
		{"registerGPU", 1, 100, func(side string) load.Request {
			time.Sleep(25 * time.Millisecond) // the gate writes once more after it has answered
			id := ids.Add(1)
			return load.Request{Method: "PUT", Path: "/v1/jobs", Body: benchJob(fmt.Sprintf("%s-%d", side, id), 2)}
		}},
	} {
		b.Run(c1.name, func(b *testing.B) {
			measure := func(address, side string) load.Result {
				r, err := load.Measure(address, c1.clients, c1.n, func(int) load.Request { return c1.of(side) })
				must.NoError(b, err)
				return r
			}
			perSecond, took := map[string][]float64{}, map[string][]time.Duration{} // by side, of all turns
			keep := func(side string, r load.Result) {
				perSecond[side], took[side] = append(perSecond[side], r.PerSecond), append(took[side], r.Took...)
			}
			spent := map[string]time.Duration{}
			one := map[string][]time.Duration{} // by side, of registrations in turns of one
			for b.Loop() {
				until := spending(b, c)
				keep("direct", measure(c.NomadAddr, "direct"))
				until(spent, "directly")
				keep("nginx", measure(nginx, "nginx"))
				until = spending(b, c)
				keep("gate", measure(c.GovernorAddr, "gate"))
				until(spent, "gate")
				if !strings.HasPrefix(c1.name, "register") {
					continue
				}
				inTurns, err := load.MeasureTurns(c1.n, registering(c, nginx, c1.of, c1.name == "registerGPU")...)
				must.NoError(b, err)
				for side, times := range inTurns {
					one[side] = append(one[side], times...)
				}
				forgetJobs(b, c)
			}
			sent := len(took["gate"])
			if len(one) > 0 {
				took = one
			}
			for side, rates := range perSecond {
				b.ReportMetric(load.Median(rates), side+"/s")
			}
			if !strings.HasPrefix(c1.name, "register") {
				b.ReportMetric(load.Median(perSecond["gate"])/load.Median(perSecond["nginx"]), "of-nginx")
			}
			for part, cpu := range spent {
				b.ReportMetric(float64(cpu.Microseconds())/float64(sent), part+"-µs")
			}
			reportAdded(b, took)
			b.ReportMetric(0, "ns/op")
		})
	}
}

// registering are the ways to register a job that are compared; with those of one that is
// held also the hold alone, and a client that writes it and then registers.
func registering(c *cluster.Cluster, nginx string, of func(side string) load.Request, held bool) []load.Side {
	sides := []load.Side{
		{Name: "direct", Address: c.NomadAddr, Of: func(int) load.Request { return of("direct") }},
		{Name: "nginx", Address: nginx, Of: func(int) load.Request { return of("nginx") }},
		{Name: "gate", Address: c.GovernorAddr, Of: func(int) load.Request { return of("gate") }},
	}
	if !held {
		return sides
	}
	return append(sides, load.Side{Name: "hold", Address: c.ConsulAddr, Of: holdAlone},
		load.Side{Name: "both", Address: c.NomadAddr, Of: func(i int) load.Request {
			q := of("both")
			q.First = &load.Other{Address: c.ConsulAddr, Request: holdAlone(i)}
			return q
		}})
}

// forgetJobs leaves Nomad and the books as they were before any job, so that each turn
// finds them like that: Nomad publishes metrics of every job each second, and keeps those
// of jobs that are gone until somebody scrapes them, 0.25 MB for each.
func forgetJobs(b *testing.B, c *cluster.Cluster) {
	b.Helper()
	client, err := c.API(c.NomadAddr)
	must.NoError(b, err)
	defer client.Close()
	governor, err := c.API(c.GovernorAddr)
	must.NoError(b, err)
	defer governor.Close()
	jobs, _, err := client.Jobs().List(nil)
	must.NoError(b, err)
	for _, j := range jobs {
		_, _, err := client.Jobs().Deregister(j.ID, true, nil)
		must.NoError(b, err)
	}
	must.NoError(b, client.System().GarbageCollect())
	must.NoError(b, cluster.Poll(b.Context(), "wait until nothing is held", func() error {
		var now agent.Status
		if _, err := governor.Raw().Query("/governor/v1/status", &now, nil); err != nil {
			return err
		}
		if n := len(now.Holds); n > 0 {
			return fmt.Errorf("%d jobs still hold something", n)
		}
		return nil
	}))
	scraped, err := client.Raw().Response("/v1/metrics?format=prometheus", nil)
	must.NoError(b, err)
	defer scraped.Close()
	_, err = io.Copy(io.Discard, scraped)
	must.NoError(b, err)
}

// reportAdded reports what is slower by the gate, and by nginx, than directly.
func reportAdded(b *testing.B, took map[string][]time.Duration) {
	b.Helper()
	for name, of := range map[string]int{"p50": 50, "p99": 99} {
		ms := func(side string) float64 { return float64(load.Quantile(took[side], of)) / 1e6 }
		b.ReportMetric(ms("gate")-ms("direct"), "ms-"+name+"-added")
		b.ReportMetric(ms("nginx")-ms("direct"), "ms-"+name+"-added-by-nginx")
		if len(took["both"]) > 0 {
			b.ReportMetric(ms("hold"), "ms-"+name+"-hold-alone")
			b.ReportMetric(ms("gate")-ms("both"), "ms-"+name+"-added-besides-hold")
		}
	}
}

// holdAlone is a transaction of the size of a hold: a hold, a balance and the mark of the
// commit.
func holdAlone(i int) load.Request {
	time.Sleep(25 * time.Millisecond) // as between registrations, and a second time where both are measured
	var ops []string
	for key, size := range map[string]int{fmt.Sprintf("bench/hold/%d", i): 1500, "bench/balance": 500, "bench/commit": 40} {
		value := base64.StdEncoding.EncodeToString(bytes.Repeat([]byte{'x'}, size))
		ops = append(ops, fmt.Sprintf(`{"KV": {"Verb": "set", "Key": %q, "Value": %q}}`, key, value))
	}
	return load.Request{Method: "PUT", Path: "/v1/txn", Body: "[" + strings.Join(ops, ",") + "]"}
}

// spending begins to count the CPU time of the gate, of Nomad's server and of Consul,
// which share the machine's cores.
func spending(b *testing.B, c *cluster.Cluster) func(sum map[string]time.Duration, side string) {
	b.Helper()
	parts := []*cluster.Process{c.Governor, c.Server, c.Consul}
	before := make([]time.Duration, len(parts))
	for i, p := range parts {
		before[i] = cpuTime(b, p.PID())
	}
	return func(sum map[string]time.Duration, side string) {
		for i, p := range parts {
			sum[side+"-"+p.Name] += cpuTime(b, p.PID()) - before[i]
		}
	}
}

// cpuTime is what the kernel has counted for a process, in ticks of ten milliseconds.
func cpuTime(b *testing.B, pid int) time.Duration {
	b.Helper()
	raw, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	must.NoError(b, err)
	_, rest, _ := strings.Cut(string(raw), ") ")
	fields := strings.Fields(rest)
	ticks := 0
	for _, field := range fields[11:13] { // utime and stime
		n, err := strconv.Atoi(field)
		must.NoError(b, err)
		ticks += n
	}
	return time.Duration(ticks) * 10 * time.Millisecond
}
