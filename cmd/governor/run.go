package main

import (
	"fmt"
	"io"
	"net/url"
	"strings"

	"github.com/nomad-governor/governor/quotaagent/agent"
)

func runOpenCommand(env environment) command {
	return command{synopsis: "Open an agent run: an envelope that its jobs draw from", help: `Usage: governor run open [options] <budget path>

  Opens an agent run and prints its id. The run holds its whole caps from the
  budget at once. Its jobs name it in their meta and draw from it, so that however
  many there are, they use no more together:

      meta {
        governor_run = "r-9f1c2b3a4d5e6f70"
      }

  What is not given is as in the budget's per_run.

      $ governor run open -cap=cost=10 -wall-clock=2h acme/research/agents

  -cap=<amount>    Most that the run may use: -cap=cost=10. Can be given several
                   times.` + amountHelp + `
  -concurrency=<n> Most jobs at once.
  -wall-clock=<t>  How long the run may last, such as 90m.
  -note=<text>     What the run is for.
  -json            Print the agent's answer as JSON.` + clientHelp,
		run: func(args []string) int {
			fs := flags("run open")
			c := clientFlags(env, fs)
			request := agent.RunRequest{}
			caps, asJSON := addAmounts(fs, "cap"), fs.Bool("json", false, "")
			fs.IntVar(&request.Concurrency, "concurrency", 0, "")
			fs.StringVar(&request.WallClock, "wall-clock", "", "")
			fs.StringVar(&request.Note, "note", "", "")
			if !parse(env, fs, args, 1, 1) {
				return 1
			}
			request.Budget, request.Caps = fs.Arg(0), caps
			return callRun(env, c, "POST", "/governor/v1/runs", request, *asJSON)
		}}
}

func runShowCommand(env environment) command {
	return runByID(env, "show", "GET", "", "Show an agent run: its caps, what is used, its jobs", `
  Shows the caps of a run, what its jobs used and may still use, and which of them
  draw from it now.

      $ governor run show r-9f1c2b3a4d5e6f70`)
}

func runCloseCommand(env environment) command {
	return runByID(env, "close", "POST", "/close", "Close an agent run and give back what is left of it", `
  Closes a run: no new job may draw from it, and those that run are stopped as the
  budget says. What is left goes back to the budget once no job draws from it. Who
  opened it may close it, and a management token.

      $ governor run close r-9f1c2b3a4d5e6f70`)
}

// runByID is a command about one run.
func runByID(env environment, verb, method, tail, synopsis, help string) command {
	return command{synopsis: synopsis, help: fmt.Sprintf("Usage: governor run %s [options] <id>\n%s\n\n  -json            Print the agent's answer as JSON.%s", verb, help, clientHelp),
		run: func(args []string) int {
			fs := flags("run " + verb)
			c, asJSON := clientFlags(env, fs), fs.Bool("json", false, "")
			if !parse(env, fs, args, 1, 1) {
				return 1
			}
			return callRun(env, c, method, "/governor/v1/runs/"+url.PathEscape(fs.Arg(0))+tail, nil, *asJSON)
		}}
}

func callRun(env environment, c *client, method, path string, body any, asJSON bool) int {
	var run agent.RunStatus
	if err := c.call(method, path, body, &run); err != nil {
		return env.failWith(err)
	}
	if asJSON {
		printJSON(env.stdout, run)
		return 0
	}
	printRun(env.stdout, run)
	return 0
}

func printRun(w io.Writer, r agent.RunStatus) {
	fmt.Fprintf(w, "Run          %s (%s)\nBudget       %s\nOpened       %s by %s\nLasts until  %s\n", r.ID, r.State, r.Budget, stamp(r.OpenedMS), orDash(r.Accessor), stamp(r.UntilMS))
	if r.ClosedMS != 0 {
		fmt.Fprintf(w, "Closed       %s\n", stamp(r.ClosedMS))
	}
	if r.Note != "" {
		fmt.Fprintf(w, "For          %s\n", r.Note)
	}
	open := fmt.Sprintf("%d now, %d in all", r.Open, r.Jobs)
	if r.Concurrency > 0 {
		open += fmt.Sprintf("; at most %d at once", r.Concurrency)
	}
	fmt.Fprintf(w, "Jobs         %s\n", open)
	if r.Requests > 0 {
		fmt.Fprintf(w, "Requests     %d for tokens, open now\n", r.Requests)
	}
	if len(r.OpenJobs) > 0 {
		fmt.Fprintf(w, "Open jobs    %s\n", strings.Join(r.OpenJobs, ", "))
	}
	fmt.Fprintln(w)
	t := newTable("WHAT", ">CAP", ">USED", ">HELD BY JOBS", ">LEFT")
	for _, l := range r.Lines {
		t.row(l.What, l.Cap, l.Used, l.Held, l.Left)
	}
	t.write(w)
}

func runListCommand(env environment) command {
	return command{synopsis: "List agent runs", help: `Usage: governor run list [options]

  Lists the open agent runs, and with -all those that were closed lately, the
  newest first.

      $ governor run list

  -all             Also closed ones.
  -json            Print the agent's answer as JSON.` + clientHelp,
		run: listing(env, "run list", "/governor/v1/runs", func(r agent.RunStatus) bool { return r.State != agent.RunClosed }, printRuns)}
}

func printRuns(w io.Writer, list []agent.RunStatus, all bool) {
	if len(list) == 0 {
		text := "No agent run is open. With -all those that were closed lately are listed too."
		if all {
			text = "There were no agent runs lately."
		}
		fmt.Fprintln(w, text)
		return
	}
	t := newTable("ID", "BUDGET", "STATE", ">JOBS", "LEFT", "UNTIL", "OPENED BY", "FOR")
	for _, r := range list {
		var left []string
		for _, l := range r.Lines {
			left = append(left, fmt.Sprintf("%s of %s %s", l.Left, l.Cap, l.What))
		}
		t.row(r.ID, r.Budget, r.State, fmt.Sprintf("%d (%d)", r.Open, r.Jobs), strings.Join(left, ", "), stamp(r.UntilMS), orDash(r.Accessor), orDash(r.Note))
	}
	t.write(w)
}
