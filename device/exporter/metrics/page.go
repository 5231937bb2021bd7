package metrics

import (
	"bytes"
	"strings"
)

// The types of metrics.
const (
	gauge   = "gauge"
	counter = "counter"
)

// label is a name and a value. A label without a value is left out: to
// Prometheus both are the same.
type label struct{ name, value string }

// series is one line of a family.
type series struct {
	labels []label
	value  string
}

// page is a page in Prometheus' text format.
type page struct{ text bytes.Buffer }

// family writes all series of one metric; nothing when there are none.
func (p *page) family(name, kind, help string, lines []series) {
	if len(lines) == 0 {
		return
	}
	p.write("# HELP ", name, " ", help, "\n# TYPE ", name, " ", kind, "\n")
	for _, line := range lines {
		p.write(name)
		mark := "{"
		for _, l := range line.labels {
			if l.value == "" {
				continue
			}
			p.write(mark, l.name, `="`, escape(l.value), `"`)
			mark = ","
		}
		if mark == "," {
			p.write("}")
		}
		p.write(" ", line.value, "\n")
	}
}

func (p *page) write(parts ...string) {
	for _, part := range parts {
		p.text.WriteString(part)
	}
}

// escapes are those of the text format.
var escapes = strings.NewReplacer(`\`, `\\`, `"`, `\"`, "\n", `\n`)

// escape makes a text fit between quotes, on one line.
func escape(value string) string {
	if len(value) > textSizeMax {
		value = value[:textSizeMax]
	}
	value = strings.ToValidUTF8(value, "?")
	return escapes.Replace(value)
}

// code keeps a code that is one, and says "other" for anything else, so that
// no sentence becomes a label.
func code(text string) string {
	if text == "" || len(text) > codeSizeMax || strings.Trim(text, "abcdefghijklmnopqrstuvwxyz0123456789_") != "" {
		return "other"
	}
	return text
}
