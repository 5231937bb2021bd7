package draw

import (
	"math"

	"github.com/nomad-governor/governor/internal/gpu/topology"
)

// The sizes of a picture of GPUs.
const (
	// Radius of the dot of a GPU.
	Radius = 22
	margin = 14
	// circleMax is how many GPUs stand in a circle; more stand in rows.
	circleMax = 16
	perRow    = 8
	pitch     = 2*Radius + 26
)

// Dot is one GPU.
type Dot struct {
	// Index of the GPU, and whether it is in the chosen set.
	Index, X, Y int
	Chosen      bool
}

// Kind is what a line stands for.
type Kind string

// The kinds of lines.
const (
	// NVLink joins two GPUs directly.
	NVLink Kind = "nvlink"
	// Switch joins a GPU to the NVSwitch.
	Switch Kind = "switch"
	// Host joins a GPU to its NUMA node, over PCIe.
	Host Kind = "host"
)

// Line is a connection. Weight is the number of NVLinks; Chosen that both of its ends are
// in the chosen set.
type Line struct {
	A, B           int // GPUs; B is -1 where the line ends at a bar
	X1, Y1, X2, Y2 int
	Kind           Kind
	Weight         int
	Chosen         bool
}

// Bar is an NVSwitch or a NUMA node.
type Bar struct {
	X, Y, Width, Height int
	// NUMA is the number of the node; -1 for an NVSwitch, or where it is not known.
	NUMA   int
	Switch bool
}

// Fabric is a picture of the GPUs of one group.
type Fabric struct {
	Width, Height int
	Dots          []Dot
	Lines         []Line
	Bars          []Bar
	// Ring is a closed way through the chosen GPUs with the best bottleneck, as points of
	// a polygon, and RingOrder their indexes; empty for less than three, or where nothing
	// is known of their links.
	Ring      []Point
	RingOrder []int
}

// Point is a place in a picture.
type Point struct{ X, Y int }

// GPUs lays out so many GPUs of one group. m is nil where nothing is known of their links,
// and otherwise has their size. chosen are indexes of GPUs.
func GPUs(count int, m *topology.Matrix, chosen []int) Fabric {
	in := make([]bool, count)
	for _, i := range chosen {
		if i >= 0 && i < count {
			in[i] = true
		}
	}
	var f Fabric
	switch {
	case m == nil || m.Size() != count:
		m, f = nil, rows(count, 0)
	case m.Switched():
		f = rows(count, pitch)
		f.joinSwitch()
	case linked(m) && count <= circleMax:
		f = circle(count)
	default:
		f = byNUMA(m)
	}
	for i := range f.Dots {
		f.Dots[i].Chosen = in[f.Dots[i].Index]
	}
	for i := range f.Lines {
		f.Lines[i].Chosen = in[f.Lines[i].A]
	}
	if m == nil {
		return f
	}
	if !m.Switched() {
		f.joinLinks(m, in)
	}
	f.ring(m, in)
	return f
}

// linked reports whether any two GPUs have NVLinks.
func linked(m *topology.Matrix) bool {
	for i := range m.Size() {
		for j := range i {
			if m.Links(i, j) > 0 {
				return true
			}
		}
	}
	return false
}

// circle puts the first GPU at the top, and the others clockwise.
func circle(count int) Fabric {
	r := max(2*Radius+10, int(math.Ceil(float64(count)*(2*Radius+30)/(2*math.Pi))))
	centre := r + Radius + margin
	f := Fabric{Width: 2 * centre, Height: 2 * centre}
	for i := range count {
		angle := 2*math.Pi*float64(i)/float64(count) - math.Pi/2
		f.Dots = append(f.Dots, Dot{Index: i, X: centre + int(math.Round(float64(r)*math.Cos(angle))), Y: centre + int(math.Round(float64(r)*math.Sin(angle)))})
	}
	return f
}

// rows puts the GPUs into rows, below so much room.
func rows(count, above int) Fabric {
	columns := max(1, min(count, perRow))
	lines := max(1, (count+perRow-1)/perRow)
	f := Fabric{Width: columns*pitch - (pitch - 2*Radius) + 2*margin, Height: above + lines*pitch - (pitch - 2*Radius) + 2*margin}
	for i := range count {
		f.Dots = append(f.Dots, Dot{Index: i, X: margin + Radius + i%perRow*pitch, Y: above + margin + Radius + i/perRow*pitch})
	}
	return f
}

const barHeight = 26

// joinSwitch draws an NVSwitch above the GPUs, and joins each to it.
func (f *Fabric) joinSwitch() {
	f.Bars = append(f.Bars, Bar{X: margin, Y: margin, Width: f.Width - 2*margin, Height: barHeight, NUMA: -1, Switch: true})
	for _, d := range f.Dots {
		f.Lines = append(f.Lines, Line{A: d.Index, B: -1, X1: d.X, Y1: d.Y, X2: d.X, Y2: margin + barHeight, Kind: Switch, Weight: 1})
	}
}

// byNUMA puts the GPUs of each NUMA node into rows of their own, below a bar.
func byNUMA(m *topology.Matrix) Fabric {
	var order []int
	members := map[int][]int{}
	for i := range m.Size() {
		node := m.NUMA(i)
		if members[node] == nil {
			order = append(order, node)
		}
		members[node] = append(members[node], i)
	}
	f := Fabric{}
	for _, node := range order {
		f.Width = max(f.Width, min(len(members[node]), perRow)*pitch-(pitch-2*Radius)+2*margin)
	}
	y := margin
	for _, node := range order {
		f.Bars = append(f.Bars, Bar{X: margin, Y: y, Width: f.Width - 2*margin, Height: barHeight, NUMA: node})
		for at, i := range members[node] {
			d := Dot{Index: i, X: margin + Radius + at%perRow*pitch, Y: y + pitch + at/perRow*pitch}
			f.Dots = append(f.Dots, d)
			f.Lines = append(f.Lines, Line{A: i, B: -1, X1: d.X, Y1: d.Y, X2: d.X, Y2: y + barHeight, Kind: Host, Weight: 1})
		}
		rows := (len(members[node]) + perRow - 1) / perRow
		y += pitch + (rows-1)*pitch + Radius + margin
	}
	f.Height = max(y, margin+barHeight)
	return f
}

// joinLinks draws the NVLinks between pairs.
func (f *Fabric) joinLinks(m *topology.Matrix, in []bool) {
	at := f.places()
	for i := range m.Size() {
		for j := i + 1; j < m.Size(); j++ {
			if n := m.Links(i, j); n > 0 {
				f.Lines = append(f.Lines, Line{A: i, B: j, X1: at[i].X, Y1: at[i].Y, X2: at[j].X, Y2: at[j].Y, Kind: NVLink, Weight: n, Chosen: in[i] && in[j]})
			}
		}
	}
}

func (f *Fabric) places() map[int]Point {
	at := make(map[int]Point, len(f.Dots))
	for _, d := range f.Dots {
		at[d.Index] = Point{d.X, d.Y}
	}
	return at
}

// ringMax is how many GPUs a best ring is looked for through; of more, each machine that
// is sold joins any two alike.
const ringMax = 8

// ring finds a closed way through the chosen GPUs.
func (f *Fabric) ring(m *topology.Matrix, in []bool) {
	var set []int
	for i, chosen := range in {
		if chosen {
			set = append(set, i)
		}
	}
	if len(set) < 3 {
		return
	}
	f.RingOrder = set
	if len(set) <= ringMax && !m.Switched() {
		f.RingOrder = bestRing(m, set)
	}
	at := f.places()
	for _, i := range f.RingOrder {
		f.Ring = append(f.Ring, at[i])
	}
}

// bestRing tries every order: at most 5040.
func bestRing(m *topology.Matrix, set []int) []int {
	best, most := append([]int(nil), set...), 0
	order := append([]int(nil), set...)
	var try func(k, narrowest int)
	try = func(k, narrowest int) {
		if narrowest <= most {
			return
		}
		if k == len(order) {
			if last := min(narrowest, m.EffectiveMBps(order[k-1], order[0])); last > most {
				most = last
				copy(best, order)
			}
			return
		}
		for i := k; i < len(order); i++ {
			order[k], order[i] = order[i], order[k]
			try(k+1, min(narrowest, m.EffectiveMBps(order[k-1], order[k])))
			order[k], order[i] = order[i], order[k]
		}
	}
	try(1, math.MaxInt)
	return best
}

// Bottleneck is the bandwidth of the narrowest hop of a ring, in effective MB/s per
// direction; 0 for less than two GPUs.
func Bottleneck(m *topology.Matrix, ring []int) int {
	if len(ring) < 2 {
		return 0
	}
	least := math.MaxInt
	for i := range ring {
		least = min(least, m.EffectiveMBps(ring[i], ring[(i+1)%len(ring)]))
	}
	return least
}
