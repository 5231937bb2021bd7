package main

import (
	"encoding/json"
	"fmt"
	"net/url"
	"time"

	"github.com/nomad-governor/governor/quotaagent/agent"
)

// minuteLayout is how times of the queue are shown, in the policy's zone.
const minuteLayout = "2006-01-02 15:04 MST"

func queueListCommand(env environment) command {
	return command{synopsis: "List the jobs that wait for budget", help: `Usage: governor queue list [options]

  Lists the jobs that wait, in the order of their turn: the position in the
  queue of their budget, the worst case of what they need, since when they
  wait, when they are expected to start, and why they do not run now. The
  expected start follows from the worst case of what runs: jobs that end
  before their time make it earlier.

      $ governor queue list -budget=acme/research

  -budget=<path>  Only this budget and what is below it.
  -json           Print the agent's answer as JSON.` + clientHelp,
		run: func(args []string) int {
			fs := flags("queue list")
			c := clientFlags(env, fs)
			path, asJSON := fs.String("budget", "", ""), fs.Bool("json", false, "")
			if !parse(env, fs, args, 0, 0) {
				return 1
			}
			var view agent.QueueView
			raw, err := fetch(c, "/governor/v1/queue?budget="+url.QueryEscape(*path), &view)
			if err != nil {
				return env.fail(err)
			}
			if *asJSON {
				_, _ = env.stdout.Write(append(raw, '\n'))
				return 0
			}
			printQueue(env, view)
			return 0
		}}
}

// fetch reads an answer, and keeps its text.
func fetch(c *client, path string, into any) ([]byte, error) {
	var raw json.RawMessage
	if err := c.call("GET", path, nil, &raw); err != nil {
		return nil, err
	}
	if err := json.Unmarshal(raw, into); err != nil {
		return nil, fmt.Errorf("read the agent's answer: %w", err)
	}
	return raw, nil
}

func printQueue(env environment, view agent.QueueView) {
	if len(view.Jobs) == 0 {
		fmt.Fprintln(env.stdout, "No job waits for budget.")
		return
	}
	t := newTable(">POS", "JOB", "BUDGET", "WAITS SINCE", "EXPECTED", "NEEDS AT MOST", "WHY")
	for _, j := range view.Jobs {
		position := "-"
		if j.Position > 0 {
			position = fmt.Sprintf("%d/%d", j.Position, j.Of)
		}
		t.row(position, j.Namespace+"/"+j.JobID, j.Budget, j.Since.Format(minuteLayout), expectedText(view.Time, j),
			fmt.Sprintf("%s, %s", count(int(j.GPUs), "GPU"), money(view.Currency, j.Estimate.Cost)), fmt.Sprintf("%s (%s)", j.Detail, j.Reason))
	}
	t.write(env.stdout)
}

// expectedText is when a job is expected to start.
func expectedText(now time.Time, j agent.QueuedView) string {
	switch {
	case j.State == "starting":
		return "now"
	case j.Expected == nil:
		return "not known"
	case !j.Expected.After(now):
		return "now"
	}
	return "about " + j.Expected.Format(minuteLayout)
}

func jobWhyCommand(env environment) command {
	return command{synopsis: "Explain why a job waits, runs or is being ended", help: `Usage: governor job why [options] <job id>

  Explains the decision about a job: the reason and the arithmetic behind it,
  the limit that binds and where it is set, what would make the job run, and
  other ways to get the work done now. Then the latest decisions about its
  submissions that the agent remembers.

      $ governor job why -namespace=research-nlp train

  -namespace=<ns>  Namespace of the job. Default: NOMAD_NAMESPACE, else default.
  -json            Print the agent's answer as JSON.` + clientHelp,
		run: func(args []string) int {
			fs := flags("job why")
			c := clientFlags(env, fs)
			namespace := namespaceFlag(env, fs)
			asJSON := fs.Bool("json", false, "")
			if !parse(env, fs, args, 1, 1) {
				return 1
			}
			var why agent.JobReason
			raw, err := fetch(c, "/governor/v1/jobs/why?"+url.Values{"namespace": {*namespace}, "job": {fs.Arg(0)}}.Encode(), &why)
			if err != nil {
				return env.fail(err)
			}
			if *asJSON {
				_, _ = env.stdout.Write(append(raw, '\n'))
				return 0
			}
			fmt.Fprintln(env.stdout, why.Text)
			printDecisions(env, why)
			return 0
		}}
}

func printDecisions(env environment, why agent.JobReason) {
	defer printIncomplete(env.stdout, why.Incomplete)
	if len(why.Decisions) == 0 {
		return
	}
	fmt.Fprintln(env.stdout, "\nDecisions about it")
	t := newTable("ID", "AT", "OUTCOME", "REASON", "BUDGET", ">GPUS", "BY")
	for _, d := range why.Decisions {
		outcome := d.Outcome
		if d.Plan {
			outcome += " (plan)"
		}
		t.row(d.ID, time.UnixMilli(d.AtMS).UTC().Format("2006-01-02 15:04:05 MST"), outcome, d.Reason, orDash(d.Budget), fmt.Sprint(d.GPUs), orDash(d.Submitter))
	}
	t.write(env.stdout)
}
