package main

import (
	"cmp"
	"flag"
	"fmt"
	"io"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/nomad-governor/governor/quotaagent/agent"
	"github.com/nomad-governor/governor/quotaagent/history"
)

func decisionListCommand(env environment) command {
	return command{synopsis: "List what was decided about submissions", help: `Usage: governor decision list [options]

  Lists the decisions about submissions and plans, the latest first. Each agent
  keeps the last 100,000 that it made; the agent that is asked asks the others
  too. "governor decision show" has the whole of one.

      $ governor decision list
      $ governor decision list -namespace=research -job=train
      $ governor decision list -t='{{range .decisions}}{{.job_id}} {{.reason}}{{"\n"}}{{end}}'

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
			var decisions agent.DecisionList
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

func printDecisionList(w io.Writer, l agent.DecisionList) {
	defer printIncomplete(w, l.Incomplete)
	if len(l.Decisions) == 0 {
		fmt.Fprintln(w, "No decision is kept about that.")
		return
	}
	t := newTable("ID", "AT", "JOB", ">GPUS", "OUTCOME", "REASON", "BUDGET", "SUBMITTED BY", "")
	for _, d := range l.Decisions {
		note := ""
		switch {
		case d.Plan:
			note = "planned only"
		case d.Shadow:
			note = "not enforced"
		}
		t.row(d.ID, time.UnixMilli(d.AtMS).UTC().Format("2006-01-02 15:04:05"), d.Namespace+"/"+d.JobID, fmt.Sprint(d.GPUs), d.Outcome, d.Reason, orDash(d.Budget), orDash(d.Submitter), note)
	}
	t.write(w)
}

func decisionShowCommand(env environment) command {
	return command{synopsis: "Show the whole record of one decision", help: `Usage: governor decision show [options] <job | namespace/job | decision id>

  Shows a decision about a submission or a plan: the outcome, its reason with what
  it means and what to do about it, the budget, where the limit that decided is
  set, who submitted, and the words that the author was told. Of a job it is the
  latest one, whichever agent made it.

      $ governor decision show train
      $ governor decision show -n=2 research/train
      $ governor decision show -namespace=research -at=2026-03-09 train
      $ governor decision show d-3f9c1a0b-812

  -n=<n>           The n-th latest decision of the job, as "governor decision
                   list" counts them. Default: 1, the latest.
  -at=<time>       The latest decision that was made by this time: a day
                   (2026-03-01), a month, a year or a time (2026-03-01T12:00:00Z).
  -namespace=<ns>  Namespace of the job. Default: NOMAD_NAMESPACE, else default.
                   Given, the argument is the id of a job as it is, with slashes.
  -json            Print the agent's answer as JSON.` + clientHelp,
		run: func(args []string) int {
			fs := flags("decision show")
			c := clientFlags(env, fs)
			namespace := namespaceFlag(env, fs)
			n, at, asJSON := fs.Int("n", 1, ""), fs.String("at", "", ""), fs.Bool("json", false, "")
			if !parse(env, fs, args, 1, 1) {
				return 1
			}
			path := "/governor/v1/decisions/" + url.PathEscape(fs.Arg(0))
			if isSet(fs, "namespace") || isSet(fs, "n") || isSet(fs, "at") || !history.IsDecisionID(fs.Arg(0)) {
				meant, job, err := jobMeant(c, *namespace, fs.Arg(0), isSet(fs, "namespace"))
				if err != nil {
					return env.fail(err)
				}
				path = "/governor/v1/jobs/decision?" + url.Values{"namespace": {meant}, "job": {job}, "n": {strconv.Itoa(*n)}, "at": {*at}}.Encode()
			}
			var view agent.DecisionView
			raw, err := fetch(c, path, &view)
			switch {
			case err != nil:
				return env.fail(err)
			case *asJSON:
				_, _ = env.stdout.Write(append(raw, '\n'))
			default:
				printDecision(env.stdout, view)
			}
			return 0
		}}
}

// isSet reports whether an option was given.
func isSet(fs *flag.FlagSet, name string) bool {
	set := false
	fs.Visit(func(f *flag.Flag) { set = set || f.Name == name })
	return set
}

// jobMeant is which job somebody means by a name that may begin with a namespace, as
// lists show jobs. A job's own id may have slashes too: what the agent has decided
// about says which of the two is meant.
func jobMeant(c *client, namespace, name string, asItIs bool) (inNamespace, job string, err error) {
	first, rest, slashed := strings.Cut(name, "/")
	if asItIs || !slashed || first == "" || rest == "" {
		return namespace, name, nil
	}
	known := func(namespace, job string) (bool, error) {
		var found agent.DecisionList
		_, err := fetch(c, "/governor/v1/decisions?"+url.Values{"namespace": {namespace}, "job": {job}, "limit": {"1"}}.Encode(), &found)
		return len(found.Decisions) > 0, err
	}
	whole, err := known(namespace, name)
	if err != nil {
		return "", "", err
	}
	split, err := known(first, rest)
	switch {
	case err != nil:
		return "", "", err
	case whole && split:
		return "", "", fmt.Errorf("%q is job %q in namespace %q, and job %q in namespace %q: say which with -namespace=%s %s or -namespace=%s %s",
			name, rest, first, name, namespace, first, rest, namespace, name)
	case whole:
		return namespace, name, nil
	}
	return first, rest, nil
}

// printDecision prints a decision for people.
func printDecision(w io.Writer, v agent.DecisionView) {
	outcome, request := v.Outcome, cmp.Or(v.Request, "-")
	if v.Shadow {
		outcome += ", not enforced"
	}
	if v.Plan {
		request += ", which changes nothing"
	}
	fmt.Fprintf(w, "Decision      %s\nMade          %s by agent %s\nJob           %s in namespace %s\nRequest       %s\nOutcome       %s\nReason        %s\n",
		v.ID, stamp(v.AtMS), v.Agent, v.JobID, v.Namespace, request, outcome, v.Reason)
	fmt.Fprintf(w, "Budget        %s\nSet at        %s\nPolicy        %s\nGPUs          %d\nSubmitted by  %s\n",
		orDash(v.Budget), orDash(v.Source), orDash(fmt.Sprintf("%.12s", v.Revision)), v.GPUs, orDash(v.Submitter))
	if v.Meaning != "" {
		fmt.Fprintf(w, "\nWhat %s means\n\n", v.Reason)
		printWrapped(w, v.Meaning)
		printWrapped(w, "The author: "+v.Author)
		printWrapped(w, "The operator: "+v.Operator)
	}
	switch {
	case v.Text != "":
		fmt.Fprintf(w, "\nWhat the author was told\n\n")
		for line := range strings.Lines(v.Text) {
			fmt.Fprintf(w, "    %s\n", strings.TrimRight(line, "\n"))
		}
	case v.Plan:
		fmt.Fprintf(w, "\nThe words that the author of a plan was told are not kept.\n")
	default:
		fmt.Fprintf(w, "\nThe words that the author was told are not kept of this decision.\n")
	}
	printIncomplete(w, v.Incomplete)
}

// printIncomplete says what is missing in an answer.
func printIncomplete(w io.Writer, sentences []string) {
	if len(sentences) > 0 {
		fmt.Fprintln(w)
	}
	for _, text := range sentences {
		fmt.Fprintf(w, "Incomplete: %s.\n", text)
	}
}
