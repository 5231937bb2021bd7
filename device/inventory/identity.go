package inventory

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/nomad-governor/governor/internal/gpu/topology"
)

// Grouping says along which connections a model's GPUs are split into groups, so
// that one ask is served from one island.
type Grouping string

// The groupings. Off is one group for each model, as nomad-device-nvidia has.
const (
	GroupOff    Grouping = "off"
	GroupNVLink Grouping = "nvlink" // islands connected by NVLink
	GroupNUMA   Grouping = "numa"   // GPUs of one NUMA node
	GroupPCIe   Grouping = "pcie"   // GPUs below common PCIe switches
	// GroupAuto is the first of nvlink, pcie and numa that splits the node
	// and leaves no GPU alone; off where none does, or where NVSwitch
	// connects all.
	GroupAuto Grouping = "auto"
)

// Identity is what the group of each GPU ever seen is called after. A GPU must
// keep its group: one that changes it while an allocation has it is handed out a
// second time, because Nomad counts devices by their group's name.
type Identity struct {
	// Grouping is what the groups were made by; empty before the first.
	Grouping Grouping `json:"grouping"`
	// Islands is the group's name by GPU UUID, "nvlink0"; empty for none.
	Islands map[string]string `json:"islands"`
	// Names is the model's name by GPU UUID, as the driver worded it when the
	// GPU was first seen: another driver may put "NVIDIA " before it.
	Names map[string]string `json:"names"`
}

// Adopt gives each GPU without a name or a group one, and changes none. GPUs that are
// connected to a member of a group join it. An identity made by another grouping
// stays as it is: ok is false then.
func (id Identity) Adopt(inv Inventory, wanted Grouping) (next Identity, ok bool) {
	next = Identity{Grouping: id.Grouping, Islands: maps.Clone(id.Islands), Names: maps.Clone(id.Names)}
	if next.Islands == nil {
		next.Islands = map[string]string{}
	}
	if next.Names == nil {
		next.Names = map[string]string{}
	}
	for _, d := range inv.Devices {
		if _, has := next.Names[d.GPU.UUID]; !has {
			next.Names[d.GPU.UUID] = d.GPU.Name
		}
	}
	if len(inv.Devices) == 0 && len(next.Islands) == 0 {
		return next, true // nothing is decided before there is a GPU
	}
	if next.Grouping == "" {
		next.Grouping = wanted
		if wanted == GroupAuto {
			next.Grouping = choose(inv)
		}
	}
	ok = wanted == next.Grouping || wanted == GroupAuto
	for _, set := range islands(inv, next.Grouping) {
		name := next.nameOf(set)
		for _, uuid := range set {
			if _, has := next.Islands[uuid]; !has {
				next.Islands[uuid] = name
			}
		}
	}
	return next, ok
}

// nameOf is the group that a member already has, or the next free name.
func (id Identity) nameOf(set []string) string {
	for _, uuid := range set {
		if name, has := id.Islands[uuid]; has {
			return name
		}
	}
	if id.Grouping == GroupOff {
		return ""
	}
	taken := slices.Collect(maps.Values(id.Islands))
	for n := 0; ; n++ {
		if name := fmt.Sprintf("%s%d", id.Grouping, n); !slices.Contains(taken, name) {
			return name
		}
	}
}

// choose picks what GroupAuto means on this node.
func choose(inv Inventory) Grouping {
	for _, d := range inv.Devices {
		if d.Switched {
			return GroupOff
		}
	}
	for _, grouping := range []Grouping{GroupNVLink, GroupPCIe, GroupNUMA} {
		sets := islands(inv, grouping)
		alone := slices.ContainsFunc(sets, func(set []string) bool { return len(set) == 1 })
		if len(sets) > 1 && !alone {
			return grouping
		}
	}
	return GroupOff
}

// islands splits each model's GPUs, in PCI order.
func islands(inv Inventory, grouping Grouping) [][]string {
	var sets [][]string
	byName := map[string][]Device{}
	for _, d := range inv.Devices {
		byName[d.GPU.Name] = append(byName[d.GPU.Name], d)
	}
	for _, name := range slices.Sorted(maps.Keys(byName)) {
		devices := byName[name]
		m := inv.matrix(devices)
		if m == nil {
			m = topology.New(0, 0, 0)
		}
		for _, set := range split(len(devices), joined(m, grouping)) {
			var uuids []string
			for _, i := range set {
				uuids = append(uuids, devices[i].GPU.UUID)
			}
			sets = append(sets, uuids)
		}
	}
	slices.SortStableFunc(sets, func(a, b []string) int {
		return strings.Compare(inv.busID(a[0]), inv.busID(b[0]))
	})
	return sets
}

func (inv Inventory) busID(uuid string) string {
	d, _ := inv.Device(uuid)
	return d.GPU.PCIBusID
}

// joined says which pairs belong together.
func joined(m *topology.Matrix, grouping Grouping) func(i, j int) bool {
	return func(i, j int) bool {
		if m.Size() == 0 {
			return true
		}
		switch grouping {
		case GroupNVLink:
			return m.Links(i, j) > 0
		case GroupNUMA:
			return m.NUMA(i) == m.NUMA(j)
		case GroupPCIe:
			p := m.Path(i, j)
			return p != topology.PathUnknown && p <= topology.PathMultiple
		case GroupOff, GroupAuto:
		}
		return true
	}
}

// split returns the connected sets of 0..n-1, each ascending, by first member.
func split(n int, connected func(i, j int) bool) [][]int {
	seen := make([]bool, n)
	var sets [][]int
	for start := range n {
		if seen[start] {
			continue
		}
		seen[start] = true
		set := []int{start}
		for k := 0; k < len(set); k++ {
			for j := range n {
				if !seen[j] && connected(set[k], j) {
					seen[j] = true
					set = append(set, j)
				}
			}
		}
		slices.Sort(set)
		sets = append(sets, set)
	}
	return sets
}
