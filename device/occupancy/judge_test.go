package occupancy_test

import (
	"fmt"
	"regexp"
	"slices"
	"testing"

	"github.com/shoenig/test/must"
	"pgregory.net/rapid"

	"github.com/nomad-governor/governor/device/inventory"
	"github.com/nomad-governor/governor/device/occupancy"
)

const nonce2 = "fedcba9876543210fedcba9876543210"

// task is what is known of a process in a task of exec.
func task(allocID string, grants ...string) occupancy.Facts {
	return occupancy.Facts{Command: "python3", Program: "python3.12", UID: 1000, EUID: 1000, EnvironRead: true,
		Scope: occupancy.Scope{AllocID: allocID, Task: "train", Path: "/x"},
		Task:  occupancy.Environment{AllocID: allocID, Task: "train", Grants: grants}}
}

// person is what is known of a process of nobody's task.
func person(grants ...string) occupancy.Facts {
	return occupancy.Facts{Command: "python3", UID: 1000, EUID: 1000, EnvironRead: true,
		Scope: occupancy.Scope{Path: "/user.slice"}, Task: occupancy.Environment{Grants: grants}}
}

func with(f occupancy.Facts, change func(*occupancy.Facts)) occupancy.Facts {
	change(&f)
	return f
}

func granted(ids ...string) occupancy.Register { return occupancy.Register{}.Issue(ids, nonce) }

var onGPU0 = occupancy.Place{GPU: gpu0}

func TestJudge(t *testing.T) {
	t.Parallel()
	k := key(t, 'k')
	good := made(k, nonce, gpu0)
	owner := occupancy.Owner{AllocID: alloc, Task: "train"}
	cleared := with(task(alloc), func(f *occupancy.Facts) { f.Task = occupancy.Environment{} })
	root := with(person(), func(f *occupancy.Facts) { f.UID, f.EUID, f.Command = 0, 0, "nvidia-cuda-mps" })
	held := occupancy.Finding{Verdict: occupancy.Held, Reason: occupancy.GrantValid, DeviceID: gpu0}
	type finding = occupancy.Finding
	for name, c := range map[string]struct {
		facts    occupancy.Facts
		register occupancy.Register
		place    occupancy.Place
		want     finding
	}{
		"a valid grant, seen for the first time": {task(alloc, good), granted(gpu0), onGPU0,
			finding{occupancy.Held, occupancy.GrantValid, gpu0, nonce}},
		"a valid grant, seen before":                       {task(alloc, good), granted(gpu0).Bind(nonce, owner), onGPU0, held},
		"a valid grant that the register does not know":    {task(alloc, good), occupancy.Register{}, onGPU0, held},
		"a valid grant among others":                       {task(alloc, "x", made(k, nonce2, gpu1), good), granted(gpu0).Bind(nonce, owner), onGPU0, held},
		"a valid grant where the host names no allocation": {person(good), granted(gpu0), onGPU0, held},
		"a valid grant of a task that says who it is":      {with(person(good), func(f *occupancy.Facts) { f.Task.AllocID = alloc }), granted(gpu0), onGPU0, held},
		"no grant":                    {task(alloc), granted(gpu1), onGPU0, finding{Verdict: occupancy.NotHeld, Reason: occupancy.GrantMissing}},
		"another key's grant":         {task(alloc, made(key(t, 'x'), nonce, gpu0)), granted(gpu0), onGPU0, finding{Verdict: occupancy.NotHeld, Reason: occupancy.GrantForged}},
		"a grant of another device":   {task(alloc, made(k, nonce, gpu1)), granted(gpu1), onGPU0, finding{Verdict: occupancy.NotHeld, Reason: occupancy.GrantElsewhere}},
		"a grant that was superseded": {task(alloc, good), granted(gpu0).Issue([]string{gpu0}, nonce2), onGPU0, finding{Verdict: occupancy.NotHeld, Reason: occupancy.GrantSuperseded}},
		"another allocation's grant":  {task(other, good), granted(gpu0).Bind(nonce, owner), onGPU0, finding{Verdict: occupancy.NotHeld, Reason: occupancy.GrantNotTheirs}},
		"another task's grant": {with(task(alloc, good), func(f *occupancy.Facts) { f.Scope.Task = "sidecar" }), granted(gpu0).Bind(nonce, owner), onGPU0,
			finding{Verdict: occupancy.NotHeld, Reason: occupancy.GrantNotTheirs}},
		"a person with a task's grant": {person(good), granted(gpu0).Bind(nonce, owner), onGPU0, finding{Verdict: occupancy.Outside, Reason: occupancy.GrantNotTheirs}},
		"a person with an old grant":   {person(good), granted(gpu0).Issue([]string{gpu0}, nonce2), onGPU0, finding{Verdict: occupancy.Outside, Reason: occupancy.GrantSuperseded}},
		"a person":                     {person(), granted(gpu0), onGPU0, finding{Verdict: occupancy.Outside, Reason: occupancy.NoAllocation}},
		"a person with a forged grant": {person("x"), granted(gpu0), onGPU0, finding{Verdict: occupancy.Outside, Reason: occupancy.NoAllocation}},
		"a task that says who it is": {with(person(), func(f *occupancy.Facts) { f.Task.AllocID = alloc }), granted(gpu0), onGPU0,
			finding{Verdict: occupancy.NotHeld, Reason: occupancy.GrantMissing}},
		"a task that says that it is the holder": {with(person(), func(f *occupancy.Facts) { f.Task.AllocID, f.Task.Task = alloc, "train" }), granted(gpu0).Bind(nonce, owner), onGPU0,
			finding{Verdict: occupancy.NotHeld, Reason: occupancy.GrantMissing}},

		"a cleared environment, and the device waits for its holder": {cleared, granted(gpu0), onGPU0, finding{Verdict: occupancy.Unknown, Reason: occupancy.EnvironmentLost}},
		"a cleared environment of the holder":                        {cleared, granted(gpu0).Bind(nonce, owner), onGPU0, finding{occupancy.Held, occupancy.SeenBefore, gpu0, ""}},
		"a cleared environment, and the device has another holder": {cleared, granted(gpu0).Bind(nonce, occupancy.Owner{AllocID: other}), onGPU0,
			finding{Verdict: occupancy.NotHeld, Reason: occupancy.GrantMissing}},
		"a cleared environment, and nobody was given the device": {cleared, granted(gpu1), onGPU0, finding{Verdict: occupancy.NotHeld, Reason: occupancy.GrantMissing}},
		"an environment that cannot be read": {with(cleared, func(f *occupancy.Facts) { f.EnvironRead = false }), granted(gpu1), onGPU0,
			finding{Verdict: occupancy.Unknown, Reason: occupancy.ProcessUnreadable}},
		"an environment that cannot be read, of nobody": {with(person(), func(f *occupancy.Facts) { f.EnvironRead = false }), granted(gpu1), onGPU0,
			finding{Verdict: occupancy.Unknown, Reason: occupancy.ProcessUnreadable}},
		"a process that is gone": {occupancy.Facts{Gone: true}, granted(gpu0), onGPU0, finding{Verdict: occupancy.Unknown, Reason: occupancy.ProcessGone}},
		"a process that cannot be read": {with(task(alloc, "x"), func(f *occupancy.Facts) { f.Unreadable = true }), granted(gpu0), onGPU0,
			finding{Verdict: occupancy.Unknown, Reason: occupancy.ProcessUnreadable}},
		"an allocation from before there were grants": {task(alloc), occupancy.Register{Adopted: []string{alloc}}, onGPU0, finding{Verdict: occupancy.Unknown, Reason: occupancy.BeforeGrants}},

		"root's MPS server": {root, granted(gpu0), onGPU0, finding{Verdict: occupancy.Exempt, Reason: occupancy.ExemptCommand}},
		"root's DCGM, by its program": {with(root, func(f *occupancy.Facts) { f.Command, f.Program = "x", "nv-hostengine" }), granted(gpu0), onGPU0,
			finding{Verdict: occupancy.Exempt, Reason: occupancy.ExemptCommand}},
		"root's DCGM, in a container that may be a task's": {with(root, func(f *occupancy.Facts) { f.Mounts.Doubtful = true }), granted(gpu0), onGPU0,
			finding{Verdict: occupancy.Outside, Reason: occupancy.NoAllocation}},
		"a person's MPS server":   {with(root, func(f *occupancy.Facts) { f.UID = 1000 }), granted(gpu0), onGPU0, finding{Verdict: occupancy.Outside, Reason: occupancy.NoAllocation}},
		"a person's, run as root": {with(root, func(f *occupancy.Facts) { f.EUID = 1000 }), granted(gpu0), onGPU0, finding{Verdict: occupancy.Outside, Reason: occupancy.NoAllocation}},
		"root's anything":         {with(root, func(f *occupancy.Facts) { f.Command = "bash" }), granted(gpu0), onGPU0, finding{Verdict: occupancy.Outside, Reason: occupancy.NoAllocation}},
		"a task's root, so named": {with(task(alloc), func(f *occupancy.Facts) {
			f.UID, f.EUID, f.Command, f.Program = 0, 0, "nvidia-cuda-mps", "nv-hostengine"
		}), granted(gpu1), onGPU0, finding{Verdict: occupancy.NotHeld, Reason: occupancy.GrantMissing}},
		"a share of the GPU":         {task(alloc, made(k, nonce, gpu0+"::1")), granted(gpu0 + "::1"), onGPU0, finding{occupancy.Held, occupancy.GrantValid, gpu0 + "::1", nonce}},
		"a share of another GPU":     {task(alloc, made(k, nonce, gpu1+"::1")), granted(gpu1 + "::1"), onGPU0, finding{Verdict: occupancy.NotHeld, Reason: occupancy.GrantElsewhere}},
		"the instance it is on":      {task(alloc, made(k, nonce, mig0)), granted(mig0), occupancy.Place{GPU: gpu0, Instances: []string{mig0}}, finding{occupancy.Held, occupancy.GrantValid, mig0, nonce}},
		"a share of the instance":    {task(alloc, made(k, nonce, mig0+"::0")), granted(mig0 + "::0"), occupancy.Place{GPU: gpu0, Instances: []string{mig0}}, finding{occupancy.Held, occupancy.GrantValid, mig0 + "::0", nonce}},
		"an instance it is not on":   {task(alloc, made(k, nonce, mig1)), granted(mig1), occupancy.Place{GPU: gpu0, Instances: []string{mig0}}, finding{Verdict: occupancy.NotHeld, Reason: occupancy.GrantElsewhere}},
		"an instance it may be on":   {task(alloc, made(k, nonce, mig1)), granted(mig1), occupancy.Place{GPU: gpu0, Instances: []string{mig0, mig1}}, finding{occupancy.Held, occupancy.GrantValid, mig1, nonce}},
		"the GPU of an instance":     {task(alloc, good), granted(gpu0), occupancy.Place{GPU: gpu0, Instances: []string{mig0}}, finding{occupancy.Held, occupancy.GrantValid, gpu0, nonce}},
		"another share's holder may": {cleared, granted(gpu0+"::0").Bind(nonce, occupancy.Owner{AllocID: other}).Issue([]string{gpu0 + "::1"}, nonce2), onGPU0, finding{Verdict: occupancy.Unknown, Reason: occupancy.EnvironmentLost}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			court := occupancy.Court{Key: k, Register: c.register, Exempt: occupancy.DefaultExempt()}
			must.Eq(t, c.want, court.Judge(c.facts, c.place))
		})
	}
}

func TestLocate(t *testing.T) {
	t.Parallel()
	gpu := inventory.GPU{UUID: gpu0, Instances: []inventory.MIGInstance{
		{UUID: mig1, GPUInstance: 9, ComputeInstance: 0}, {UUID: mig0, GPUInstance: 7, ComputeInstance: 0}}}
	inv := inventory.Inventory{Devices: []inventory.Device{{GPU: inventory.GPU{UUID: gpu1}}, {GPU: gpu}}}
	on := func(gi, ci inventory.Maybe[int64]) inventory.Process {
		return inventory.Process{GPUInstance: gi, ComputeInstance: ci}
	}
	var unknown inventory.Maybe[int64]
	for name, c := range map[string]struct {
		uuid    string
		process inventory.Process
		want    occupancy.Place
		id      string
	}{
		"a GPU without instances":             {gpu1, on(unknown, unknown), occupancy.Place{GPU: gpu1}, gpu1},
		"an instance, listed under its GPU":   {gpu0, on(inventory.Known[int64](9), inventory.Known[int64](0)), occupancy.Place{GPU: gpu0, Instances: []string{mig1}}, mig1},
		"an instance, listed under itself":    {mig0, on(unknown, unknown), occupancy.Place{GPU: gpu0, Instances: []string{mig0}}, mig0},
		"only the GPU instance is known":      {gpu0, on(inventory.Known[int64](7), unknown), occupancy.Place{GPU: gpu0, Instances: []string{mig0}}, mig0},
		"any instance of the GPU":             {gpu0, on(unknown, unknown), occupancy.Place{GPU: gpu0, Instances: []string{mig0, mig1}}, gpu0},
		"an instance that is there no longer": {gpu0, on(inventory.Known[int64](3), inventory.Known[int64](0)), occupancy.Place{GPU: gpu0}, gpu0},
		"a GPU that nobody knows":             {"GPU-x", on(unknown, unknown), occupancy.Place{GPU: "GPU-x"}, "GPU-x"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			place := occupancy.Locate(inv, c.uuid, c.process)
			must.Eq(t, c.want, place)
			must.Eq(t, c.id, place.DeviceID())
		})
	}
}

func TestDescribe(t *testing.T) {
	t.Parallel()
	f := with(task(alloc), func(f *occupancy.Facts) { f.Scope.Container = "" })
	seen := inventory.Process{PID: 7, MemoryMiB: inventory.Known[int64](512), MPS: true}
	use := occupancy.Finding{Verdict: occupancy.NotHeld, Reason: occupancy.GrantMissing}.Describe(f, onGPU0, seen)
	must.Eq(t, occupancy.Use{DeviceID: gpu0, GPU: gpu0, PID: 7, Command: "python3", UID: inventory.Known[int64](1000),
		MemoryMiB: inventory.Known[int64](512), MPS: true, AllocID: alloc, Task: "train", By: occupancy.FromCgroup,
		Verdict: occupancy.NotHeld, Reason: occupancy.GrantMissing}, use)
	must.True(t, use.Rogue())
	must.Eq(t, `process 7 (python3) of task "train" in allocation `+alloc+" on "+gpu0+": the task was given no GPU; give it a device block", use.String())

	gone := occupancy.Finding{Verdict: occupancy.Unknown, Reason: occupancy.ProcessGone}.Describe(occupancy.Facts{Gone: true}, onGPU0, seen)
	must.False(t, gone.Rogue())
	must.False(t, gone.UID.Known)
	must.Eq(t, "process 7 () on "+gpu0+": it ended while it was looked at", gone.String())
}

func TestEveryReasonHasWordsOfItsOwn(t *testing.T) {
	t.Parallel()
	seen := map[string]bool{}
	for _, r := range []occupancy.Reason{
		occupancy.GrantValid, occupancy.SeenBefore, occupancy.GrantMissing, occupancy.GrantForged, occupancy.GrantElsewhere,
		occupancy.GrantSuperseded, occupancy.GrantNotTheirs, occupancy.NoAllocation, occupancy.ExemptCommand,
		occupancy.ProcessGone, occupancy.ProcessUnreadable, occupancy.EnvironmentLost, occupancy.BeforeGrants,
	} {
		text := occupancy.Use{Reason: r}.String()
		must.False(t, seen[text])
		must.StrNotContains(t, text, string(r), must.Sprint("a sentence, not the code"))
		must.RegexMatch(t, regexp.MustCompile(`^[a-z]+(_[a-z]+)*$`), string(r))
		seen[text] = true
	}
	for v, want := range map[fmt.Stringer]string{
		occupancy.Unknown: "unknown", occupancy.Held: "held", occupancy.NotHeld: "not_held", occupancy.Outside: "outside", occupancy.Exempt: "exempt",
		occupancy.NoSource: "none", occupancy.FromEnvironment: "environment", occupancy.FromMounts: "mounts", occupancy.FromCgroup: "cgroup",
	} {
		must.Eq(t, want, v.String())
	}
}

func TestOwner(t *testing.T) {
	t.Parallel()
	mounts := occupancy.Mounts{AllocID: alloc}
	for name, c := range map[string]struct {
		facts occupancy.Facts
		want  occupancy.Owner
		by    occupancy.Source
	}{
		"the cgroup before all": {occupancy.Facts{Scope: occupancy.Scope{AllocID: alloc, Task: "a"}, Mounts: occupancy.Mounts{AllocID: other}},
			occupancy.Owner{AllocID: alloc, Task: "a"}, occupancy.FromCgroup},
		"the mounts before what the process says": {occupancy.Facts{Mounts: occupancy.Mounts{AllocID: alloc, Task: "a"}, Task: occupancy.Environment{AllocID: other, Task: "b"}},
			occupancy.Owner{AllocID: alloc, Task: "a"}, occupancy.FromMounts},
		"the task from the process where both agree": {occupancy.Facts{Mounts: mounts, Task: occupancy.Environment{AllocID: alloc, Task: "b"}},
			occupancy.Owner{AllocID: alloc, Task: "b"}, occupancy.FromMounts},
		"no task where they do not": {occupancy.Facts{Mounts: mounts, Task: occupancy.Environment{AllocID: other, Task: "b"}},
			occupancy.Owner{AllocID: alloc}, occupancy.FromMounts},
		"what the process says": {occupancy.Facts{Task: occupancy.Environment{AllocID: alloc, Task: "b"}},
			occupancy.Owner{AllocID: alloc, Task: "b"}, occupancy.FromEnvironment},
		"nobody": {occupancy.Facts{}, occupancy.Owner{}, occupancy.NoSource},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			owner, by := c.facts.Owner()
			must.Eq(t, c.want, owner)
			must.Eq(t, c.by, by, must.Sprint(by))
		})
	}
}

// situation is anything that can be asked about: a register after any history,
// facts with any grants, any place.
type situation struct {
	court occupancy.Court
	facts occupancy.Facts
	place occupancy.Place
}

func genSituation(t *rapid.T, k occupancy.Key) situation {
	ids := rapid.SampledFrom([]string{gpu0, gpu1, gpu0 + "::0", gpu0 + "::1", mig0, mig1, mig0 + "::0"})
	some := rapid.SliceOfNDistinct(ids, 1, 4, rapid.ID)
	nonces := rapid.SampledFrom([]string{nonce, nonce2, "00000000000000000000000000000000"})
	allocs := rapid.SampledFrom([]string{alloc, other, ""})
	tasks := rapid.SampledFrom([]string{"train", "sidecar", ""})
	var r occupancy.Register
	var grants []string
	for range rapid.IntRange(0, 5).Draw(t, "issued") {
		granted, n := some.Draw(t, "granted"), nonces.Draw(t, "nonce")
		r = r.Issue(granted, n)
		grants = append(grants, made(k, n, granted...))
		if a := allocs.Draw(t, "holder"); a != "" {
			r = r.Bind(n, occupancy.Owner{AllocID: a, Task: tasks.Draw(t, "holder's task")})
		}
	}
	if rapid.Bool().Draw(t, "adopted") {
		r.Adopted = []string{alloc}
	}
	grants = append(grants, made(key(t, 'x'), nonce, gpu0), "nonsense", gpu0+":"+nonce+":", made(k, nonce, gpu1))
	f := occupancy.Facts{Gone: rapid.IntRange(0, 9).Draw(t, "gone") == 0, Unreadable: rapid.IntRange(0, 9).Draw(t, "unreadable") == 0,
		EnvironRead: rapid.IntRange(0, 9).Draw(t, "read") > 0, UID: rapid.SampledFrom([]int64{0, 1000}).Draw(t, "uid"),
		Command: rapid.SampledFrom([]string{"python3", "nv-hostengine"}).Draw(t, "command")}
	if f.EnvironRead {
		f.Task = occupancy.Environment{AllocID: allocs.Draw(t, "claimed"), Task: tasks.Draw(t, "claimed task"),
			Grants: rapid.SliceOfN(rapid.SampledFrom(grants), 0, 3).Draw(t, "grants")}
	}
	if rapid.Bool().Draw(t, "cgroup") {
		f.Scope = occupancy.Scope{AllocID: alloc, Task: tasks.Draw(t, "task")}
	}
	place := occupancy.Place{GPU: rapid.SampledFrom([]string{gpu0, gpu1}).Draw(t, "gpu"),
		Instances: rapid.SampledFrom([][]string{nil, {mig0}, {mig0, mig1}}).Draw(t, "instances")}
	return situation{occupancy.Court{Key: k, Register: r, Exempt: occupancy.DefaultExempt()}, f, place}
}

// covered says in its own words whether a device id is at the place.
func covered(p occupancy.Place, id string) bool {
	for _, uuid := range append([]string{p.GPU}, p.Instances...) {
		if id == uuid || (len(id) > len(uuid)+2 && id[:len(uuid)+2] == uuid+"::") {
			return true
		}
	}
	return false
}

func TestOnlyAValidGrantOfTheDeviceHoldsIt(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		k := key(t, 'k')
		s := genSituation(t, k)
		found := s.court.Judge(s.facts, s.place)
		owner, by := s.facts.Owner()
		latest, known := s.court.Register.Latest[found.DeviceID]
		switch found.Verdict {
		case occupancy.Held:
			must.True(t, covered(s.place, found.DeviceID))
			if found.Reason == occupancy.SeenBefore {
				must.True(t, known && latest.AllocID == owner.AllocID && by != occupancy.FromEnvironment)
				break
			}
			must.True(t, slices.ContainsFunc(s.facts.Task.Grants, func(text string) bool {
				g, ok := k.Verify(text)
				return ok && slices.Contains(g.IDs, found.DeviceID) && (!known || g.Nonce == latest.Nonce)
			}))
			must.True(t, !known || latest.AllocID == "" || latest.AllocID == owner.AllocID)
		case occupancy.NotHeld:
			must.NotEq(t, "", owner.AllocID)
			must.True(t, s.facts.EnvironRead && !s.facts.Gone && !s.facts.Unreadable)
		case occupancy.Outside, occupancy.Exempt:
			must.Eq(t, "", owner.AllocID)
			must.True(t, !s.facts.Gone && !s.facts.Unreadable)
		case occupancy.Unknown:
		}
		must.True(t, found.Bind == "" || (found.Verdict == occupancy.Held && by > occupancy.FromEnvironment))
	})
}

func TestTheLatestGrantHoldsUntilTheNext(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		k := key(t, 'k')
		s := genSituation(t, k)
		s.facts.Gone, s.facts.Unreadable, s.facts.EnvironRead = false, false, true
		id := rapid.SampledFrom([]string{s.place.GPU, s.place.GPU + "::0"}).Draw(t, "id")
		fresh := "11111111111111111111111111111111"
		s.court.Register = s.court.Register.Issue([]string{id}, fresh)
		s.facts.Task.Grants = []string{made(k, fresh, id)}
		found := s.court.Judge(s.facts, s.place)
		must.Eq(t, occupancy.Held, found.Verdict)
		must.Eq(t, id, found.DeviceID)

		// Seen once, it is this owner's whatever others say, and void after
		// the next grant.
		owner, _ := s.facts.Owner()
		if found.Bind != "" {
			s.court.Register = s.court.Register.Bind(found.Bind, owner)
			thief := task("99999999-9999-9999-9999-999999999999", s.facts.Task.Grants...)
			must.Eq(t, occupancy.GrantNotTheirs, s.court.Judge(thief, s.place).Reason)
		}
		s.court.Register = s.court.Register.Issue([]string{id}, "22222222222222222222222222222222")
		must.NotEq(t, occupancy.GrantValid, s.court.Judge(s.facts, s.place).Reason)
	})
}

func TestRegisterLaws(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		k := key(t, 'k')
		a, b := genSituation(t, k).court.Register, genSituation(t, k).court.Register
		before := a.Merge(occupancy.Register{})
		must.Eq(t, before, a.Merge(a), must.Sprint("merging with itself"))
		ab := a.Merge(b)
		must.Eq(t, ab, ab.Merge(b), must.Sprint("merging twice"))
		must.Eq(t, ab, b.Merge(a), must.Sprint("in the other order"))
		for id, e := range ab.Latest {
			must.GreaterEq(t, a.Latest[id].Serial, e.Serial)
			must.GreaterEq(t, b.Latest[id].Serial, e.Serial)
		}
		_ = a.Issue([]string{gpu0}, nonce).Bind(nonce, occupancy.Owner{AllocID: alloc})
		must.Eq(t, before, a.Merge(occupancy.Register{}), must.Sprint("a register is a value"))
		must.Eq(t, nonce, ab.Issue([]string{gpu0}, nonce).Latest[gpu0].Nonce)
	})
}

func TestRegisterForgetsTheOldestBeyondItsLimit(t *testing.T) {
	t.Parallel()
	var r occupancy.Register
	for i := range 1100 {
		r = r.Issue([]string{"MIG-" + string(rune('a'+i%26)) + string(rune('a'+i/26%26)) + string(rune('a'+i/676))}, nonce)
	}
	must.MapLen(t, 1024, r.Latest)
	var least int64 = 1 << 62
	for _, e := range r.Latest {
		least = min(least, e.Serial)
	}
	must.Eq(t, 77, least)
}
