package metrics

import (
	"bytes"
	"compress/gzip"
	"io"
	"net/http"
	"strconv"
	"strings"

	"github.com/prometheus/common/expfmt"
)

// family is one gauge with all its series, as lines.
type family struct {
	name, help string
	labels     []string
	lines      []byte
}

// escapes are those of label values.
var escapes = strings.NewReplacer("\\", `\\`, "\n", `\n`, `"`, `\"`)

// add appends a series; the label values are in the order of the labels.
func (f *family) add(v float64, values ...string) {
	f.lines = append(f.lines, f.name...)
	for i, value := range values {
		if i == 0 {
			f.lines = append(f.lines, '{')
		} else {
			f.lines = append(f.lines, ',')
		}
		f.lines = append(append(f.lines, f.labels[i]...), '=', '"')
		if strings.ContainsAny(value, "\\\n\"") {
			value = escapes.Replace(value)
		}
		f.lines = append(append(f.lines, strings.ToValidUTF8(value, "\uFFFD")...), '"')
	}
	if len(values) > 0 {
		f.lines = append(f.lines, '}')
	}
	f.lines = strconv.AppendFloat(append(f.lines, ' '), v, 'g', -1, 64)
	f.lines = append(f.lines, '\n')
}

// unitOf is the base unit that a metric's name ends in; "" for one without.
func unitOf(name string) string {
	for _, unit := range []string{"seconds", "joules", "bytes"} {
		if strings.HasSuffix(strings.TrimSuffix(name, "_total"), "_"+unit) {
			return unit
		}
	}
	return ""
}

// write writes the family, if it has series. The unit is part of OpenMetrics alone.
func (f *family) write(w *bytes.Buffer, open bool) {
	if len(f.lines) == 0 {
		return
	}
	w.WriteString("# HELP " + f.name + " " + f.help + "\n# TYPE " + f.name + " gauge\n")
	if unit := unitOf(f.name); open && unit != "" {
		w.WriteString("# UNIT " + f.name + " " + unit + "\n")
	}
	w.Write(f.lines)
}

// page is the answer to a scrape. What is in the ledger comes first: OpenMetrics says at
// the end that there is no more.
func (m *Metrics) page(format expfmt.Format) ([]byte, error) {
	var out bytes.Buffer
	var board Board
	m.board.do(func(shown *Board) { board = *shown })
	if !board.At.IsZero() {
		for _, f := range boardFamilies(board, m.now()) {
			f.write(&out, format.FormatType() == expfmt.TypeOpenMetrics)
		}
	}
	gathered, err := m.registry.Gather()
	if err != nil {
		return nil, err
	}
	encoder := expfmt.NewEncoder(&out, format, expfmt.WithUnit())
	for _, f := range gathered {
		if unit := unitOf(f.GetName()); unit != "" {
			f.Unit = &unit
		}
		if err := encoder.Encode(f); err != nil {
			return nil, err
		}
	}
	if end, ok := encoder.(expfmt.Closer); ok {
		err = end.Close()
	}
	return out.Bytes(), err
}

// formatFor is the text format, or OpenMetrics where that is asked for.
func formatFor(r *http.Request) expfmt.Format {
	format := expfmt.NegotiateIncludingOpenMetrics(r.Header)
	switch format.FormatType() {
	case expfmt.TypeOpenMetrics, expfmt.TypeTextPlain:
		return format
	case expfmt.TypeUnknown, expfmt.TypeProtoCompact, expfmt.TypeProtoDelim, expfmt.TypeProtoText:
	}
	return expfmt.NewFormat(expfmt.TypeTextPlain)
}

// Handler serves the metrics, as text or in the OpenMetrics format, as the scraper
// asks for. It answers so many at once and refuses more.
func (m *Metrics) Handler() http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		select {
		case m.places <- struct{}{}:
			defer func() { <-m.places }()
		default:
			w.Header().Set("Retry-After", "1")
			http.Error(w, "too many scrapes at once", http.StatusServiceUnavailable)
			return
		}
		format := formatFor(r)
		page, err := m.page(format)
		if err != nil {
			http.Error(w, "the metrics cannot be shown because of a bug: "+err.Error(), http.StatusInternalServerError)
			return
		}
		w.Header().Set("Content-Type", string(format))
		w.Header().Set("Vary", "Accept, Accept-Encoding")
		if !strings.Contains(r.Header.Get("Accept-Encoding"), "gzip") {
			_, _ = w.Write(page)
			return
		}
		w.Header().Set("Content-Encoding", "gzip")
		_ = pack(w, page)
	})
}

func pack(w io.Writer, page []byte) error {
	packer, err := gzip.NewWriterLevel(w, gzip.BestSpeed)
	if err != nil {
		return err
	}
	if _, err := packer.Write(page); err != nil {
		return err
	}
	return packer.Close()
}
