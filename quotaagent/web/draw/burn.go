package draw

import (
	"math/bits"
	"strconv"
	"strings"
	"time"

	"github.com/nomad-governor/governor/internal/quantity"
)

// Left is what was left of a limit at some time.
type Left struct {
	At     time.Time
	Amount quantity.Amount
}

// Burn is how a limit burns down in its period. Amounts are of one unit.
type Burn struct {
	Start, End, Now time.Time
	Limit           quantity.Amount
	// Left in order of time, the last at Now.
	Left []Left
	// AtEnd is what is left at the end at the rate of the last days; nil where that is not
	// known.
	AtEnd *quantity.Amount
}

// Curve is a picture of it.
type Curve struct {
	Width, Height int
	// Line is what was left, as the points of a polyline, and Area the points of a polygon
	// from there down to the axis.
	Line, Area string
	// Ahead is the way from now to AtEnd; "" where that is not known.
	Ahead string
	// ZeroY is where nothing is left, NowX where now is.
	ZeroY, NowX int
	// EvenX1 and so on are the line of even use, from the whole limit to nothing.
	EvenX1, EvenY1, EvenX2, EvenY2 int
}

// BurnDown draws a burn-down that fills a box. false where there is nothing to draw: a
// period without length, or no limit.
func BurnDown(b Burn, width, height int) (Curve, bool) {
	if !b.Start.Before(b.End) || b.Limit <= 0 || width < 2 || height < 2 {
		return Curve{}, false
	}
	low := quantity.Amount(0)
	for _, l := range b.Left {
		low = min(low, l.Amount)
	}
	if b.AtEnd != nil {
		low = min(low, *b.AtEnd)
	}
	// What is far below nothing would squeeze the rest to a line.
	low = max(low, -b.Limit)
	high := b.Limit
	x := func(at time.Time) int { return within(int64(at.Sub(b.Start)), int64(b.End.Sub(b.Start)), width) }
	y := func(a quantity.Amount) int { return height - Share(a.Sub(low), high.Sub(low), height) }
	c := Curve{Width: width, Height: height, ZeroY: y(0), NowX: x(b.Now), EvenX1: 0, EvenY1: y(b.Limit), EvenX2: width, EvenY2: y(0)}
	var line []string
	last := Point{0, y(b.Limit)}
	line = append(line, last.String())
	for _, l := range b.Left {
		if p := (Point{x(l.At), y(l.Amount)}); p != last {
			line = append(line, p.String())
			last = p
		}
	}
	c.Line = strings.Join(line, " ")
	c.Area = c.Line + " " + Point{last.X, c.ZeroY}.String() + " " + Point{0, c.ZeroY}.String()
	if b.AtEnd != nil && b.Now.Before(b.End) {
		c.Ahead = last.String() + " " + Point{width, y(*b.AtEnd)}.String()
	}
	return c, true
}

// String is the point as SVG writes it.
func (p Point) String() string { return strconv.Itoa(p.X) + "," + strconv.Itoa(p.Y) }

// Share is the part of a width that an amount is of a whole, from 0 to the width, and at
// least 1 for what is not nothing.
func Share(part, whole quantity.Amount, width int) int {
	n := within(int64(part), int64(whole), width)
	if n == 0 && part > 0 && whole > 0 && width > 0 {
		return 1
	}
	return n
}

// within is width x part / whole, rounded down, from 0 to width.
func within(part, whole int64, width int) int {
	switch {
	case width <= 0 || part <= 0 || whole <= 0:
		return 0
	case part >= whole:
		return width
	}
	high, low := bits.Mul64(uint64(part), uint64(width))
	n, _ := bits.Div64(high, low, uint64(whole)) // part is less than whole, so this fits
	return int(n)
}
