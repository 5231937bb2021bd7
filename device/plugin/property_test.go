package plugin

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/shoenig/test/must"
	"pgregory.net/rapid"

	"github.com/nomad-governor/governor/device/inventory"
	"github.com/nomad-governor/governor/hcl/deviceconfig"
)

// schedule is a node and what befalls it.
type schedule struct {
	gpus     int
	grouping string
	pause    time.Duration // of Nomad after each message
	steps    []step
}

// step is something that happens, and the time that passes until the next.
type step struct {
	what  string
	gpu   int
	n     int   // a MIG instance, an XID or a driver
	order []int // of the GPUs, for NVML
	then  time.Duration
}

// settled is long enough for everything that lasts to be known, and for
// everything that is over to be forgotten.
const settled = 75 * time.Second

func genSchedule(t *rapid.T) schedule {
	s := schedule{gpus: rapid.IntRange(1, 5).Draw(t, "gpus"),
		grouping: rapid.SampledFrom([]string{"off", "nvlink", "numa", "auto"}).Draw(t, "grouping"),
		pause:    rapid.SampledFrom([]time.Duration{0, 50 * time.Millisecond, 7 * time.Second}).Draw(t, "pause")}
	numbers := []int{}
	for i := range s.gpus {
		numbers = append(numbers, i)
	}
	faults := []string{"lose", "find", "xid", "hang", "return", "away", "back", "cut", "create", "destroy", "join", "upgrade", "renumber", "unplug", "plug"}
	for range rapid.IntRange(1, 12).Draw(t, "steps") {
		s.steps = append(s.steps, step{
			what: rapid.SampledFrom(faults).Draw(t, "what"), gpu: rapid.IntRange(0, s.gpus-1).Draw(t, "gpu"),
			n: rapid.IntRange(0, 3).Draw(t, "n"), order: rapid.Permutation(numbers).Draw(t, "order"),
			then: rapid.SampledFrom([]time.Duration{0, 153 * time.Millisecond, 1007 * time.Millisecond, 12013 * time.Millisecond, settled}).Draw(t, "then")})
	}
	return s
}

// happen changes the node.
func (h *host) happen(s step) {
	h.mu.Lock()
	defer h.mu.Unlock()
	switch s.what {
	case "lose":
		h.lost[s.gpu] = "gpu_lost: off the bus"
	case "find":
		delete(h.lost, s.gpu)
	case "xid":
		event := inventory.Event{UUID: id(s.gpu), XID: []int64{13, 31, 79, 95}[s.n]}
		if len(h.split[s.gpu]) > 0 && s.n%2 == 1 {
			event.GPUInstance = inventory.Known(int64(s.n))
		}
		select {
		case h.xids <- event:
		default: // the driver's own queue has an end too
		}
	case "hang":
		if h.hang == nil {
			h.hang = make(chan struct{})
		}
	case "return":
		h.unhang()
	case "away":
		h.err = errors.New("NVML does not answer")
	case "back":
		h.err = nil
	case "cut":
		h.split[s.gpu] = []int{}
	case "join":
		delete(h.split, s.gpu)
	case "create":
		if have, mode := h.split[s.gpu]; mode && !slices.Contains(have, s.n) {
			h.split[s.gpu] = slices.Sorted(slices.Values(append(slices.Clone(have), s.n)))
		}
	case "destroy":
		if have, mode := h.split[s.gpu]; mode {
			h.split[s.gpu] = slices.DeleteFunc(slices.Clone(have), func(n int) bool { return n == s.n })
		}
	case "upgrade": // some drivers word a model's name in another way
		h.driver = fmt.Sprintf("5%d0.1", s.n)
		h.named = func(int) string { return []string{"Card", "NVIDIA Card"}[s.n%2] }
	case "renumber":
		h.order = s.order
	case "unplug":
		h.down[s.gpu] = true
	case "plug":
		delete(h.down, s.gpu)
	}
}

func (h *host) unhang() {
	if h.hang != nil {
		close(h.hang)
		h.hang = nil
	}
}

// heal ends all that lasts and makes the node what it was.
func (h *host) heal(first *host) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.unhang()
	h.err = nil
	clear(h.lost)
	clear(h.down)
	h.driver, h.order, h.named, h.split = first.driver, first.order, first.named, first.split
}

// want is the beginning of what must be known of each device once all has
// settled.
func (h *host) want() map[string]string {
	h.mu.Lock()
	defer h.mu.Unlock()
	want := map[string]string{}
	for i := range h.gpus {
		state := "healthy"
		instances, mode := h.split[i]
		if h.hang != nil || h.err != nil || h.lost[i] != "" { // what changes meanwhile nobody knows
			instances, mode = h.told[i], h.told[i] != nil
		}
		switch {
		case h.hang != nil:
			state = "nvml_hang: "
		case h.err != nil:
			state = "nvml_unavailable: NVML does not answer"
		case h.lost[i] != "":
			state = "gpu_lost: "
		case mode && len(instances) == 0:
			state = "mig_no_instances: "
		case i^1 < h.gpus && h.bridged[i] && (h.down[i] || h.down[i^1]): // what was never there is not missed
			state = "degraded: nvlink_down: "
		}
		for _, n := range instances {
			want[migID(i, n)] = state
		}
		if len(instances) == 0 {
			want[id(i)] = state
		}
	}
	return want
}

// matches compares what a message says with what must be known.
func matches(want, got map[string]string) error {
	for id, state := range want {
		if !strings.HasPrefix(got[id], state) || got[id] == "" {
			return fmt.Errorf("%s is %q and must be %q", id, got[id], state)
		}
	}
	if len(got) != len(want) {
		return fmt.Errorf("there are %d devices and must be %d: %v", len(got), len(want), got)
	}
	return nil
}

// Whatever befalls the node, in whatever order: see audience.hear for what holds
// of each message. What lasts is known of the devices that it concerns and of no
// others; when it is over the fingerprint is the first one, and tasks get the GPUs.
func TestPropertyNothingThatHappensIsLostOnNomad(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(r *rapid.T) {
		s := genSchedule(r)
		var err error
		inBubble(t, func(t *testing.T) { err = s.play(t) })
		if err != nil {
			r.Fatal(err)
		}
	})
}

// What changed and changed back while a message waited for its reader is not said.
func TestNothingIsRepeatedToASlowReader(t *testing.T) {
	t.Parallel()
	inBubble(t, func(t *testing.T) {
		h := newHost(2)
		a := attend(t, h, time.Minute, nil)
		a.wait(5 * time.Second) // the first message was taken, and the next will wait
		for _, what := range []string{"lose", "find", "lose"} {
			h.happen(step{what: what})
			a.wait(5 * time.Second)
		}
		must.Eq(t, 1, a.count())
		must.NoError(t, matches(h.want(), health(a.wait(5*time.Minute))))
		must.Eq(t, 2, a.count())
		must.NoError(t, a.verdict())
	})
}

func (s schedule) play(t *testing.T) error {
	h := newHost(s.gpus)
	h.split[s.gpus-1] = []int{0, 1}
	original := *h
	original.split = map[int][]int{s.gpus - 1: {0, 1}}
	a := attend(t, h, s.pause, func(b *deviceconfig.Block) { b.TopologyGroups = s.grouping })
	defer func() { h.set(h.unhang) }() // or the plugin cannot be closed
	first := a.wait(settled)
	if err := matches(h.want(), health(first)); err != nil {
		return fmt.Errorf("at first: %w", err)
	}
	for i, step := range s.steps {
		h.happen(step)
		now := a.wait(step.then)
		if step.then < settled {
			continue
		}
		if err := matches(h.want(), health(now)); err != nil {
			return fmt.Errorf("after step %d: %w", i, err)
		}
	}
	h.heal(&original)
	if last := a.wait(2 * settled); text(first) != text(last) {
		return fmt.Errorf("it does not heal:\nfirst %s\nlast  %s", text(first), text(last))
	}
	if err := s.task(a); err != nil {
		return err
	}
	return a.verdict()
}

// task is given a device, is measured, and a second stream tells another reader
// the same.
func (s schedule) task(a *audience) error {
	latest := a.wait(0)
	for _, g := range latest.Devices {
		for _, d := range g.Devices {
			if r, err := a.plugin.Reserve([]string{d.ID}); err != nil || r.Envs["CUDA_VISIBLE_DEVICES"] != d.ID {
				return fmt.Errorf("reserve %s: %v, %w", d.ID, r, err)
			}
		}
	}
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	second, err := a.plugin.Fingerprint(ctx)
	if err != nil {
		return err
	}
	if other := <-second; text(other) != text(latest) {
		return fmt.Errorf("two streams differ:\n%s\n%s", text(latest), text(other))
	}
	stats, err := a.plugin.Stats(ctx, time.Second)
	if err != nil {
		return err
	}
	return measured(latest, <-stats)
}
