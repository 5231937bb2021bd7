package inventory

import (
	"cmp"
	"fmt"
	"path"
	"slices"
	"strconv"
	"strings"

	"github.com/nomad-governor/governor/internal/gpu"
)

// MIGStrategy says how GPUs with MIG mode on become devices.
type MIGStrategy string

// The strategies, in the words of NVIDIA's Kubernetes device plugin.
const (
	// MIGNone offers whole GPUs only; one with MIG mode on is unhealthy,
	// because CUDA cannot use it whole.
	MIGNone MIGStrategy = "none"
	// MIGSingle offers instances of one profile as nvidia/gpu: jobs need not
	// know about MIG. Where a node has several profiles none is offered.
	MIGSingle MIGStrategy = "single"
	// MIGMixed offers instances of any profile as nvidia/mig.
	MIGMixed MIGStrategy = "mixed"
)

// SharingStrategy says how several tasks use one GPU.
type SharingStrategy string

// The strategies. Neither isolates tasks as MIG does; docs/device.md says what
// each leaves open.
const (
	TimeSlicing SharingStrategy = "time-slicing"
	MPS         SharingStrategy = "mps"
)

// ReplicasMost bounds the shares of one GPU: an MPS server has 48 clients
// before Volta and 60 since; more shares than that are of no use either.
const ReplicasMost = 48

// Patterns name GPUs: by UUID, PCI address ("0000:3b:00.0"), index, or model, in
// which * stands for any text; "*" alone matches every GPU.
type Patterns []string

// Match reports whether a pattern matches the GPU.
func (p Patterns) Match(g GPU) bool {
	return slices.ContainsFunc(p, func(pattern string) bool {
		if pattern == g.UUID || strings.EqualFold(pattern, g.PCIBusID) || pattern == strconv.Itoa(g.Index) {
			return true
		}
		// A model's name has no slash, so that path.Match's * matches all of it.
		matched, err := path.Match(pattern, g.Name)
		return err == nil && matched
	})
}

// ShareRule makes shares of the GPUs that it matches.
type ShareRule struct {
	GPUs     Patterns
	Strategy SharingStrategy
	// Replicas is the number of shares of each GPU, 2 to ReplicasMost.
	Replicas int
}

// Layout says how a node's GPUs become the devices that Nomad hands out. The
// zero value is one device for each GPU and each MIG instance.
type Layout struct {
	MIG MIGStrategy // empty means MIGMixed
	// Sharing is tried in order: the first rule that matches a GPU counts.
	Sharing []ShareRule
	// MPSProblem says why no MPS server is there; empty when one is.
	MPSProblem string
	// Islands is the topology group of each GPU by UUID, Names its model's name;
	// see Identity.
	Islands, Names map[string]string
	// Ignored are the UUIDs of GPUs and MIG instances that are not offered;
	// IgnoredGPUs matches more GPUs.
	Ignored     []string
	IgnoredGPUs Patterns
}

// Unit is one device that Nomad can hand out: a GPU, a share of one, or a MIG
// instance.
type Unit struct {
	// ID is the device id: a GPU's UUID, "<UUID>::<n>" for its share n, or a
	// MIG instance's UUID.
	ID         string
	Type, Name string // of its group
	Device     Device
	MIG        *MIGDevice // nil for GPUs and shares
	Share      *Share     // nil for GPUs and MIG instances
	Island     string     // the topology group; empty without

	problem  string // why the layout does not allow its use
	withhold bool   // degraded counts as unhealthy
}

// Share is one of several equal shares of a GPU.
type Share struct {
	Strategy        SharingStrategy
	Replicas, Index int
}

// ShareID is the device id of a GPU's share.
func ShareID(uuid string, index int) string { return fmt.Sprintf("%s::%d", uuid, index) }

// Units lists the devices of the node in a fixed order: by group, then by PCI
// address, then by instance. Each is listed once, whatever the driver says: Nomad
// would hand out one that is listed twice to two tasks. The GPUs of shares take
// turns: of a group of up to eight Nomad's scheduler picks neighbours (it ranges
// over a small Go map), and two shares of one GPU are of no use to a task.
func (inv Inventory) Units(l Layout) []Unit {
	var units []Unit
	listed := map[string]bool{}
	for _, d := range inv.Devices {
		if slices.Contains(l.Ignored, d.GPU.UUID) || l.IgnoredGPUs.Match(l.Named(d.GPU)) {
			continue
		}
		for _, u := range l.units(d) {
			if !slices.Contains(l.Ignored, u.ID) && !listed[u.ID] {
				listed[u.ID] = true
				u.withhold = inv.Policy.Withhold
				units = append(units, u)
			}
		}
	}
	l.checkSingle(units)
	slices.SortStableFunc(units, func(a, b Unit) int {
		return cmp.Or(strings.Compare(a.Type, b.Type), strings.Compare(a.Name, b.Name), cmp.Compare(a.turn(), b.turn()))
	})
	return units
}

// turn is the number of a share; 0 for what is none.
func (u Unit) turn() int {
	if u.Share == nil {
		return 0
	}
	return u.Share.Index
}

func (l Layout) units(d Device) []Unit {
	named := l.Named(d.GPU)
	whole := Unit{ID: named.UUID, Type: gpu.TypeGPU, Name: named.Name, Device: d}
	if is(d.GPU.MIG) || len(d.MIG) > 0 {
		return l.instances(whole)
	}
	for _, rule := range l.Sharing {
		if rule.GPUs.Match(named) {
			return l.shares(whole, rule)
		}
	}
	return []Unit{l.grouped(whole)}
}

// Named is the GPU under the name that its model has in groups and rules.
func (l Layout) Named(g GPU) GPU {
	g.Name = cmp.Or(l.Names[g.UUID], g.Name)
	return g
}

// grouped puts a whole GPU into its topology group.
func (l Layout) grouped(whole Unit) Unit {
	if island := l.Islands[whole.ID]; island != "" {
		whole.Island = island
		whole.Name += "-" + island
	}
	return whole
}

// instances is one unit for each MIG instance. Under MIGNone, and without any
// instance, the GPU itself shows why it cannot be used: a GPU that vanishes
// from the list would leave nobody a hint.
func (l Layout) instances(whole Unit) []Unit {
	switch {
	case l.MIG == MIGNone:
		whole.problem = `mig_enabled: MIG mode is on: set mig_strategy to "mixed" or "single", or turn MIG mode off`
		return []Unit{l.grouped(whole)}
	case len(whole.Device.MIG) == 0:
		whole.problem = "mig_no_instances: MIG mode is on and there are no instances: create some with nvidia-smi mig, or turn MIG mode off"
		return []Unit{l.grouped(whole)}
	}
	var units []Unit
	for i := range whole.Device.MIG {
		m := &whole.Device.MIG[i]
		u := Unit{ID: m.UUID, Type: gpu.TypeMIG, Name: whole.Name + " MIG " + m.Profile, Device: whole.Device, MIG: m}
		if l.MIG == MIGSingle {
			u.Type = gpu.TypeGPU
		}
		units = append(units, u)
	}
	return units
}

// checkSingle enforces that MIGSingle means one profile: a job that asks for
// "a GPU" must know how large it is.
func (l Layout) checkSingle(units []Unit) {
	if l.MIG != MIGSingle {
		return
	}
	var profiles []string
	for _, u := range units {
		if u.MIG != nil && !slices.Contains(profiles, u.MIG.Profile) {
			profiles = append(profiles, u.MIG.Profile)
		}
	}
	slices.Sort(profiles)
	for i := range units {
		if units[i].MIG != nil && len(profiles) > 1 {
			units[i].problem = `mig_profiles_differ: mig_strategy is "single" and the node has ` + strings.Join(profiles, ", ") +
				`: create instances of one profile, or set mig_strategy to "mixed"`
		}
	}
}

// shares is one unit for each share, of a type and in a group of their own: a job
// asks for shares and never gets one by accident.
func (l Layout) shares(whole Unit, rule ShareRule) []Unit {
	var units []Unit
	for i := range rule.Replicas {
		u := whole
		u.ID, u.Type = ShareID(whole.ID, i), gpu.TypeShare
		u.Name = fmt.Sprintf("%s-shared-%d", whole.Name, rule.Replicas)
		if rule.Strategy == MPS {
			u.Name = fmt.Sprintf("%s-mps-%d", whole.Name, rule.Replicas)
			u.problem = l.MPSProblem
		}
		u.Share = &Share{Strategy: rule.Strategy, Replicas: rule.Replicas, Index: i}
		units = append(units, u)
	}
	return units
}

// VisibleID is what CUDA and NVIDIA's runtime call the device: a share is seen
// as its GPU.
func (u Unit) VisibleID() string {
	if u.MIG != nil {
		return u.MIG.UUID
	}
	return u.Device.GPU.UUID
}

// MemoryMiB is the memory that the device has for its task: the instance's, or
// an equal part of the GPU's.
func (u Unit) MemoryMiB() Maybe[int64] {
	switch {
	case u.MIG != nil:
		return u.MIG.MemoryMiB
	case u.Share != nil:
		m := u.Device.GPU.MemoryMiB
		return Maybe[int64]{Value: m.Value / int64(u.Share.Replicas), Known: m.Known}
	}
	return u.Device.GPU.MemoryMiB
}

// Conditions lists what is wrong with the device, the worst first.
func (u Unit) Conditions() []Condition {
	open := u.Device.Health.Open()
	if u.MIG != nil {
		open = append(open, u.MIG.Health.Open()...)
		slices.SortStableFunc(open, func(a, b Condition) int { return cmp.Compare(b.Severity, a.Severity) })
	}
	return open
}

// Reason says why the device must not be used; empty when it may.
func (u Unit) Reason() string {
	if u.Device.Health.Failure != "" {
		return u.Device.Health.Failure
	}
	if u.problem != "" {
		return u.problem
	}
	reason := describe(u.Conditions(), Unhealthy)
	if reason == "" && u.withhold {
		reason = u.Degradation()
	}
	return reason
}

// ReasonCode is the first word of Reason, which does not vary with its cause:
// "gpu_lost", "nvml_hang", "xid_79"; empty when the device may be used.
func (u Unit) ReasonCode() Code {
	reason := u.Reason()
	word, _, found := strings.Cut(reason, ":")
	if reason != "" && (!found || strings.ContainsAny(word, " /")) {
		return "unknown"
	}
	return Code(word)
}

// Degradation says what the device has less of than it should; empty when
// nothing.
func (u Unit) Degradation() string { return describe(u.Conditions(), Degraded) }

// HealthDesc is what Nomad shows: why the device is not used, or what it lacks.
func (u Unit) HealthDesc() string {
	if reason := u.Reason(); reason != "" {
		return reason
	}
	if less := u.Degradation(); less != "" {
		return "degraded: " + less
	}
	return ""
}
