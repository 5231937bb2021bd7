package admission_test

import (
	"os"
	"strings"
	"testing"

	"github.com/nomad-governor/governor/quotaagent/admission"
	"github.com/shoenig/test/must"
)

// TestReasonsAreDocumented compares docs/reasons.md with the codes: each once, in
// order of precedence, with every column filled and as Explain has it.
func TestReasonsAreDocumented(t *testing.T) {
	t.Parallel()
	text, err := os.ReadFile("../../docs/reasons.md")
	must.NoError(t, err)
	var documented []admission.Reason
	for line := range strings.Lines(string(text)) {
		if !strings.HasPrefix(line, "| `") {
			continue
		}
		cells := strings.Split(strings.Trim(strings.TrimSpace(line), "|"), "|")
		must.Len(t, 5, cells, must.Sprint(line))
		for _, cell := range cells {
			must.NotEq(t, "", strings.TrimSpace(cell), must.Sprint(line))
		}
		reason := admission.Reason(strings.Trim(strings.TrimSpace(cells[0]), "`"))
		status := map[admission.Reason]string{admission.LedgerUnavailable: "503", admission.Fits: "as Nomad answers",
			admission.FitsWithWarning: "as Nomad answers", admission.SoftLimit: "as Nomad answers", admission.Ungoverned: "as Nomad answers"}[reason]
		if status == "" {
			status = "403"
		}
		must.Eq(t, status, strings.TrimSpace(cells[1]), must.Sprint(line))
		plain := func(cell string) string { return strings.ReplaceAll(strings.TrimSpace(cell), "`", "") }
		must.Eq(t, admission.Explanation{Meaning: plain(cells[2]), Author: plain(cells[3]), Operator: plain(cells[4])}, reason.Explain(), must.Sprint(line))
		documented = append(documented, reason)
	}
	must.Eq(t, admission.Reasons(), documented)
	must.Eq(t, admission.Explanation{}, admission.Reason("no such reason").Explain())
}

func TestPrecedenceIsTheOrderOfReasons(t *testing.T) {
	t.Parallel()
	for i, r := range admission.Reasons() {
		must.Eq(t, i, r.Precedence())
	}
	must.Eq(t, len(admission.Reasons()), admission.Reason("no such reason").Precedence())
}

func TestOutcomesAreOrderedFromWorstToBest(t *testing.T) {
	t.Parallel()
	must.True(t, admission.Deny < admission.Queue && admission.Queue < admission.Warn && admission.Warn < admission.Admit)
	must.Eq(t, "deny queue warn admit outcome(9)", strings.Join([]string{admission.Deny.String(), admission.Queue.String(), admission.Warn.String(),
		admission.Admit.String(), admission.Outcome(9).String()}, " "))
}
