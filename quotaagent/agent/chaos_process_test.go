package agent

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/signal"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/hashicorp/nomad/api"
	"github.com/nomad-governor/governor/quotaagent/consulkv"
	"github.com/nomad-governor/governor/quotaagent/gate"
	"github.com/nomad-governor/governor/quotaagent/ledger"
	"github.com/nomad-governor/governor/quotaagent/nomadevents"
)

// chaosProcessEnv, when set, makes the test binary an agent process: it is the
// JSON of a chaosConfig.
const chaosProcessEnv = "GOVERNOR_CHAOS_PROCESS"

// chaosPace is how many times faster the clock of the agents and their Nomad runs
// than the machine's: what a lost submission holds then expires within a test.
// Consul's session TTL and the agents' timers are not faster.
const chaosPace = 10

// chaosConfig is what an agent process is told.
type chaosConfig struct {
	// Name is the agent's, Socket where it serves, Nomad where its Nomad is.
	Name, Socket, Nomad string
	Consul, Prefix      string
	// BeganNS is the machine's time at which the fast clock shows noon.
	BeganNS int64
}

// chaosClock is the fast clock. All processes of a test read the same time.
type chaosClock struct {
	began   time.Time
	skipped atomic.Int64
}

func (c *chaosClock) now() time.Time {
	return noon.Add(chaosPace*time.Since(c.began) + time.Duration(c.skipped.Load()))
}

// skip moves the clock.
func (c *chaosClock) skip(d time.Duration) { c.skipped.Add(int64(d)) }

// chaosSubmit is what a load generator asks an agent for, and chaosAnswer what it
// gets when the submission was decided and, if admitted, settled.
type chaosSubmit struct {
	ID, Namespace, Job string
	GPUs               int
	Runtime            time.Duration
}

type chaosAnswer struct {
	Denied, Accepted bool
	Error            string
}

// chaosProcess is the main function of an agent process: a whole agent, with the
// real store, that ends on SIGTERM.
func chaosProcess() int {
	logger := hclog.New(&hclog.LoggerOptions{Output: os.Stderr, Level: hclog.Warn})
	var config chaosConfig
	err := json.Unmarshal([]byte(os.Getenv(chaosProcessEnv)), &config)
	if err == nil {
		err = runChaosAgent(config, logger)
	}
	if err != nil {
		logger.Error("agent process failed", "error", err)
		return 1
	}
	return 0
}

func runChaosAgent(config chaosConfig, logger hclog.Logger) error {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	defer stop()
	store, err := consulkv.New(consulkv.Config{Address: config.Consul, Prefix: config.Prefix}, logger)
	if err != nil {
		return err
	}
	if err := os.Remove(config.Socket); err != nil && !os.IsNotExist(err) {
		return err
	}
	listener, err := net.Listen("unix", config.Socket)
	if err != nil {
		return err
	}
	clock := &chaosClock{began: time.Unix(0, config.BeganNS)}
	nomad := newChaosClient(config.Nomad)
	a := New(Options{Name: config.Name, Store: store, Nomad: nomad, Placer: &fakePlacer{}, Logger: logger.Named(config.Name),
		Now: clock.now, Recorder: nomad})
	mux := http.NewServeMux()
	mux.HandleFunc("GET /ready", func(w http.ResponseWriter, _ *http.Request) {
		if !a.Keeper.State().Loaded {
			http.Error(w, "no policy yet", http.StatusServiceUnavailable)
		}
	})
	mux.HandleFunc("POST /skip", func(_ http.ResponseWriter, r *http.Request) { clock.skip(chaosSkip) })
	mux.HandleFunc("POST /submit", func(w http.ResponseWriter, r *http.Request) {
		var s chaosSubmit
		if err := json.NewDecoder(r.Body).Decode(&s); err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
		_ = json.NewEncoder(w).Encode(chaosPass(r.Context(), a, nomad, s))
	})
	return a.Run(ctx, listener, mux)
}

// chaosPass does what the gate does with a registration: it asks for a verdict,
// registers, and settles, whether or not the client still waits.
func chaosPass(ctx context.Context, a *Agent, nomad *chaosClient, s chaosSubmit) chaosAnswer {
	stored, err := nomad.stored(ctx, s.Namespace, s.Job)
	if err != nil {
		return chaosAnswer{Error: err.Error()}
	}
	submission := batch(newNomad(a.Engine.now), s.Namespace, s.Job, 1, s.GPUs, s.Runtime)
	submission.Stored = stored
	v, err := a.Engine.Admit(ctx, submission)
	if err != nil {
		return chaosAnswer{Error: err.Error()}
	}
	if v.Denied {
		return chaosAnswer{Denied: true}
	}
	ctx = context.WithoutCancel(ctx)
	o := gate.Outcome{Known: true}
	if a.Engine.now().Before(v.Until) {
		o = nomad.register(ctx, s, stored, v.Until)
	}
	if v.Settle != nil {
		v.Settle(ctx, o)
	}
	return chaosAnswer{Accepted: o.Accepted}
}

// chaosClient is an agent's end of the Nomad in the test's process. It implements
// nomadState, and Recorder.
type chaosClient struct{ http *http.Client }

func newChaosClient(socket string) *chaosClient {
	return &chaosClient{http: overSocket(socket)}
}

// overSocket is a client of the server at a Unix socket, whatever the host says.
func overSocket(socket string) *http.Client {
	return &http.Client{Transport: &http.Transport{DisableKeepAlives: true,
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return (&net.Dialer{}).DialContext(ctx, "unix", socket)
		}}}
}

// post sends in as JSON and reads the answer into out, unless that is nil.
func post(ctx context.Context, client *http.Client, path string, in, out any) error {
	body, err := json.Marshal(in)
	if err != nil {
		return err
	}
	request, err := http.NewRequestWithContext(ctx, http.MethodPost, "http://chaos"+path, bytes.NewReader(body))
	if err != nil {
		return err
	}
	response, err := client.Do(request)
	if err != nil {
		return err
	}
	defer response.Body.Close()
	if response.StatusCode != http.StatusOK {
		text, err := io.ReadAll(response.Body)
		return errors.Join(fmt.Errorf("%s: status %d: %s", path, response.StatusCode, bytes.TrimSpace(text)), err)
	}
	if out == nil {
		return nil
	}
	return json.NewDecoder(response.Body).Decode(out)
}

// chaosRef names a job.
type chaosRef struct{ Namespace, Job string }

// chaosRegister is a registration that Nomad takes only if the job is as it was.
type chaosRegister struct {
	chaosSubmit
	Before uint64
	// UntilMS is when it must have arrived.
	UntilMS int64
}

// chaosEvent is one event of the stream; the first one is empty.
type chaosEvent struct {
	Alloc          *nomadevents.Allocation
	Namespace, Job string
	Index          uint64
}

func (c *chaosClient) stored(ctx context.Context, namespace, job string) (*api.Job, error) {
	var j *api.Job
	err := post(ctx, c.http, "/stored", chaosRef{namespace, job}, &j)
	return j, err
}

func (c *chaosClient) register(ctx context.Context, s chaosSubmit, stored *api.Job, until time.Time) gate.Outcome {
	r := chaosRegister{chaosSubmit: s, UntilMS: until.Add(ledger.RegisterWithin - ledger.SendWithin).UnixMilli()}
	if stored != nil {
		r.Before = *stored.JobModifyIndex
	}
	var o gate.Outcome
	if err := post(ctx, c.http, "/register", r, &o); err != nil {
		return gate.Outcome{} // the answer is lost
	}
	return o
}

// Snapshot implements nomadState.
func (c *chaosClient) Snapshot(ctx context.Context) (out []nomadevents.Allocation, err error) {
	err = post(ctx, c.http, "/snapshot", nil, &out)
	return out, err
}

// JobAllocations implements nomadState.
func (c *chaosClient) JobAllocations(ctx context.Context, namespace, jobID string) (out []nomadevents.Allocation, err error) {
	err = post(ctx, c.http, "/allocations", chaosRef{namespace, jobID}, &out)
	return out, err
}

// Job implements nomadState.
func (c *chaosClient) Job(ctx context.Context, namespace, jobID string) (out nomadevents.Job, err error) {
	err = post(ctx, c.http, "/job", chaosRef{namespace, jobID}, &out)
	return out, err
}

// Deregistered implements nomadState: nothing is purged.
func (c *chaosClient) Deregistered(context.Context, string, string) ([]time.Time, error) {
	return nil, nil
}

// Ahead implements nomadState: all processes read the same clock.
func (c *chaosClient) Ahead() time.Duration { return 0 }

// Record implements Recorder.
func (c *chaosClient) Record(ctx context.Context, entries []ledger.Entry) error {
	if len(entries) == 0 {
		return nil
	}
	return post(ctx, c.http, "/record", entries, nil)
}

// Stream implements nomadState.
func (c *chaosClient) Stream(ctx context.Context, w nomadevents.Watcher) error {
	request, err := http.NewRequestWithContext(ctx, http.MethodPost, "http://chaos/stream", http.NoBody)
	if err != nil {
		return err
	}
	response, err := c.http.Do(request)
	if err != nil {
		return err
	}
	defer response.Body.Close()
	events := json.NewDecoder(response.Body)
	for first := true; ; first = false {
		var e chaosEvent
		if err := events.Decode(&e); err != nil {
			return err
		}
		switch {
		case first:
			w.Ready()
		case e.Alloc != nil:
			w.Allocation(*e.Alloc)
		default:
			w.Job(e.Namespace, e.Job, e.Index)
		}
	}
}
