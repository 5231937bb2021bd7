package watch

import (
	"cmp"
	"encoding/hex"
	"fmt"
	"io"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/nomad-governor/governor/device/inventory"
	"github.com/nomad-governor/governor/device/occupancy"
)

// recheck is how long the facts about a process that does not hold its device
// are believed: its environment may have been read before it had one.
const recheck = 30 * time.Second

// Options is what a watcher needs.
type Options struct {
	// Dir is the state directory. It is made when there is none.
	Dir string
	// Proc reads processes; the zero value reads this host's.
	Proc Proc
	// Exempt are the commands that root may run on GPUs outside of Nomad; nil
	// for occupancy.DefaultExempt.
	Exempt []string
	// Random is where keys and nonces come from: crypto/rand.Reader.
	Random io.Reader
	Now    func() time.Time
}

// Watcher gives grants and finds processes without. It is safe for concurrent
// use; looks wait for each other.
type Watcher struct {
	options Options

	mu      sync.Mutex // guards court
	court   occupancy.Court
	looking sync.Mutex // guards cache
	cache   map[int64]known
	unsaved bool // the register has what its file has not
}

// known is what was read about a process, and when.
type known struct {
	start uint64
	read  time.Time
	facts occupancy.Facts
	held  bool // everywhere, at the last look
}

// Open loads the key and the register, or makes them. Allocations that run when
// the register is made were placed without grants: they are never accused.
func Open(o Options) (*Watcher, error) {
	if o.Exempt == nil {
		o.Exempt = occupancy.DefaultExempt()
	}
	key, err := LoadKey(o.Dir, o.Random)
	if err != nil {
		return nil, err
	}
	register, found, err := readRegister(o.Dir)
	if err != nil {
		return nil, err
	}
	if !found {
		if register.Adopted, err = o.Proc.allocations(); err != nil {
			return nil, fmt.Errorf("list the allocations that run: %w", err)
		}
		if err := writeRegister(o.Dir, register); err != nil {
			return nil, err
		}
	}
	return &Watcher{options: o, cache: map[int64]known{},
		court: occupancy.Court{Key: key, Register: register, Exempt: o.Exempt}}, nil
}

// Grant makes a grant of devices, as the variables to put into the environment
// of the task that they are reserved for. With an error that concerns only the
// register's file there are variables too: the grant is good, but what it
// replaces may pass for good after a restart of the plugin.
func (w *Watcher) Grant(ids []string) (map[string]string, error) {
	random := make([]byte, occupancy.NonceSize/2)
	if _, err := io.ReadFull(w.options.Random, random); err != nil {
		return nil, fmt.Errorf("make a grant: %w", err)
	}
	nonce := hex.EncodeToString(random)
	w.mu.Lock()
	defer w.mu.Unlock()
	text, err := w.court.Key.Grant(ids, nonce)
	if err != nil {
		return nil, err
	}
	err = w.change(func(r occupancy.Register) occupancy.Register { return r.Issue(ids, nonce) })
	return map[string]string{occupancy.Variable(nonce): text}, err
}

// change applies a change to the register and saves it. Another process may
// have the same directory for a moment, when Nomad was killed and its plugin
// was not: what that one wrote is kept.
func (w *Watcher) change(apply func(occupancy.Register) occupancy.Register) error {
	stored, _, err := readRegister(w.options.Dir)
	if err == nil {
		w.court.Register = apply(w.court.Register.Merge(stored))
		err = writeRegister(w.options.Dir, w.court.Register)
	} else {
		w.court.Register = apply(w.court.Register)
	}
	w.unsaved = err != nil
	return err
}

// Look judges every compute process in the samples, sorted by GPU, device and
// process. The uses are complete even with an error, which concerns only the
// register's file.
func (w *Watcher) Look(samples []inventory.Sample, inv inventory.Inventory) ([]occupancy.Use, error) {
	w.looking.Lock()
	defer w.looking.Unlock()
	now := w.options.Now()
	w.mu.Lock()
	court := w.court
	w.mu.Unlock()

	places := located(samples, inv)
	facts := w.gather(places, now)
	owners := w.owners(court, places, facts)
	for nonce, owner := range owners {
		court.Register = court.Register.Bind(nonce, owner)
	}
	uses := make([]occupancy.Use, 0, len(places))
	held := map[int64]bool{}
	for _, seen := range places {
		f, pid := facts[seen.process.PID], seen.process.PID
		found := court.Judge(f, seen.place)
		before, again := held[pid]
		held[pid] = found.Verdict == occupancy.Held && (before || !again)
		uses = append(uses, found.Describe(f, seen.place, seen.process))
	}
	for pid, k := range w.cache {
		k.held = held[pid]
		w.cache[pid] = k
	}
	return uses, w.bind(owners)
}

// owners finds who has each grant that was not seen with anybody before, by its
// nonce: of several allocations the one whose process is the oldest.
func (w *Watcher) owners(court occupancy.Court, places []sighting, facts map[int64]occupancy.Facts) map[string]occupancy.Owner {
	owners := map[string]occupancy.Owner{}
	oldest := map[string]uint64{}
	for _, seen := range places {
		f, start := facts[seen.process.PID], w.cache[seen.process.PID].start
		nonce := court.Judge(f, seen.place).Bind
		if before, ok := oldest[nonce]; nonce != "" && (!ok || start < before) {
			oldest[nonce] = start
			owners[nonce], _ = f.Owner()
		}
	}
	return owners
}

// bind records who was seen with which grant.
func (w *Watcher) bind(owners map[string]occupancy.Owner) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	if len(owners) == 0 && !w.unsaved {
		return nil
	}
	return w.change(func(r occupancy.Register) occupancy.Register {
		for nonce, owner := range owners {
			r = r.Bind(nonce, owner)
		}
		return r
	})
}

// sighting is one process at one place.
type sighting struct {
	place   occupancy.Place
	process inventory.Process
}

// located lists each process once a place, sorted. NVML may list a process both
// under a GPU and under its MIG instance.
func located(samples []inventory.Sample, inv inventory.Inventory) []sighting {
	var all []sighting
	for _, s := range samples {
		if !s.ProcessesKnown {
			continue
		}
		for _, p := range s.Processes {
			if p.PID > 0 {
				all = append(all, sighting{occupancy.Locate(inv, s.UUID, p), p})
			}
		}
	}
	slices.SortStableFunc(all, func(a, b sighting) int {
		return cmp.Or(strings.Compare(a.place.GPU, b.place.GPU), strings.Compare(a.place.DeviceID(), b.place.DeviceID()),
			cmp.Compare(a.process.PID, b.process.PID), compareKnown(a.process.MemoryMiB, b.process.MemoryMiB))
	})
	return slices.CompactFunc(all, func(a, b sighting) bool {
		return a.place.GPU == b.place.GPU && a.place.DeviceID() == b.place.DeviceID() && a.process.PID == b.process.PID
	})
}

// compareKnown puts what is known first, the larger before the smaller.
func compareKnown(a, b inventory.Maybe[int64]) int {
	if a.Known != b.Known {
		if a.Known {
			return -1
		}
		return 1
	}
	return cmp.Compare(b.Value, a.Value)
}

// gather returns the facts about each process, from the cache where they hold.
func (w *Watcher) gather(places []sighting, now time.Time) map[int64]occupancy.Facts {
	facts := map[int64]occupancy.Facts{}
	next := map[int64]known{}
	for _, seen := range places {
		pid := seen.process.PID
		if _, done := facts[pid]; done {
			continue
		}
		s, err := w.options.Proc.stat(pid)
		if err != nil {
			facts[pid] = occupancy.Facts{Gone: gone(err), Unreadable: true}
			continue
		}
		k, ok := w.cache[pid]
		if !ok || k.start != s.Start || s.Ended || (!k.held && now.Sub(k.read) >= recheck) {
			k = known{start: s.Start, read: now, facts: w.options.Proc.facts(pid, s)}
		}
		facts[pid] = k.facts
		if !k.facts.Gone {
			next[pid] = k
		}
	}
	w.cache = next
	return facts
}
