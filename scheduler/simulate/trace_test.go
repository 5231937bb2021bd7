package simulate_test

import (
	"testing"

	"github.com/shoenig/test/must"

	"github.com/nomad-governor/governor/scheduler/simulate"
)

func TestTraces(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		text string
		want simulate.Trace
	}{
		"ours, by time and line": {
			text: "Submit_Time, duration ,gpus,count,class,cpu,memory,budget,note\n2026-03-01T00:00:10Z,1h30m,8,2,dgx-h100,500,64,acme/research,x\n2026-03-01 00:00:00,90.5,1,,,,,,\n2026-03-01T00:00:00,0,2,,,,,,",
			want: simulate.Trace{Jobs: []simulate.Job{
				{Line: 3, SubmitMS: 1_772_323_200_000, DurationMS: 90_500, GPUs: 1},
				{Line: 4, SubmitMS: 1_772_323_200_000, GPUs: 2},
				{Line: 2, SubmitMS: 1_772_323_210_000, DurationMS: 5_400_000, GPUs: 8, Count: 2, Class: "dgx-h100", CPU: 500, MemoryMiB: 64, Budget: "acme/research"},
			}, Ignored: []string{"note"}},
		},
		"Philly": {
			text: "timestamp,duration,num_gpus,gpu_time,cluster\n2017-10-09 07:01:55,66.0,1,66.0,11cb48",
			want: simulate.Trace{Jobs: []simulate.Job{{Line: 2, SubmitMS: 1_507_532_515_000, DurationMS: 66_000, GPUs: 1, Budget: "11cb48"}}, Ignored: []string{"gpu_time"}},
		},
		"openb": {
			text: "name,cpu_milli,num_gpu,gpu_milli,creation_time,deletion_time\na,6000,1,460,0,10\nb,6000,1,1000,3,10\nc,6000,0,0,3,10\nd,1,2,1000,4,4",
			want: simulate.Trace{Jobs: []simulate.Job{{Line: 3, SubmitMS: 3000, DurationMS: 7000, GPUs: 1}, {Line: 5, SubmitMS: 4000, GPUs: 2}},
				NoGPUs: 1, Shares: 1, Ignored: []string{"name", "cpu_milli"}},
		},
		"with a byte order mark, and numbers that are not written whole": {
			text: "\ufeffsubmit_time,duration,gpus\n1e3,1e1,2.0",
			want: simulate.Trace{Jobs: []simulate.Job{{Line: 2, SubmitMS: 1_000_000, DurationMS: 10_000, GPUs: 2}}},
		},
	} {
		got, err := simulate.ParseTrace("jobs.csv", []byte(c.text))
		must.NoError(t, err, must.Sprint(name))
		must.Eq(t, c.want, got, must.Sprint(name))
	}
}

func TestWrongTraces(t *testing.T) {
	t.Parallel()
	const head = "submit_time,duration,gpus,count\n"
	for text, want := range map[string]string{
		"":                                        "jobs.csv holds no trace: its first line must name the columns (submit_time, duration, gpus)",
		"submit_time,gpus\n":                      "jobs.csv:1: there is no column duration; the columns are submit_time, gpus",
		"gpus,num_gpu\n":                          "jobs.csv:1: two columns are the gpus",
		head + "1,2,3\n":                          "jobs.csv: record on line 2: wrong number of fields",
		head + "1,2,1,\n1,2,x,\n":                 `jobs.csv:3: gpus is "x": it must be a whole number that is not negative`,
		head + "1,2,-1,\n":                        `jobs.csv:2: gpus is "-1": it must be a whole number`,
		head + "1,2,1.5,\n":                       `jobs.csv:2: gpus is "1.5": it must be a whole number`,
		head + "1,2,NaN,\n":                       `jobs.csv:2: gpus is "NaN": it must be a whole number`,
		head + "1,2,2000000,\n":                   "jobs.csv:2: gpus is 2000000: a job has at most 1000000",
		head + "1,2,3,2\n":                        "jobs.csv:2: 3 GPUs cannot belong to 2 allocations in equal parts",
		head + "soon,2,3,\n":                      `jobs.csv:2: submit_time is "soon": it must be seconds, or a time such as 2026-03-01T12:00:00Z`,
		head + "-1,2,3,\n":                        `jobs.csv:2: submit_time is "-1"`,
		head + "1,-2,3,\n":                        `jobs.csv:2: duration is "-2": it must be seconds, or a duration such as 1h30m`,
		head + "1,-2s,3,\n":                       `jobs.csv:2: duration is "-2s"`,
		head + "1,,3,\n":                          `jobs.csv:2: duration is ""`,
		head + "1,1e9,3,\n":                       `jobs.csv:2: duration is "1e9": it must be seconds, or a duration such as 1h30m, not negative and at most ten years`,
		head + "1,nan,3,\n":                       `jobs.csv:2: duration is "nan"`,
		"submit_time,deletion_time,gpus\n5,4,1\n": `jobs.csv:2: deletion_time is "4": it must be a time after submit_time`,
	} {
		_, err := simulate.ParseTrace("jobs.csv", []byte(text))
		must.ErrorContains(t, err, want, must.Sprint(text))
	}
}
