package budgetspec_test

import (
	"fmt"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/nomad-governor/governor/hcl/budgetspec"
	"github.com/shoenig/test/must"
	"golang.org/x/sys/unix"
)

// most is the processor time for one of the files. It is loose, for slow machines;
// what it catches is quadratic work.
const most = 20 * time.Second

// A file is read within an edit's second, however it is filled. Counted is the
// processor's time for the goroutine that reads, which is kept on one thread: on a
// busy machine the time on the wall says nothing.
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
			runtime.LockOSThread()
			defer runtime.UnlockOSThread()
			begin := threadTime(t)
			_, diags := budgetspec.Parse(single(text.String()))
			took := threadTime(t) - begin
			must.SliceNotEmpty(t, diags)
			must.Less(t, most, took)
			t.Log(took)
		})
	}
}

// threadTime is the processor time that this thread has had.
func threadTime(t *testing.T) time.Duration {
	t.Helper()
	var usage unix.Rusage
	must.NoError(t, unix.Getrusage(unix.RUSAGE_THREAD, &usage))
	return time.Duration(usage.Utime.Nano() + usage.Stime.Nano())
}
