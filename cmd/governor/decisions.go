package main

import (
	"fmt"
	"io"
	"net/url"
	"strconv"
	"time"

	"github.com/nomad-governor/governor/quotaagent/history"
)

func decisionListCommand(env environment) command {
	return command{synopsis: "List what was decided about submissions", help: `Usage: governor decision list [options]

  Lists the decisions that one agent made about submissions and plans, the
  latest first. Each agent keeps its own, the last 100,000.

      $ governor decision list
      $ governor decision list -namespace=research -job=train
      $ governor decision list -t='{{range .}}{{.job_id}} {{.reason}}{{"\n"}}{{end}}'

  -job=<id>        Only about this job.
  -namespace=<n>   Namespace of the job. Default: NOMAD_NAMESPACE, else default.
  -limit=<n>       How many at most. Default: 100.
  -json            Print the agent's answer as JSON.` + clientHelp,
		run: func(args []string) int {
			fs := flags("decision list")
			c := clientFlags(env, fs)
			namespace := namespaceFlag(env, fs)
			job, limit, asJSON := fs.String("job", "", ""), fs.Int("limit", 100, ""), fs.Bool("json", false, "")
			if !parse(env, fs, args, 0, 0) {
				return 1
			}
			query := url.Values{"limit": {strconv.Itoa(*limit)}}
			if *job != "" {
				query.Set("job", *job)
				query.Set("namespace", *namespace)
			}
			var decisions []history.Decision
			raw, err := fetch(c, "/governor/v1/decisions?"+query.Encode(), &decisions)
			switch {
			case err != nil:
				return env.fail(err)
			case *asJSON:
				_, _ = env.stdout.Write(append(raw, '\n'))
			default:
				printDecisionList(env.stdout, decisions)
			}
			return 0
		}}
}

func printDecisionList(w io.Writer, decisions []history.Decision) {
	if len(decisions) == 0 {
		fmt.Fprintln(w, "No decision is kept about that.")
		return
	}
	t := newTable("AT", "JOB", ">GPUS", "OUTCOME", "REASON", "BUDGET", "SUBMITTED BY", "")
	for _, d := range decisions {
		note := ""
		switch {
		case d.Plan:
			note = "planned only"
		case d.Shadow:
			note = "not enforced"
		}
		t.row(time.UnixMilli(d.AtMS).UTC().Format("2006-01-02 15:04:05"), d.Namespace+"/"+d.JobID, fmt.Sprint(d.GPUs), d.Outcome, d.Reason, orDash(d.Budget), orDash(d.Submitter), note)
	}
	t.write(w)
}
