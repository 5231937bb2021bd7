package report

import (
	"encoding/csv"
	"fmt"
	"io"
	"strconv"
	"strings"
	"time"

	"github.com/nomad-governor/governor/internal/quantity"
)

// WriteCSV writes a statement for spreadsheets: a head, its lines, and then the
// capacity that no budget used as lines of their own. GPU time is in
// milliseconds, which add up exactly, and in hours, which are rounded.
func (s Statement) WriteCSV(w io.Writer) error {
	out := csv.NewWriter(w)
	head := []string{"from", "to", "kind"}
	for _, c := range s.By {
		head = append(head, string(c))
	}
	head = append(head, "gpu_ms", "gpu_hours", "cost", "currency", "energy_j", "input_tokens", "cached_tokens", "output_tokens",
		"corrected_cost", "overdraft_gpu_ms", "overdraft_cost", "estimated_gpu_ms", "estimated_cost", "idle_gpu_ms", "idle_cost")
	records := [][]string{head}
	for _, l := range s.Lines {
		records = append(records, s.record("usage", l))
	}
	for _, extra := range []struct {
		kind string
		of   Amounts
	}{{"unallocated", s.Unallocated}, {"ungoverned", s.Ungoverned}} {
		if extra.of != (Amounts{}) {
			records = append(records, s.record(extra.kind, Line{Key: make([]string, len(s.By)), Amounts: extra.of}))
		}
	}
	if err := out.WriteAll(records); err != nil {
		return fmt.Errorf("write the statement: %w", err)
	}
	return nil
}

func (s Statement) record(kind string, l Line) []string {
	r := []string{s.From.Format(time.RFC3339), s.To.Format(time.RFC3339), kind}
	for _, value := range l.Key {
		r = append(r, Plain(value))
	}
	return append(r, whole(l.GPUTime), strings.ReplaceAll(quantity.FormatHours(l.GPUTime), ",", ""), Money(l.Cost), s.Currency, whole(l.Energy),
		whole(l.InputTokens), whole(l.CachedTokens), whole(l.OutputTokens), Money(l.Corrected.Cost), whole(l.Overdraft.GPUTime), Money(l.Overdraft.Cost),
		whole(l.Estimated.GPUTime), Money(l.Estimated.Cost), whole(l.Idle.GPUTime), Money(l.Idle.Cost))
}

func whole(a quantity.Amount) string { return strconv.FormatInt(int64(a), 10) }

// Money is an amount of micro-units with all its six places: exact, and without
// separators, for machines.
func Money(a quantity.Amount) string {
	digits := strings.TrimPrefix(whole(a), "-")
	if len(digits) < 7 {
		digits = strings.Repeat("0", 7-len(digits)) + digits
	}
	text := digits[:len(digits)-6] + "." + digits[len(digits)-6:]
	if a < 0 {
		return "-" + text
	}
	return text
}

// Plain keeps a spreadsheet from taking a text for a formula: the names of jobs are
// their authors'.
func Plain(text string) string {
	if text != "" && strings.ContainsRune("=+-@\t\r", rune(text[0])) {
		return "'" + text
	}
	return text
}
