package story

import (
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/nomad-governor/governor/e2e/cluster"
)

// Printer writes the story for people: colours only on a terminal.
type Printer struct {
	out    io.Writer
	colour bool
	step   int
	checks int
	failed int
}

// NewPrinter writes to out; colours appear when out is a terminal and the user
// has not set NO_COLOR (https://no-color.org).
func NewPrinter(out io.Writer) *Printer {
	p := &Printer{out: out}
	if file, ok := out.(*os.File); ok && os.Getenv("NO_COLOR") == "" {
		info, err := file.Stat()
		p.colour = err == nil && info.Mode()&os.ModeCharDevice != 0
	}
	return p
}

// The colours of a terminal (ECMA-48 SGR parameters).
const (
	bold  = "1"
	faint = "2"
	red   = "31"
	green = "32"
)

func (p *Printer) paint(code, text string) string {
	if !p.colour {
		return text
	}
	return "\x1b[" + code + "m" + text + "\x1b[0m"
}

// Note writes a line about what goes on.
func (p *Printer) Note(format string, args ...any) {
	fmt.Fprintf(p.out, "  %s\n", p.paint(faint, fmt.Sprintf(format, args...)))
}

// Title begins a step.
func (p *Printer) Title(title string) {
	p.step++
	fmt.Fprintf(p.out, "\n%s\n", p.paint(bold, fmt.Sprintf("%d. %s", p.step, title)))
}

// maxCommandLines bounds how much of a command's output is shown.
const maxCommandLines = 24

// Command shows a command and what it printed.
func (p *Printer) Command(r cluster.Result) {
	fmt.Fprintf(p.out, "  %s\n", p.paint(bold, "$ "+r.Command))
	lines := strings.Split(strings.TrimRight(r.Output(), "\n"), "\n")
	for i, line := range lines {
		if i == maxCommandLines {
			fmt.Fprintf(p.out, "  | ... %d more lines\n", len(lines)-i)
			break
		}
		if line != "" {
			fmt.Fprintf(p.out, "  | %s\n", line)
		}
	}
}

// Check writes one comparison. Only a difference shows both sides at length.
func (p *Printer) Check(ok bool, what, expected, seen string) {
	p.checks++
	if ok {
		line := fmt.Sprintf("%s: expected %s", what, expected)
		if seen != expected {
			line += ", seen " + seen
		}
		fmt.Fprintf(p.out, "  %s %s\n", p.paint(green, "ok  "), line)
		return
	}
	p.failed++
	fmt.Fprintf(p.out, "  %s %s\n         expected: %s\n         seen:     %s\n", p.paint(red, "DIFF"), what, expected,
		strings.ReplaceAll(seen, "\n", "\n                   "))
}

// Summary writes the totals and reports whether all was as expected.
func (p *Printer) Summary() bool {
	text := fmt.Sprintf("%d steps, %d checks, %d differences", p.step, p.checks, p.failed)
	code := green
	if p.failed > 0 {
		code = red
	}
	fmt.Fprintf(p.out, "\n%s\n", p.paint(code, text))
	return p.failed == 0
}
