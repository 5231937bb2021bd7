package main

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"flag"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/nomad-governor/governor/hcl/agentconfig"
	"github.com/nomad-governor/governor/internal/quantity"
	"github.com/nomad-governor/governor/quotaagent/agent"
	"github.com/nomad-governor/governor/quotaagent/budget"
	"github.com/nomad-governor/governor/quotaagent/history"
	"github.com/nomad-governor/governor/quotaagent/ledger"
	"github.com/nomad-governor/governor/quotaagent/nomadevents"
	"github.com/nomad-governor/governor/quotaagent/posture"
	"github.com/nomad-governor/governor/quotaagent/sqlite"
	hooks "github.com/nomad-governor/governor/quotaagent/webhook"
	"github.com/nomad-governor/governor/scheduler/nomadstate"
	"github.com/rogpeppe/go-internal/testscript"
)

var update = flag.Bool("update", false, "rewrite the golden output in testdata/script")

func TestMain(m *testing.M) {
	testscript.Main(m, map[string]func(){"governor": main})
}

// now is the instant of the status in the golden files.
var now = time.Date(2026, 3, 10, 12, 30, 0, 0, time.UTC)

func TestScripts(t *testing.T) { testscript.Run(t, scripts(t)) }

// scripts are those of testdata/script, with the commands that they have besides.
func scripts(t *testing.T) testscript.Params {
	return testscript.Params{
		Dir: "testdata/script", UpdateScripts: *update,
		Setup: func(env *testscript.Env) error {
			env.Setenv("GOVERNOR_ADDR", "http://127.0.0.1:1") // nobody listens there
			return nil
		},
		Cmds: map[string]func(ts *testscript.TestScript, neg bool, args []string){
			// agent starts an agent for this script. Tokens: "root" manages, "user"
			// reads. With the argument -jobs two jobs hold budget, with -queue three wait,
			// with -usage some have used it, and with -no-history the agent keeps none. With
			// -open there are ways around the gate, with -closed the agent has found none. With
			// -decisions some submissions were decided. With
			// -gpus there are nodes and allocations, as a real Nomad has once answered, and
			// with -capacity also ten days of usage, and jobs that wait.
			"agent": func(ts *testscript.TestScript, _ bool, args []string) {
				ts.Setenv("GOVERNOR_ADDR", startAgent(t, ts, strings.Join(args, " ")))
			},
			// web starts a server that is no agent.
			"web": func(ts *testscript.TestScript, _ bool, _ []string) {
				server := httptest.NewServer(http.NotFoundHandler())
				ts.Defer(server.Close)
				ts.Setenv("GOVERNOR_ADDR", server.URL)
			},
			// keep puts what was printed last into a variable.
			"keep": func(ts *testscript.TestScript, _ bool, args []string) {
				ts.Setenv(args[0], strings.TrimSpace(ts.ReadFile("stdout")))
			},
			// end keeps the end of the audit chain, as audit verify has printed it.
			"end": func(ts *testscript.TestScript, _ bool, _ []string) {
				_, end, _ := strings.Cut(ts.ReadFile("stdout"), "End of the chain  ")
				ts.Setenv("END", strings.TrimSpace(end))
			},
		},
	}
}

// stage is what a test or a script is set up on.
type stage interface {
	Check(err error)
	Defer(f func())
	Logf(format string, args ...any)
	ReadFile(name string) string
}

// startAgent runs an agent on an embedded store in front of a Nomad that only
// knows who its callers are.
func startAgent(t *testing.T, ts stage, with string) string {
	ts.Logf("starting an agent")
	handle := http.HandlerFunc(stubNomad)
	switch with {
	case "-open", "-closed":
		handle = wardNomad(with == "-open")
	case "-gpus", "-capacity":
		handle = recordedNomad
	}
	nomadServer := httptest.NewServer(handle)
	ts.Defer(nomadServer.Close)
	store, err := sqlite.Open(filepath.Join(t.TempDir(), "governor.db"))
	ts.Check(err)
	config := agentconfig.Default()
	config.Nomad.Address, config.Nomad.Token = nomadServer.URL, "root"
	if with == "-canary" {
		config.Nomad.Token, config.Consul.Token, config.Gate.WebhookKey = canary("nomad"), canary("consul"), canary("webhook-key")
	}
	client, err := nomadClient(config.Nomad, nomadevents.NewClock(time.Now), hclog.NewNullLogger())
	ts.Check(err)
	var past *history.Store
	if with != "-no-history" {
		began := now
		if with == "-capacity" {
			began = now.AddDate(0, -1, 0)
		}
		past, err = history.Open(filepath.Join(t.TempDir(), "history.db"), func() time.Time { return began })
		ts.Check(err)
		began = now
	}
	placement := newPlacer(nomadstate.New(client.Raw()), store, time.Now, *config.Placement, true)
	placement.now = func() time.Time { return now }
	placement.assets.now = placement.now
	options := agent.Options{Name: "test", Version: "1.2.3", Configuration: config.Shown(), Store: store, Nomad: nomadevents.New(client, nil), Logger: hclog.NewNullLogger(),
		Placer: placement, Now: func() time.Time { return now }, NewID: serial(),
		History: past}
	if with == "-notify" {
		options.Notify = agent.Notify{Poster: hooks.New(time.Now, "1.2.3"), Source: "/governor", Secret: func(string) string { return "secret" }}
	}
	if with == "-open" || with == "-closed" {
		options.Posture, options.UnknownWrites = posture.New(client, time.Now), with == "-open"
	}
	a := agent.New(options)
	ctx, cancel := context.WithCancel(context.Background())
	handler, err := newHandler(ctx, config, client, a, placement, nil, hclog.NewNullLogger())
	ts.Check(err)
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	ts.Check(err)
	done := make(chan error, 1)
	go func() { done <- a.Run(ctx, listener, handler) }()
	ts.Defer(func() {
		cancel()
		ts.Check(<-done)
	})
	for !a.Keeper.State().Loaded || !a.Meter.Leading() {
		time.Sleep(10 * time.Millisecond)
	}
	switch with {
	case "-open", "-closed":
		awaitWatch(ts, store)
	case "-jobs":
		holdJobs(ts, store, func(h ledger.Hold) string { return "hold/" + h.ID })
	case "-known-jobs":
		holdJobs(ts, store, func(h ledger.Hold) string { return holdKey(h.Namespace, h.JobID) })
	case "-decisions":
		decide(ts, past)
	case "-usage":
		use(ts, store, past)
	case "-capacity":
		grow(ts, store, past)
		awaitSupply(ts, a)
	case "-queue":
		queueJobs(ts, store)
	}
	return "http://" + listener.Addr().String()
}

// awaitWatch waits until the agent has looked for ways around the gate.
func awaitWatch(ts stage, store *sqlite.Store) {
	for {
		records, err := store.Read(context.Background(), "bypass/found")
		ts.Check(err)
		if records[0].Version > 0 {
			return
		}
		time.Sleep(10 * time.Millisecond)
	}
}

// serial makes ids that are the same in every test.
func serial() func() string {
	var n atomic.Int64
	return func() string { return fmt.Sprintf("%016d", n.Add(1)) }
}

// holdKey is where the agent looks for the hold of a job.
func holdKey(namespace, jobID string) string {
	sum := sha256.Sum256([]byte(namespace + "\x00" + jobID))
	return "hold/" + hex.EncodeToString(sum[:16])
}

// marked is writes as a process commits them: with its mark, by which others see that it has.
func marked(writes ...ledger.Write) []ledger.Write {
	mark := fmt.Sprintf(`{"n": 1, "at_ms": %d}`, now.UnixMilli())
	return append(writes, ledger.Write{Key: fmt.Sprintf("commit/test-%d", marks.Add(1)), Value: []byte(mark)})
}

// marks numbers the processes of marked.
var marks atomic.Int64

// holdJobs writes two holds into the store, as if their jobs had been admitted.
func holdJobs(ts stage, store *sqlite.Store, key func(ledger.Hold) string) {
	for _, h := range []ledger.Hold{
		{ID: "h-2", Namespace: "research", JobID: "train", State: ledger.Active, Posted: ledger.Usage{GPUTime: map[string]quantity.Amount{"h100": 9_000_000}, Cost: 7_250_000}},
		{ID: "h-1", Namespace: "default", JobID: "team/eval", State: ledger.Held},
	} {
		h.Budget, h.ExpiresMS, h.InFlight = "acme/research", now.Add(time.Hour).UnixMilli(), 1
		line := ledger.Line{Group: "g", Count: 1, RuntimeMS: 7_200_000, Needs: []ledger.Need{{Classes: []string{"h100"}, GPUs: 2, PerGPUHour: 2_900_000}}}
		h.Pending = []ledger.Line{line}
		value, err := ledger.EncodeHold(h)
		ts.Check(err)
		ts.Check(store.Commit(context.Background(), ledger.Fence{}, marked(ledger.Write{Key: key(h), Value: value})))
	}
}

// use writes usage into the history and the balances, as if it had been metered.
func use(ts stage, store *sqlite.Store, past *history.Store) {
	at := func(hours int) int64 {
		return time.Date(2026, 3, 9, 20, 0, 0, 0, time.UTC).Add(time.Duration(hours) * time.Hour).UnixMilli()
	}
	line := func(key, kind, job string, from, to int, gpus int64) ledger.Entry {
		ms := quantity.Amount((at(to) - at(from)) * gpus)
		return ledger.Entry{Key: key, Kind: kind, Budget: "acme/research", Namespace: "research", JobID: job, HoldID: "h-" + job, Alloc: "a-" + job,
			Submitter: "22222222-user", Class: "h100", FromMS: at(from), ToMS: at(to), GPUTime: ms, Cost: quantity.Cost(ms, 2_900_000), Energy: 700 * ms / 1000, RateCard: "2026"}
	}
	train, eval := line("1", ledger.UsageEntry, "train", 0, 6, 8), line("2", ledger.UsageEntry, "=eval", 5, 6, 1)
	eval.Budget, eval.Namespace, eval.Estimated = "acme/serving", "inference", true
	over, idle := line("3", ledger.OverdraftEntry, "train", 5, 6, 8), line("4", ledger.IdleEntry, "train", 1, 2, 3)
	free := line("5", ledger.UnallocatedEntry, "", 0, 6, 10)
	free.Budget, free.Namespace, free.HoldID, free.Alloc, free.Submitter = "", "", "", "", ""
	closed := ledger.ReceiptOf(ledger.Hold{ID: "h-train", Namespace: "research", JobID: "train", Budget: "acme/research", State: ledger.Active, CreatedMS: at(0),
		Accessor: "22222222-user", Identity: []string{"token:user"}, Facts: budget.JobFacts{Type: "batch"}, Reason: "fits",
		Estimate: ledger.Usage{GPUTime: map[string]quantity.Amount{"h100": 40 * quantity.GPUHour}, Cost: 116_000_000},
		Posted:   ledger.Usage{GPUTime: map[string]quantity.Amount{"h100": train.GPUTime}, Cost: train.Cost, Energy: train.Energy}}, at(6))
	ts.Check(past.Record(context.Background(), []ledger.Entry{train, eval, over, idle, free, closed}))
	balances := map[string]ledger.Vector{"acme": ledger.NewVector(), "acme/research": ledger.NewVector(), "acme/serving": ledger.NewVector()}
	for _, e := range []ledger.Entry{train, eval} {
		for _, path := range ledger.Ancestors(e.Budget) {
			balances[path].AddAll(e.PostedVector(time.UTC, []budget.Window{budget.Day, budget.Week, budget.Month, budget.Quarter, budget.Year, budget.Total}), 1)
		}
	}
	for path, posted := range balances {
		value, err := ledger.Balance{SinceMS: now.UnixMilli(), Posted: posted, Held: ledger.NewVector()}.Encode()
		ts.Check(err)
		ts.Check(store.Commit(context.Background(), ledger.Fence{}, []ledger.Write{{Key: "balance/" + path, Value: value}}))
	}
}

// decide writes decisions into the history, as if they had been made.
func decide(ts stage, past *history.Store) {
	at := func(minutes int) int64 { return now.Add(time.Duration(minutes) * time.Minute).UnixMilli() }
	refused := history.Decision{AtMS: at(-90), Namespace: "research", JobID: "train", Request: "register", Outcome: "deny", Reason: "concurrency_limit", Budget: "acme/research",
		Source: "acme.hcl:12", Revision: "4ae1c2f90b7d3356", Submitter: "22222222-user", GPUs: 16,
		Text: "job \"train\" in namespace \"research\" was not registered: it needs 16 GPUs, and budget acme/research has 8 GPUs left (concurrency_limit)\n  asked       16 x h100\n  limit       64 GPUs at the same time in budget acme/research (acme.hcl:12)"}
	planned, slashed, split := refused, refused, refused
	planned.AtMS, planned.Request, planned.Plan, planned.Text, planned.Outcome, planned.Reason, planned.Source = at(-30), "plan", true, "", "admit", "fits", "acme.hcl:9"
	slashed.AtMS, slashed.Namespace, slashed.JobID, slashed.Shadow = at(-20), "default", "team/eval", true
	split.AtMS, split.Namespace, split.JobID = at(-10), "default", "both/ways"
	again := split
	again.Namespace, again.JobID = "both", "ways"
	ts.Check(past.Decided(context.Background(), []history.Decision{refused, planned, slashed, split, again}, 100))
}

// queueJobs writes three waiting jobs into the store, and what their budget has
// used of its month.
func queueJobs(ts stage, store *sqlite.Store) {
	used := ledger.Balance{Posted: ledger.NewVector(), Held: ledger.NewVector()}
	used.Posted.Add(budget.PeriodAt(budget.Month, now, time.UTC).Key(), budget.Cost, 90_000_000)
	value, err := used.Encode()
	ts.Check(err)
	writes := []ledger.Write{{Key: "balance/acme", Value: value}}
	for i, q := range []ledger.Queued{
		{Namespace: "research", JobID: "train", Budget: "acme/research", JobModifyIndex: 11, UntilMS: now.Add(24 * time.Hour).UnixMilli()},
		{Namespace: "default", JobID: "team/eval", Budget: "acme/research", JobModifyIndex: 12},
		{Namespace: "default", JobID: "long", Budget: "acme/other", ExpiresMS: now.Add(time.Minute).UnixMilli()},
	} {
		q.SinceMS, q.Accessor = now.Add(time.Duration(i-20)*time.Minute).UnixMilli(), "22222222-user"
		q.Lines = []ledger.Line{{Group: "g", Count: 1, RuntimeMS: 7_235_000, OnceMS: 7_200_000, Starts: 1, Needs: []ledger.Need{{Classes: []string{"h100"}, GPUs: int64(2 + i), PerGPUHour: 2_900_000}}}}
		q.Facts = budget.JobFacts{Type: "batch", Devices: []budget.DeviceFacts{{Group: "g", Task: "t", Name: "nvidia/gpu/NVIDIA H100 80GB HBM3", Count: 2 + i}}}
		value, err := ledger.Encode(q)
		ts.Check(err)
		writes = append(writes, ledger.Write{Key: "queue/" + q.JobID, Value: value})
	}
	ts.Check(store.Commit(context.Background(), ledger.Fence{}, writes))
}

func stubNomad(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("X-Nomad-Index", "7")
	switch r.URL.Path {
	case "/v1/regions":
		_, _ = w.Write([]byte(`["global"]`))
	case "/v1/acl/token/self":
		switch r.Header.Get("X-Nomad-Token") {
		case "root", canary("operator"):
			_, _ = w.Write([]byte(`{"AccessorID":"11111111-root","Name":"root","Type":"management"}`))
		case "oncall", "oncall2":
			token := r.Header.Get("X-Nomad-Token")
			_, _ = fmt.Fprintf(w, `{"AccessorID":"33333333-%s","Name":"%s","Type":"client","Roles":[{"ID":"r","Name":"oncall"}]}`, token, token)
		case "user":
			_, _ = w.Write([]byte(`{"AccessorID":"22222222-user","Name":"user","Type":"client"}`))
		default:
			http.Error(w, "ACL token not found", http.StatusForbidden)
		}
	case "/v1/jobs/parse":
		parseJob(w, r)
	case "/v1/allocations", "/v1/nodes", "/v1/jobs":
		_, _ = w.Write([]byte(`[]`))
	case "/v1/event/stream":
		w.WriteHeader(http.StatusOK)
		w.(http.Flusher).Flush()
		<-r.Context().Done()
	case "/v1/acl/policies":
		_, _ = w.Write([]byte(`[{"Name":"research"}]`))
	case "/v1/acl/policy/research":
		_, _ = w.Write([]byte(`{"Name":"research","RulesJSON":{"Namespaces":[{"Name":"research","Capabilities":["read-job"]}]}}`))
	default:
		http.NotFound(w, r)
	}
}
