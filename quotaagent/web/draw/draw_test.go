package draw_test

import (
	"strings"
	"testing"
	"time"

	"github.com/shoenig/test/must"
	"pgregory.net/rapid"

	"github.com/nomad-governor/governor/internal/gpu/topology"
	"github.com/nomad-governor/governor/internal/quantity"
	"github.com/nomad-governor/governor/quotaagent/web/draw"
)

// anyMatrix is a machine with any links: none, some, or a switch.
func anyMatrix(t *rapid.T, most int) *topology.Matrix {
	n := rapid.IntRange(1, most).Draw(t, "gpus")
	m := topology.New(n, 25_781, 31_500)
	m.SetSwitched(rapid.Bool().Draw(t, "switched"))
	for i := range n {
		m.SetNUMA(i, rapid.IntRange(-1, 3).Draw(t, "numa"))
		for j := i + 1; j < n; j++ {
			m.Set(i, j, rapid.IntRange(0, 4).Draw(t, "links"), topology.PathNode)
		}
	}
	return m
}

func TestEveryGPUHasAPlaceOfItsOwn(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		m := anyMatrix(t, 24)
		n := m.Size()
		if rapid.Bool().Draw(t, "unknown") {
			m = nil
		}
		chosen := rapid.SliceOfDistinct(rapid.IntRange(0, n-1), rapid.ID[int]).Draw(t, "chosen")
		f := draw.GPUs(n, m, chosen)
		must.Len(t, n, f.Dots)
		seen, count := map[int]bool{}, 0
		for i, d := range f.Dots {
			must.False(t, seen[d.Index])
			seen[d.Index] = true
			if d.Chosen {
				count++
			}
			must.True(t, d.X >= draw.Radius && d.X <= f.Width-draw.Radius && d.Y >= draw.Radius && d.Y <= f.Height-draw.Radius, must.Sprintf("%+v is outside of %d x %d", d, f.Width, f.Height))
			for _, other := range f.Dots[:i] {
				dx, dy := d.X-other.X, d.Y-other.Y
				must.Greater(t, 4*draw.Radius*draw.Radius, dx*dx+dy*dy, must.Sprintf("%+v covers %+v", d, other))
			}
		}
		must.EqOp(t, len(chosen), count)
		must.Eq(t, f, draw.GPUs(n, m, chosen))
	})
}

func TestEveryNVLinkIsDrawnOnce(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		m := anyMatrix(t, 16)
		f := draw.GPUs(m.Size(), m, nil)
		drawn := map[[2]int]int{}
		for _, l := range f.Lines {
			if l.Kind == draw.NVLink {
				drawn[[2]int{l.A, l.B}] += l.Weight
			}
		}
		for i := range m.Size() {
			for j := i + 1; j < m.Size(); j++ {
				want := m.Links(i, j)
				if m.Switched() {
					want = 0 // all of them go to the switch
				}
				must.EqOp(t, want, drawn[[2]int{i, j}])
			}
		}
	})
}

// The ring is compared with every other order, tried in the plainest way.
func TestNoRingIsBetterThanTheOneThatIsDrawn(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		m := anyMatrix(t, 6)
		m.SetSwitched(false)
		all := make([]int, m.Size())
		for i := range all {
			all[i] = i
		}
		f := draw.GPUs(m.Size(), m, all)
		if m.Size() < 3 {
			must.SliceEmpty(t, f.Ring)
			return
		}
		must.SliceContainsAll(t, all, f.RingOrder)
		best := 0
		permute(all, func(order []int) { best = max(best, draw.Bottleneck(m, order)) })
		must.EqOp(t, best, draw.Bottleneck(m, f.RingOrder))
	})
}

func permute(items []int, do func([]int)) {
	var try func(k int)
	try = func(k int) {
		if k == len(items) {
			do(items)
			return
		}
		for i := k; i < len(items); i++ {
			items[k], items[i] = items[i], items[k]
			try(k + 1)
			items[k], items[i] = items[i], items[k]
		}
	}
	try(0)
}

func TestARingOfACubeMesh(t *testing.T) {
	t.Parallel()
	m := topology.New(4, 25_781, 31_500)
	for _, pair := range [][2]int{{0, 2}, {2, 1}, {1, 3}, {3, 0}} {
		m.Set(pair[0], pair[1], 2, topology.PathNode)
	}
	f := draw.GPUs(4, m, []int{0, 1, 2, 3})
	must.Eq(t, []int{0, 2, 1, 3}, f.RingOrder)
	must.EqOp(t, 40_000, draw.Bottleneck(m, f.RingOrder))
}

func TestAShareIsWithinItsWidth(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		part := quantity.Amount(rapid.Int64().Draw(t, "part"))
		whole := quantity.Amount(rapid.Int64().Draw(t, "whole"))
		width := rapid.IntRange(0, 1000).Draw(t, "width")
		n := draw.Share(part, whole, width)
		must.Between(t, 0, n, width)
		if part > 0 && whole > 0 && width > 0 {
			must.Positive(t, n, must.Sprint("what is there is seen"))
		}
		if part >= whole && whole > 0 && part > 0 {
			must.EqOp(t, width, n)
		}
	})
	must.EqOp(t, 25, draw.Share(1, 4, 100))
	must.EqOp(t, 0, draw.Share(0, 4, 100))
}

func TestBurnDown(t *testing.T) {
	t.Parallel()
	day := func(n int) time.Time { return time.Date(2026, 3, n, 0, 0, 0, 0, time.UTC) }
	end := quantity.Amount(-20)
	c, ok := draw.BurnDown(draw.Burn{Start: day(1), End: day(11), Now: day(6), Limit: 100, AtEnd: &end,
		Left: []draw.Left{{day(2), 90}, {day(6), 40}}}, 100, 120)
	must.True(t, ok)
	must.Eq(t, draw.Curve{Width: 100, Height: 120, Line: "0,0 10,10 50,60", Area: "0,0 10,10 50,60 50,100 0,100", Ahead: "50,60 100,120",
		ZeroY: 100, NowX: 50, EvenX2: 100, EvenY2: 100}, c)

	for name, b := range map[string]draw.Burn{"no period": {Start: day(1), End: day(1), Limit: 1}, "no limit": {Start: day(1), End: day(2)}} {
		_, ok := draw.BurnDown(b, 100, 100)
		must.False(t, ok, must.Sprint(name))
	}
}

func TestABurnDownStaysInItsBox(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		start := time.Unix(1_700_000_000, 0)
		b := draw.Burn{Start: start, End: start.Add(time.Duration(rapid.Int64Range(1, 1<<50).Draw(t, "length"))), Limit: quantity.Amount(rapid.Int64Range(1, 1<<62).Draw(t, "limit"))}
		b.Now = start.Add(time.Duration(rapid.Int64Range(0, 1<<51).Draw(t, "now")))
		for range rapid.IntRange(0, 5).Draw(t, "points") {
			b.Left = append(b.Left, draw.Left{At: start.Add(time.Duration(rapid.Int64Range(-10, 1<<51).Draw(t, "at"))), Amount: quantity.Amount(rapid.Int64().Draw(t, "left"))})
		}
		c, ok := draw.BurnDown(b, 320, 90)
		must.True(t, ok)
		for _, text := range strings.Fields(c.Line + " " + c.Area + " " + c.Ahead) {
			x, y, _ := strings.Cut(text, ",")
			must.Between(t, 0, atoi(x), 320)
			must.Between(t, 0, atoi(y), 90)
		}
	})
}

func atoi(text string) int {
	n := 0
	for _, c := range text {
		if c < '0' || c > '9' {
			return -1
		}
		n = 10*n + int(c-'0')
	}
	return n
}
