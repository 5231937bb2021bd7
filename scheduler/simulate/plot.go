package simulate

import (
	"bytes"
	"fmt"
	"strings"

	"github.com/nomad-governor/governor/internal/quantity"
)

// The picture, in pixels.
const (
	plotWidth  = 960
	plotLeft   = 76
	plotRight  = 24
	busyTop    = 64
	waitTop    = 300
	panelSize  = 180
	plotHeight = waitTop + panelSize + 32
)

// colours are told apart by everybody (Okabe and Ito).
var colours = [...]string{"#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9"}

// PlotsMax is how many results fit into one picture.
const PlotsMax = len(colours)

// Plot draws utilisation and waiting jobs over time as SVG, the results on top of each
// other; only the first PlotsMax are drawn.
func Plot(results []Result) []byte {
	results = results[:min(len(results), PlotsMax)]
	longest, most := int64(1), int64(1000)
	for i := range results {
		longest = max(longest, results[i].MakespanMS)
		for _, s := range results[i].Series {
			most = max(most, s.Waiting)
		}
	}
	var b bytes.Buffer
	fmt.Fprintf(&b, `<svg xmlns="http://www.w3.org/2000/svg" width="%d" height="%d" viewBox="0 0 %d %d" font-family="sans-serif" font-size="12" fill="#222">`+"\n", plotWidth, plotHeight, plotWidth, plotHeight)
	fmt.Fprintf(&b, `<rect width="%d" height="%d" fill="#fff"/>`+"\n", plotWidth, plotHeight)
	legend(&b, results)
	busyStep, waitStep, timeStep := int64(250_000), tidy(most, 5), timeTick(longest)
	panel(&b, busyTop, "GPUs in use", Million, busyStep, longest, timeStep, func(v int64) string { return fmt.Sprintf("%d %%", v/10_000) })
	top := (most + waitStep - 1) / waitStep * waitStep
	panel(&b, waitTop, "jobs that wait", top, waitStep, longest, timeStep, func(v int64) string { return quantity.FormatDecimal(quantity.Amount(v), 1000, 0) })
	for i := range results {
		curve(&b, busyTop, results[i], Million, longest, colours[i], func(s Step) int64 { return s.Busy })
		curve(&b, waitTop, results[i], top, longest, colours[i], func(s Step) int64 { return s.Waiting })
	}
	b.WriteString("</svg>\n")
	return b.Bytes()
}

func legend(b *bytes.Buffer, results []Result) {
	const rowsAt, column = 20, (plotWidth - plotLeft - plotRight) / 3
	for i := range results {
		x, y := plotLeft+i%3*column, rowsAt+i/3*18
		fmt.Fprintf(b, `<rect x="%d" y="%d" width="12" height="12" fill="%s"/><text x="%d" y="%d">%s</text>`+"\n", x, y-10, colours[i], x+18, y, escape(shortened(results[i].Name)))
	}
}

// panel draws the frame, the grid and the axes of one diagram.
func panel(b *bytes.Buffer, top int, title string, most, step, longest, timeStep int64, label func(int64) string) {
	right := plotWidth - plotRight
	fmt.Fprintf(b, `<text x="%d" y="%d" font-weight="bold">%s</text>`+"\n", plotLeft, top-8, title)
	for v := int64(0); v <= most; v += step {
		y := top + panelSize - scale(v, most, panelSize)
		fmt.Fprintf(b, `<line x1="%d" y1="%d" x2="%d" y2="%d" stroke="#ddd"/><text x="%d" y="%d" text-anchor="end">%s</text>`+"\n", plotLeft, y, right, y, plotLeft-6, y+4, label(v))
	}
	for at := int64(0); at <= longest; at += timeStep {
		x := plotLeft + scale(at, longest, right-plotLeft)
		fmt.Fprintf(b, `<line x1="%d" y1="%d" x2="%d" y2="%d" stroke="#ddd"/><text x="%d" y="%d" text-anchor="middle">%s</text>`+"\n", x, top, x, top+panelSize, x, top+panelSize+16, elapsed(at, timeStep))
	}
}

// curve draws one result as steps.
func curve(b *bytes.Buffer, top int, r Result, most, longest int64, colour string, value func(Step) int64) {
	if len(r.Series) == 0 {
		return
	}
	wide := plotWidth - plotRight - plotLeft
	var points []string
	for i, s := range r.Series {
		until := r.MakespanMS
		if i+1 < len(r.Series) {
			until = r.Series[i+1].FromMS
		}
		y := top + panelSize - scale(value(s), most, panelSize)
		points = append(points, fmt.Sprintf("%d,%d %d,%d", plotLeft+scale(s.FromMS, longest, wide), y, plotLeft+scale(until, longest, wide), y))
	}
	fmt.Fprintf(b, `<polyline points="%s" fill="none" stroke="%s" stroke-width="1.5" stroke-opacity="0.85"/>`+"\n", strings.Join(points, " "), colour)
}

// scale is where v of most lies on a length.
func scale(v, most int64, length int) int {
	if most >= 1<<32 { // no overflow, and no pixel lost
		v, most = v>>20, most>>20
	}
	return int((v*int64(length) + most/2) / most)
}

// tidy is a step of 1, 2 or 5 times a power of ten with about n of them in most, which
// is in thousandths; at least one whole.
func tidy(most, n int64) int64 {
	step := int64(1000)
	for factors := []int64{2, 5, 10}; ; step *= 10 {
		if step*n >= most {
			return step
		}
		for _, f := range factors[:2] {
			if step*f*n >= most {
				return step * f
			}
		}
	}
}

const (
	minute = int64(60_000)
	hour   = 60 * minute
	day    = 24 * hour
)

// timeTick is the distance of the marks on the time axis.
func timeTick(longest int64) int64 {
	for _, step := range []int64{1000, 10_000, minute, 5 * minute, 15 * minute, hour, 3 * hour, 6 * hour, 12 * hour} {
		if longest/step <= 12 {
			return step
		}
	}
	for step := day; ; step *= 10 {
		for _, f := range []int64{1, 2, 5} {
			if longest/(step*f) <= 12 {
				return step * f
			}
		}
	}
}

// elapsed writes a time in the unit of the marks.
func elapsed(ms, step int64) string {
	switch {
	case step >= day:
		return decimal(ms, day) + " d"
	case step >= hour:
		return decimal(ms, hour) + " h"
	case step >= minute:
		return decimal(ms, minute) + " min"
	}
	return decimal(ms, 1000) + " s"
}

// decimal is v over unit with up to one decimal.
func decimal(v, unit int64) string {
	tenths := (v*10 + unit/2) / unit
	if tenths%10 == 0 {
		return fmt.Sprint(tenths / 10)
	}
	return fmt.Sprintf("%d.%d", tenths/10, tenths%10)
}

// shortened is a name that fits into the legend.
func shortened(name string) string {
	const most = 40
	if letters := []rune(name); len(letters) > most {
		return string(letters[:most-1]) + "…"
	}
	return name
}

func escape(text string) string {
	return strings.NewReplacer("&", "&amp;", "<", "&lt;", ">", "&gt;", `"`, "&quot;").Replace(text)
}
