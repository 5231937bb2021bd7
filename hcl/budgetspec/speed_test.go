package budgetspec_test

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/nomad-governor/governor/hcl/budgetspec"
	"github.com/shoenig/test/must"
)

// A file is read within an edit's second, however it is filled. The bound here
// is loose, for slow and busy machines; what it catches is quadratic work.
func TestTheWorstFilesAreReadQuickly(t *testing.T) {
	t.Parallel()
	for name, part := range map[string]string{
		"distinct budgets":   "budget \"b%[1]d\" {\n match { namespaces = [\"*a%[1]d*\", \"*\"] }\n}\n",
		"many budgets":       "budget \"b%d\" {\n}\n",
		"equal budgets":      "budget \"b\" {\n # %d\n}\n",
		"classes":            "gpu_class \"c%[1]d\" {\n devices = [\"a/b/%[1]d\"]\n}\n",
		"undeclared classes": "gpu_class \"c%[1]d\" {\n devices = [\"a/b/%[1]d\"]\n}\nbudget \"b%[1]d\" {\n concurrent { gpus = { d%[1]d = 4 } }\n}\n",
		"rate cards":         "rate_card \"r%d\" {\n effective_from = \"2026-01-01T00:00:00Z\"\n gpu \"c\" { per_hour = 1 }\n}\n",
		"unknown attributes": "x%d = 1\n",
		"limits":             "budget \"b%[1]d\" {\n limit \"day\" { gpu_hours = 1e300 }\n}\n",
	} {
		t.Run(name, func(t *testing.T) {
			var text strings.Builder
			for i := 0; text.Len() < 500<<10; i++ {
				fmt.Fprintf(&text, part, i)
			}
			start := time.Now()
			_, diags := budgetspec.Parse(single(text.String()))
			must.SliceNotEmpty(t, diags)
			must.Less(t, time.Minute, time.Since(start))
			t.Log(time.Since(start))
		})
	}
}
