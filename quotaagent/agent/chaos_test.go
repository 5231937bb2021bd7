package agent

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/nomad-governor/governor/internal/consultest"
	"github.com/nomad-governor/governor/quotaagent/consulkv"
	"github.com/nomad-governor/governor/quotaagent/ledger"
	"github.com/shoenig/test/must"
)

const (
	// chaosSecondsEnv is how many seconds of chaos there are; chaosSeconds unless set.
	chaosSecondsEnv = "GOVERNOR_CHAOS_SECONDS"
	chaosSeconds    = 30
	// chaosSkip is how far the clock is moved at the end, so that every promise that
	// nobody keeps expires.
	chaosSkip = 2 * confirmWithin
	// chaosGap is how long nobody may lead: Consul ends a session at the latest after
	// twice its TTL of 10 s, and the machine may be busy.
	chaosGap = 40 * time.Second
	// chaosCalm is how long the leader may work before it is stopped.
	chaosCalm = 6 * time.Second
	// chaosGPUs are the GPUs that may run at once, of all and by namespace.
	chaosGPUs, chaosResearch, chaosSide = 10, 8, 6
)

// chaosPolicy has limits that bind at every level.
func chaosPolicy(hours int) string {
	return fmt.Sprintf(pricedV100+`
budget "acme" {
  owner = "finops@acme.example"
  concurrent {
    gpus = { any = %d }
  }
  limit "month" {
    gpu_hours = %d
  }
  budget "research" {
    match { namespaces = ["default"] }
    concurrent {
      gpus = { any = %d }
    }
  }
  budget "side" {
    match { namespaces = ["side"] }
    concurrent {
      gpus = { any = %d }
    }
  }
}
`, chaosGPUs, hours, chaosResearch, chaosSide)
}

// chaosAgent is one agent process after the other under one name.
type chaosAgent struct {
	config chaosConfig
	client *http.Client
	term   int
	mu     sync.Mutex
	cmd    *exec.Cmd
	ended  chan error
	paused bool
}

// chaos is three agents, their Consul, their Nomad, and who watches them.
type chaos struct {
	t      *testing.T
	hours  int
	clock  *chaosClock
	nomad  *chaosNomad
	store  *consulkv.Store
	agents []*chaosAgent

	answered, denied, failed, transport, checks atomic.Int64
	undecided                                   atomic.Value // why the last one was not
	kills, pauses, deposed                      int
	lostMu                                      sync.Mutex
	explain                                     sync.Once  // what was held when a limit was exceeded
	before                                      modelBooks // as checked last
	unanswered                                  []string   // ids of submissions without an answer
	longest                                     time.Duration
}

func newChaos(t *testing.T, faults bool, seconds int) *chaos {
	server := consultest.Start(t)
	dir, err := os.MkdirTemp("", "chaos") // a socket's path may have 100 characters
	must.NoError(t, err)
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	c := &chaos{t: t, clock: &chaosClock{began: time.Now()}, hours: 3 + seconds*chaosPace*chaosGPUs/3600}
	c.nomad = newChaosNomad(t, dir, newNomad(c.clock.now), faults)
	c.store, err = consulkv.New(consulkv.Config{Address: server.Addr, Prefix: "chaos"}, hclog.NewNullLogger())
	must.NoError(t, err)
	t.Cleanup(func() { must.NoError(t, c.store.Close()) })
	must.NoError(t, c.store.Commit(t.Context(), ledger.Fence{}, []ledger.Write{
		{Key: policyPrefix + "budgets.hcl", Value: []byte(chaosPolicy(c.hours))}}))
	for i := range 3 {
		a := &chaosAgent{config: chaosConfig{Socket: filepath.Join(dir, fmt.Sprint("agent-", i)), Nomad: c.nomad.socket,
			Consul: server.Addr, Prefix: "chaos", BeganNS: c.clock.began.UnixNano()}}
		a.config.Name, a.client = fmt.Sprint("agent-", i), overSocket(a.config.Socket)
		c.agents = append(c.agents, a)
		c.begin(a)
		t.Cleanup(func() { _ = a.end(syscall.SIGKILL) })
	}
	for _, a := range c.agents {
		c.await(a)
	}
	return c
}

// begin starts the next process of an agent. Its name tells it from the last one.
func (c *chaos) begin(a *chaosAgent) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.term++
	config := a.config
	config.Name = fmt.Sprintf("%s/%d", a.config.Name, a.term)
	text, err := json.Marshal(config)
	must.NoError(c.t, err)
	a.cmd = exec.Command(os.Args[0])
	a.cmd.Env = append(os.Environ(), chaosProcessEnv+"="+string(text))
	a.cmd.Stderr = os.Stderr
	endWithTest(a.cmd)
	a.ended, a.paused = make(chan error, 1), false
	started := make(chan error)
	go func(cmd *exec.Cmd, ended chan error) { ended <- runOnThread(cmd, started) }(a.cmd, a.ended)
	must.NoError(c.t, <-started)
}

// await waits until an agent decides.
func (c *chaos) await(a *chaosAgent) {
	for deadline := time.Now().Add(30 * time.Second); ; time.Sleep(20 * time.Millisecond) {
		response, err := a.client.Get("http://chaos/ready")
		if err == nil {
			_ = response.Body.Close()
			if response.StatusCode == http.StatusOK {
				return
			}
		}
		must.True(c.t, time.Now().Before(deadline), must.Sprintf("%s does not begin: %v", a.config.Name, err))
	}
}

// end ends a process with a signal and waits for that.
func (a *chaosAgent) end(s syscall.Signal) error {
	a.mu.Lock()
	cmd, ended := a.cmd, a.ended
	a.cmd = nil
	a.mu.Unlock()
	if cmd == nil {
		return nil
	}
	_ = cmd.Process.Signal(s)
	return <-ended
}

// pause stops the process, or lets it go on.
func (a *chaosAgent) pause(stop bool) error {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.paused = stop
	if stop {
		return a.cmd.Process.Signal(syscall.SIGSTOP)
	}
	return a.cmd.Process.Signal(syscall.SIGCONT)
}

// leads reports whether a name is that of a process of this agent which runs.
func (a *chaosAgent) leads(name string) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.cmd != nil && !a.paused && name == fmt.Sprintf("%s/%d", a.config.Name, a.term)
}

// load submits one job after the other, to any agent, until stop is closed.
func (c *chaos) load(worker int, stop <-chan struct{}) {
	namespace := []string{"default", "side"}[worker%2]
	for i := 0; ; i++ {
		select {
		case <-stop:
			return
		case <-time.After(time.Duration(rand.IntN(120)) * time.Millisecond):
		}
		job := rand.IntN(6)
		c.submit(chaosSubmit{ID: fmt.Sprintf("%d-%d", worker, i), Namespace: namespace, Job: fmt.Sprintf("job-%d-%d", worker, job),
			GPUs: 1 + (worker+job)%3, Runtime: time.Duration(10+5*job) * time.Minute})
	}
}

// submit tries the agents in turn until one is there.
func (c *chaos) submit(s chaosSubmit) {
	first := rand.IntN(len(c.agents))
	for i := range c.agents {
		var got chaosAnswer
		ctx, cancel := context.WithTimeout(c.t.Context(), 5*time.Second)
		err := post(ctx, c.agents[(first+i)%len(c.agents)].client, "/submit", s, &got)
		cancel()
		switch {
		case err != nil && (errors.Is(err, syscall.ECONNREFUSED) || errors.Is(err, os.ErrNotExist)):
			continue // nobody is there
		case err != nil:
			c.transport.Add(1)
			c.lostMu.Lock()
			c.unanswered = append(c.unanswered, s.ID)
			c.lostMu.Unlock()
		case got.Error != "":
			c.failed.Add(1)
			c.undecided.Store(got.Error)
		case got.Denied:
			c.denied.Add(1)
		case got.Accepted:
			c.answered.Add(1)
		}
		return
	}
}

// during runs load, ends allocations, checks the books and watches who leads,
// while f does its worst.
func (c *chaos) during(f func()) {
	stop := make(chan struct{})
	var all sync.WaitGroup
	for worker := range 6 {
		all.Go(func() { c.load(worker, stop) })
	}
	every := func(d time.Duration, do func()) {
		all.Go(func() {
			for tick := time.NewTicker(d); ; {
				select {
				case <-stop:
					tick.Stop()
					return
				case <-tick.C:
					do()
				}
			}
		})
	}
	every(100*time.Millisecond, func() { c.nomad.end(8) })
	every(250*time.Millisecond, func() { c.check(c.read()) })
	led := time.Now()
	every(100*time.Millisecond, func() {
		if c.leader() != nil {
			led = time.Now()
		}
		c.longest = max(c.longest, time.Since(led))
	})
	f()
	close(stop)
	all.Wait()
}

// leader is the agent that leads, nil for none or one that does not run.
func (c *chaos) leader() *chaosAgent {
	name, err := c.store.Leader(c.t.Context())
	if err != nil {
		return nil
	}
	for _, a := range c.agents {
		if a.leads(name) {
			return a
		}
	}
	return nil
}

func (c *chaos) awaitLeader() *chaosAgent {
	for deadline := time.Now().Add(chaosGap); ; time.Sleep(50 * time.Millisecond) {
		if a := c.leader(); a != nil {
			return a
		}
		must.True(c.t, time.Now().Before(deadline), must.Sprint("nobody leads"))
	}
}

// haunt kills one process after the other, and stops the leader until another one
// leads, which is past its session's TTL.
func (c *chaos) haunt(seconds int) {
	end := time.Now().Add(time.Duration(seconds) * time.Second)
	var frozen *chaosAgent
	since := time.Now().Add(-time.Minute)
	for time.Now().Before(end) || frozen != nil {
		if frozen == nil && time.Since(since) > chaosCalm {
			frozen, since = c.awaitLeader(), time.Now()
			must.NoError(c.t, frozen.pause(true))
			c.pauses++
		}
		time.Sleep(3*time.Second + time.Duration(rand.IntN(1000))*time.Millisecond)
		victim := c.agents[rand.IntN(len(c.agents))]
		if victim == frozen {
			victim = c.agents[(c.kills)%len(c.agents)]
		}
		if victim != frozen && time.Now().Before(end) {
			_ = victim.end(syscall.SIGKILL)
			c.begin(victim)
			c.kills++
		}
		leads := c.leader()
		// No longer than a submission is held: what was admitted may be registered then.
		if frozen != nil && (leads != nil && time.Since(since) > 11*time.Second || time.Since(since) > 22*time.Second) {
			c.deposed++ // another one leads, or twice the TTL has passed
			must.NoError(c.t, frozen.pause(false))
			frozen, since = nil, time.Now()
		}
	}
	for _, a := range c.agents {
		c.await(a)
	}
}

func TestChaosThreeAgentsOnOneConsul(t *testing.T) {
	if testing.Short() {
		t.Skip("half a minute of real processes")
	}
	seconds := chaosSeconds
	if text := os.Getenv(chaosSecondsEnv); text != "" {
		n, err := strconv.Atoi(text)
		must.NoError(t, err)
		seconds = n
	}
	c := newChaos(t, true, seconds)
	c.during(func() { c.haunt(seconds) })
	c.finish()
	must.Positive(t, c.kills)
	must.Positive(t, c.deposed, must.Sprint("no leader was stopped until another one led"))
	must.LessEq(t, chaosGap, c.longest, must.Sprint("how long nobody led"))
}

func TestRollingRestartLosesNothing(t *testing.T) {
	if testing.Short() {
		t.Skip("real processes")
	}
	c := newChaos(t, false, chaosSeconds)
	c.during(func() {
		for range 2 {
			for _, a := range c.agents {
				c.awaitLeader()
				time.Sleep(500 * time.Millisecond)
				must.NoError(t, a.end(syscall.SIGTERM), must.Sprint(a.config.Name))
				c.begin(a)
				c.await(a)
			}
		}
		c.awaitLeader()
	})
	c.finish()
	must.Zero(t, c.failed.Load(), must.Sprint("submissions that an agent could not decide: ", c.undecided.Load()))
	for _, id := range c.unanswered {
		must.False(t, c.nomad.submissions[id], must.Sprintf("submission %s was registered, and its client got no answer", id))
	}
	for key, e := range c.nomad.entries {
		must.True(t, e.Receipt == nil || e.Receipt.Outcome != ledger.Expired, must.Sprintf("%s expired", key))
	}
	must.LessEq(t, 10*time.Second, c.longest, must.Sprint("how long nobody led"))
}
