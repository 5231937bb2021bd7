package web_test

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"sync"
	"time"

	"github.com/nomad-governor/governor/hcl/budgetspec"
	"github.com/nomad-governor/governor/internal/gpu/topology"
	"github.com/nomad-governor/governor/internal/quantity"
	"github.com/nomad-governor/governor/quotaagent/admission"
	"github.com/nomad-governor/governor/quotaagent/audit"
	"github.com/nomad-governor/governor/quotaagent/budget"
	"github.com/nomad-governor/governor/quotaagent/forecast"
	"github.com/nomad-governor/governor/quotaagent/ledger"
	"github.com/nomad-governor/governor/quotaagent/report"
	"github.com/nomad-governor/governor/quotaagent/web"
)

// now is when all tests play.
var now = time.Date(2026, 3, 10, 12, 0, 0, 0, time.UTC)

// errStore is why the store cannot be read, with an address that nobody must see.
var errStore = errors.New("dial 10.1.2.3:8500: connection refused")

// fake is a small cluster with everything that pages tell of.
type fake struct {
	mu       sync.Mutex
	acl      bool
	closed   bool // Nomad says of nobody who that is
	overview *web.Overview
	jobs     map[string]web.JobDetail
	cluster  *web.Cluster
	policy   web.Policy
	records  []audit.Record
	receipts []report.Receipt
	decided  []web.Decision
	// incomplete is whose decisions are missing.
	incomplete []string
	// store and nomad are why they cannot be read; history why there is none.
	store, nomad, history error
	reads                 int
}

// tokens of the fake Nomad: what they are called, and which namespaces they read.
var tokens = map[string]web.Viewer{
	"secret-root":  {Name: "root", Manages: true, Reads: func(string) bool { return true }},
	"secret-alice": {Name: "alice", Reads: func(namespace string) bool { return namespace == "research" }},
}

// Enter implements web's door.
func (f *fake) Enter(r *http.Request) (web.Viewer, error) {
	if f.closed {
		return web.Viewer{}, &web.Problem{Status: http.StatusServiceUnavailable, Text: "Nomad cannot be asked who you are now."}
	}
	if !f.acl {
		return web.Viewer{Name: "anonymous", Open: true, Manages: true, Reads: func(string) bool { return true }}, nil
	}
	if v, ok := tokens[r.Header.Get("X-Nomad-Token")]; ok {
		return v, nil
	}
	return web.Viewer{}, &web.Problem{Status: http.StatusForbidden, Text: "a Nomad token is needed"}
}

// Overview implements web's books.
func (f *fake) Overview(context.Context) (*web.Overview, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.reads++
	return f.overview, f.store
}

// Job implements web's books.
func (f *fake) Job(_ context.Context, namespace, id string) (web.JobDetail, error) {
	if d, ok := f.jobs[namespace+"/"+id]; ok {
		return d, f.store
	}
	return web.JobDetail{State: "unknown", Text: fmt.Sprintf("job %q in namespace %q neither waits for budget nor holds any", id, namespace)}, f.store
}

// Overrides implements web's books.
func (f *fake) Overrides(context.Context) ([]web.Override, error) {
	return []web.Override{{ID: "o-1", Budget: "acme/research", Rule: "incident", State: "active", Reason: "paper deadline", Requester: "22222222-user", Adds: []string{"cost 500.00 USD"}, From: now.Add(-time.Hour), Until: now.Add(23 * time.Hour)}}, f.store
}

// Statement implements web's past.
func (f *fake) Statement(_ context.Context, q report.Query) (report.Statement, error) {
	if f.history != nil {
		return report.Statement{}, f.history
	}
	if q.From.IsZero() {
		q.From, q.To, _ = report.ParseTime("", "", now, time.UTC)
	}
	value := map[report.Column]string{report.Budget: "acme/research", report.Namespace: "research", report.Job: "train", report.Class: "h100"}
	var rows []report.Row
	for day := 2; day < 10; day++ {
		value[report.Day] = fmt.Sprintf("2026-03-%02d", day)
		row := report.Row{Kind: ledger.UsageEntry, Amounts: report.Amounts{GPUTime: quantity.Amount(day) * quantity.GPUHour, Cost: quantity.Amount(day) * 2_900_000}}
		for _, c := range q.By {
			row.Key = append(row.Key, value[c])
		}
		rows = append(rows, row)
	}
	s := report.Make(q, "UTC", "USD", rows)
	s.CompleteTo = now
	return s, nil
}

// Receipts implements web's past.
func (f *fake) Receipts(_ context.Context, namespace, job string, limit int) ([]report.Receipt, error) {
	var out []report.Receipt
	for _, r := range f.receipts {
		if job == "" || (r.Namespace == namespace && r.JobID == job) {
			out = append(out, r)
		}
	}
	return out[:min(limit, len(out))], f.history
}

// Decisions implements web's past.
func (f *fake) Decisions(_ context.Context, limit int) (web.Decisions, error) {
	return web.Decisions{List: slices.Clone(f.decided[:min(limit, len(f.decided))]), Incomplete: f.incomplete}, f.history
}

// Decision implements web's past.
func (f *fake) Decision(_ context.Context, id string) (*web.DecisionDetail, error) {
	for _, d := range f.decided {
		if d.Number != id {
			continue
		}
		e, revision := admission.Reason(d.Reason).Explain(), f.policy.Revision
		if d.Plan {
			revision = "1c920f16ace2b7f0" // an earlier one
		}
		return &web.DecisionDetail{Decision: d, Request: "register", Source: "budgets.hcl:3", Revision: revision, Meaning: e.Meaning, Author: e.Author, Operator: e.Operator,
			Agent: "agent-1"}, f.history
	}
	return nil, f.history
}

// Forecast implements web's past.
func (f *fake) Forecast(context.Context) (web.Forecast, error) {
	if f.history != nil {
		return web.Forecast{}, f.history
	}
	end, out := quantity.Amount(136_000_000), now.Add(4*24*time.Hour)
	return web.Forecast{Days: 8, Forecast: forecast.Forecast{Limits: []forecast.Limit{
		{Budget: "acme/research", Window: "month", Dimension: string(budget.Cost), Limit: 12_000_000_000, AtEnd: &end},
		{Budget: "acme/serving", Window: "month", Dimension: string(budget.Cost), Limit: 100_000_000, RunsOut: &out},
	}}}, nil
}

// Budget implements web's rules.
func (f *fake) Budget(path string) *web.Detail {
	for _, b := range f.overview.Budgets {
		if b.Path == path {
			return &web.Detail{Path: path, Description: "Research & <models>", Owner: b.Owner, Source: "budgets.hcl:63", Settings: []budget.EffectiveSetting{
				{Name: "limit month cost", Value: "12,000.00 USD", From: path, Source: "budgets.hcl:71"}, {Name: "lease", Value: "24h", From: "default"}}}
		}
	}
	return nil
}

// Policy implements web's rules.
func (f *fake) Policy() web.Policy { return f.policy }

// Revisions implements web's rules.
func (f *fake) Revisions(context.Context) ([]web.Revision, error) {
	if len(f.policy.Files) == 0 {
		return nil, f.store
	}
	return []web.Revision{{Nr: 2, Digest: "99fe51006984abcdef", Author: "11111111-root", Commit: "0a1b2c3d4e5f", Time: now.Add(-time.Hour), Changes: []string{"~ budget acme/research limit month cost: 10,000.00 USD -> 12,000.00 USD"}},
		{Nr: 1, Digest: "51006984abcdef0099", Author: "kv-edit", Time: now.Add(-48 * time.Hour), Changes: []string{"+ budget acme"}}}, f.store
}

// Map implements web's cluster.
func (f *fake) Map(context.Context) (*web.Cluster, error) { return f.cluster, f.nomad }

// Records implements web's audit log.
func (f *fake) Records(_ context.Context, from uint64) ([]audit.Record, uint64, error) {
	var out []audit.Record
	for _, r := range f.records {
		if r.Seq >= from {
			out = append(out, r)
		}
	}
	return out, uint64(len(f.records)), f.store
}

func usage(hours int64) ledger.Usage {
	return ledger.Usage{GPUTime: map[string]quantity.Amount{"h100": quantity.Amount(hours) * quantity.GPUHour}, Cost: quantity.Amount(hours) * 2_900_000}
}

// empty is an agent that was just installed.
func empty() *fake {
	return &fake{overview: &web.Overview{Time: now, Currency: "USD", Enforcement: "enforce", Observed: true}, cluster: &web.Cluster{}, jobs: map[string]web.JobDetail{}, policy: web.Policy{Enforcement: "enforce"}}
}

// busy is one that has something for every part of the pages.
func busy() *fake {
	f := empty()
	month, next := time.Date(2026, 3, 1, 0, 0, 0, 0, time.UTC), time.Date(2026, 4, 1, 0, 0, 0, 0, time.UTC)
	gpus := web.Limit{Window: "concurrent", Dimension: string(budget.GPUs(budget.AnyClass)), Limit: 12 * quantity.GPU, Held: 12 * quantity.GPU, Source: "budgets.hcl:80", Health: "full"}
	cost := web.Limit{Window: "month", Start: &month, End: &next, Dimension: string(budget.Cost), Limit: 12_000_000_000, Posted: 127_600_000, Held: 57_990_000, Available: 11_814_410_000, Source: "budgets.hcl:71", Health: "ok"}
	over := web.Limit{Window: "month", Start: &month, End: &next, Dimension: string(budget.Cost), Limit: 100_000_000, Posted: 130_000_000, Available: -30_000_000, Source: "budgets.hcl:102", Health: "overdrawn"}
	o := f.overview
	o.Revision, o.Author, o.Since = "99fe51006984abcdef", "11111111-root", now.Add(-time.Hour)
	o.Budgets = []web.Budget{{Path: "acme", Owner: "finops@acme.example", Limits: []web.Limit{{Window: "total", Dimension: string(budget.GPUTime(budget.AnyClass)), Unlimited: true, Source: "budgets.hcl:50"}}},
		{Path: "acme/research", Limits: []web.Limit{gpus, cost}, Queued: 1}, {Path: "acme/serving", Limits: []web.Limit{over}}}
	stop := now.Add(10 * time.Minute)
	train := web.Job{HoldID: "h-1", Namespace: "research", ID: "train", Budget: "acme/research", State: "active", Created: now.Add(-2 * time.Hour), Submitter: "22222222-user", GPUs: 3, Allocs: 1,
		Estimate: usage(40), Posted: usage(6), Held: usage(34), Placement: []web.Placed{{Alloc: "a11oc000-1111", Node: "client1", IDs: []string{"GPU-0", "GPU-3", "GPU-4"}}}}
	o.Jobs = []web.Job{train,
		{HoldID: "h-2", Namespace: "inference", ID: "chat", Budget: "acme/serving", State: "active", Created: now.Add(-time.Hour), GPUs: 1, Allocs: 1, Estimate: usage(24), Posted: usage(44),
			Ending: &web.Ending{Action: "stop", Cause: "budget_exhausted", Budget: "acme/serving", Why: "its budget is overdrawn", Stop: &stop}}}
	expected := now.Add(3 * time.Hour)
	wait := web.Waiting{Namespace: "research", ID: `<script>alert("x")</script>`, Budget: "acme/research", State: "waiting", Position: 1, Of: 1, Overall: 1, Need: "4 x h100 for up to 2h", Estimate: usage(8), GPUs: 4,
		Submitter: "22222222-user", Since: now.Add(-20 * time.Minute), Expected: &expected, Reason: "concurrency_limit", Detail: "it needs 4 GPUs, and budget acme/research has 0 GPUs left"}
	o.Waiting = []web.Waiting{wait}
	o.Strays = []web.Stray{{Namespace: "default", ID: "around", Alloc: "57a1", Node: "client2", GPUs: []string{"GPU-9"}}}
	o.Idle = []web.Idle{{Namespace: "research", ID: "train", Budget: "acme/research", Alloc: "a11oc000-1111", Node: "client1", GPUs: []string{"GPU-0"}, Since: now.Add(-30 * time.Minute)}}
	o.Ways = &web.Ways{Open: 1, Codes: []string{"acls_disabled"}}
	f.fillJobs(train, wait)
	f.fillCluster()
	f.fillRecords()
	return f
}

func (f *fake) fillJobs(train web.Job, wait web.Waiting) {
	f.decided = []web.Decision{{Number: "d-3f9c1a0b-4", AtMS: now.Add(-20 * time.Minute).UnixMilli(), Namespace: "research", ID: wait.ID, Outcome: "queue", Reason: "concurrency_limit", Budget: "acme/research", GPUs: 4, Text: "it waits"},
		{Number: "d-3f9c1a0b-3", AtMS: now.Add(-2 * time.Hour).UnixMilli(), Namespace: "research", ID: "train", Outcome: "admit", Reason: "fits", Budget: "acme/research", Submitter: "22222222-user", GPUs: 3, Text: "at most 3 x h100 for up to 13h20m = 40 GPU-hours"},
		{Number: "d-3f9c1a0b-2", AtMS: now.Add(-3 * time.Hour).UnixMilli(), Namespace: "inference", ID: "huge", Outcome: "deny", Reason: "exceeds_job_cap", Budget: "acme/serving", GPUs: 64},
		{Number: "d-3f9c1a0b-1", AtMS: now.Add(-3 * time.Hour).UnixMilli(), Namespace: "research", ID: "train", Outcome: "admit", Reason: "fits", Budget: "acme/research", GPUs: 3, Plan: true}}
	lines := []ledger.Line{{Group: "g", Count: 1, RuntimeMS: 48_000_000, OnceMS: 24_000_000, Starts: 2, Needs: []ledger.Need{{Classes: []string{"h100"}, GPUs: 3, PerGPUHour: 2_900_000}}}}
	var used []web.UsedGPU
	for i, id := range []string{"GPU-0", "GPU-3", "GPU-4"} {
		used = append(used, web.UsedGPU{ID: id, Class: "h100", PerGPUHour: 2_900_000, Percent: int64(90 + i)})
	}
	f.jobs["research/train"] = web.JobDetail{State: "running", Budget: "acme/research", Reason: "fits", Text: "job \"train\" in namespace \"research\" runs\n  budget      it was admitted with at most 40 GPU-hours", Job: &train,
		Asked: "3 x h100 for up to 13h20m = 40 GPU-hours, 116.00 USD", Lines: lines, Decisions: f.decided[1:2],
		Allocations: []web.Allocation{{ID: "a11oc000-1111", Name: "train.g[0]", Group: "g", Node: "node-1", Start: now.Add(-2 * time.Hour), Posted: now, GPUs: used}}}
	f.jobs["research/"+wait.ID] = web.JobDetail{State: "waiting", Budget: "acme/research", Reason: wait.Reason, Text: "job waits for budget: " + wait.Detail, Waiting: &wait, Asked: wait.Need, Lines: lines, Decisions: f.decided[:1]}
	f.receipts = []report.Receipt{{HoldID: "h-0", Namespace: "research", JobID: "train", Budget: "acme/research", Outcome: "settled", CreatedMS: now.Add(-50 * time.Hour).UnixMilli(), EndedMS: now.Add(-48 * time.Hour).UnixMilli(),
		Items: []report.Item{{Name: "gpu_ms/h100", Held: 8 * quantity.GPUHour, Posted: 6 * quantity.GPUHour, Voided: 2 * quantity.GPUHour}, {Name: "energy_j"}, {Name: "cost", Held: 23_200_000, Posted: 17_400_000, Voided: 5_800_000}}}}
}

// fillCluster makes one node of eight GPUs in a cube mesh, and one of which nothing is
// known.
func (f *fake) fillCluster() {
	m := topology.New(8, 25_781, 31_500)
	for i := range 8 {
		m.SetNUMA(i, i/4)
		for j := i + 1; j < 8; j++ {
			m.Set(i, j, 0, topology.PathSystem)
		}
	}
	for _, l := range [][3]int{{0, 1, 1}, {0, 2, 1}, {0, 3, 2}, {0, 4, 2}, {1, 2, 2}, {1, 3, 1}, {1, 5, 2}, {2, 3, 2}, {2, 6, 1}, {3, 7, 1}, {4, 5, 1}, {4, 6, 1}, {4, 7, 2}, {5, 6, 2}, {5, 7, 1}, {6, 7, 2}} {
		m.Set(l[0], l[1], l[2], topology.PathSystem)
	}
	g := web.Group{Device: "nvidia/gpu/NVIDIA H100 80GB HBM3", Free: 3, Islands: m.Islands(), Topology: m.Encode(), Sets: []web.Set{{GPUs: 2, Indexes: []int{5, 6}, RingMBps: 40_000, IdealMBps: 41_000, NetworkMBps: 12_500, NICPath: "PXB"}},
		NICs: []web.NIC{{MBps: 12_500, Paths: []string{"PXB", "PXB", "NODE", "NODE", "SYS", "SYS", "SYS", "SYS"}}, {MBps: 12_500, Paths: []string{"SYS", "SYS", "SYS", "SYS", "PXB", "PXB", "NODE", "NODE"}}}}
	for i := range 8 {
		gpu := web.GPU{Index: i, ID: fmt.Sprintf("GPU-%d", i), PCIBusID: fmt.Sprintf("0000:%02x:00.0", i), NUMANode: i / 4, State: "free", Percent: -1}
		switch i {
		case 0, 3, 4:
			gpu.State, gpu.Alloc, gpu.Namespace, gpu.Job, gpu.Percent = "held", "a11oc000-1111", "research", "train", 90
		case 7:
			gpu.State, gpu.Alloc, gpu.Namespace, gpu.Job = "held", "b22", "inference", "chat"
		case 1:
			gpu.State = "unhealthy"
		}
		g.GPUs = append(g.GPUs, gpu)
		row := make([]string, 8)
		for j := range row {
			row[j] = "SYS"
			if n := m.Links(i, j); n > 0 {
				row[j] = fmt.Sprintf("NV%d", n)
			}
		}
		row[i] = "X"
		g.Links = append(g.Links, row)
	}
	other := web.Group{Device: "nvidia/gpu/NVIDIA L40S", GPUs: []web.GPU{{ID: "GPU-9", NUMANode: -1, State: "freeing", Namespace: "default", Job: "around", Percent: -1}}}
	f.cluster = &web.Cluster{Nodes: []web.Node{{ID: "node-1", Name: "client1", Datacenter: "dc1", Pool: "default", Ready: true, Groups: []web.Group{g}}, {ID: "node-2", Name: "client2", Datacenter: "dc1", Pool: "gpu", Groups: []web.Group{other}}},
		Room: []web.Room{{Device: g.Device, Total: 8, Free: 3, Fits: []web.Fits{{GPUs: 1, Allocations: 3}, {GPUs: 2, Allocations: 1}, {GPUs: 4}}}}}
}

func (f *fake) fillRecords() {
	f.records = []audit.Record{{Seq: 1, AtMS: now.Add(-48 * time.Hour).UnixMilli(), Kind: "policy.edited", Actor: "kv-edit", Subject: "1", Text: "the policy was edited in the store"},
		{Seq: 2, AtMS: now.Add(-time.Hour).UnixMilli(), Kind: "override.activated", Actor: "11111111-root", Budget: "acme/research", Subject: "o-1", Text: "override o-1 counts"}}
	good := []byte("budget \"acme\" {\n  limit \"month\" {\n    cost = 12000\n  }\n}\n")
	f.policy = web.Policy{Revision: "99fe51006984abcdef", Enforcement: "enforce", Author: "11111111-root", Since: now.Add(-time.Hour), Files: []budgetspec.File{{Name: "budgets.hcl", Content: good}}}
}
