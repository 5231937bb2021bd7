package report_test

import (
	"strings"
	"testing"

	"github.com/shoenig/test/must"

	"github.com/nomad-governor/governor/quotaagent/report"
)

func TestATraceHasALineForEachAllocation(t *testing.T) {
	t.Parallel()
	const hour = 3_600_000
	runs := []report.Ran{
		{Hold: "h-1", Alloc: "replacement", Namespace: "ml", Job: "train", Budget: "acme", Class: "h100", CreatedMS: hour, BeginMS: 5 * hour, EndMS: 6*hour + 500, GPUTime: 8 * (hour + 500)},
		{Hold: "h-1", Alloc: "b", Namespace: "ml", Job: "train", Budget: "acme", Class: "h100", CreatedMS: hour, BeginMS: 3 * hour, EndMS: 4 * hour, GPUTime: 8 * hour},
		{Hold: "h-1", Alloc: "a", Namespace: "ml", Job: "train", Budget: "acme", Class: "h100", CreatedMS: hour, BeginMS: 2 * hour, EndMS: 7 * hour, GPUTime: 40*hour - 3},
		{Hold: "h-2", Alloc: "c", Namespace: "ml", Job: "share", Budget: "acme/x", Class: "mig", BeginMS: hour, EndMS: 2 * hour, GPUTime: hour / 4},
		{Hold: "h-2", Alloc: "d", BeginMS: hour, EndMS: hour},
		{Hold: "h-2", Alloc: "e", BeginMS: hour, EndMS: 2 * hour},
	}
	var b strings.Builder
	must.NoError(t, report.WriteTrace(&b, runs, func(class string) string { return map[string]string{"h100": "nvidia/gpu/H100"}[class] }))
	must.Eq(t, `submit_time,duration,gpus,gpu_milli,class,budget,job
1970-01-01T01:00:00.000Z,3600,1,250,,acme/x,ml/share
1970-01-01T01:00:00.000Z,18000,8,1000,nvidia/gpu/H100,acme,ml/train
1970-01-01T01:00:00.000Z,3600,8,1000,nvidia/gpu/H100,acme,ml/train
1970-01-01T05:00:00.000Z,3600.5,8,1000,nvidia/gpu/H100,acme,ml/train
`, b.String(), must.Sprint("of the first ones the job was submitted at one; the replacement began at five"))
}
