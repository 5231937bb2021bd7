package main

import (
	"fmt"
	"io"
	"net/url"
	"strconv"

	"github.com/nomad-governor/governor/quotaagent/agent"
)

func alertListCommand(env environment) command {
	return command{synopsis: "Show which alerts fire, and who is told", help: `Usage: governor alert list [options]

  Shows what fires now (alert blocks of the policy, budgets that are past their soft
  mark, full, overdrawn or used too fast, and Governor's own health), and how many
  events wait for each notifier of the policy.

      $ governor alert list
      $ governor alert list -json | jq '.firing[] | select(.severity == "critical")'

  -json            Print the agent's answer as JSON.` + clientHelp,
		run: func(args []string) int {
			fs := flags("alert list")
			c := clientFlags(env, fs)
			asJSON := fs.Bool("json", false, "")
			if !parse(env, fs, args, 0, 0) {
				return 1
			}
			var view agent.AlertsView
			raw, err := fetch(c, "/governor/v1/alerts", &view)
			if err != nil {
				return env.fail(err)
			}
			if *asJSON {
				_, _ = env.stdout.Write(append(raw, '\n'))
				return 0
			}
			printAlerts(env.stdout, view)
			return 0
		}}
}

func printAlerts(w io.Writer, view agent.AlertsView) {
	if len(view.Firing) == 0 {
		fmt.Fprintln(w, "Nothing fires.")
	} else {
		t := newTable("SINCE", "SEVERITY", "KIND", "SUBJECT", "WHAT")
		for _, f := range view.Firing {
			t.row(timeText(f.Since), f.Severity, f.Kind, f.Subject, f.Text)
		}
		t.write(w)
	}
	fmt.Fprintln(w)
	if len(view.Notifiers) == 0 {
		fmt.Fprintln(w, "The policy has no notify block: nobody is told.")
		return
	}
	fmt.Fprintln(w, "Notifiers")
	t := newTable("NAME", ">SENT", ">WAITING", "SINCE", ">GIVEN UP", "SIGNED", "LAST ERROR")
	for _, n := range view.Notifiers {
		since, signed := "-", "no"
		if n.Oldest != nil {
			since = timeText(*n.Oldest)
		}
		if n.Signed {
			signed = "yes"
		}
		lastError := "-"
		if n.Error != "" {
			lastError = n.Error
		}
		t.row(n.Name, strconv.FormatUint(n.Sent, 10), strconv.Itoa(n.Waiting), since, strconv.FormatUint(n.GivenUp, 10), signed, lastError)
	}
	t.write(w)
}

func alertTestCommand(env environment) command {
	return command{synopsis: "Send a test event to a notifier", help: `Usage: governor alert test [options] <notifier>

  Sends one event of the type dev.governor.test to a notifier of the policy, signed as
  all others, and says whether it was taken. Needs a management token.

      $ governor alert test webhook.finops` + "\n" + clientHelp,
		run: func(args []string) int {
			fs := flags("alert test")
			c := clientFlags(env, fs)
			if !parse(env, fs, args, 1, 1) {
				return 1
			}
			name := fs.Arg(0)
			if err := c.call("POST", "/governor/v1/alerts/try?notifier="+url.QueryEscape(name), nil, nil); err != nil {
				return env.fail(err)
			}
			fmt.Fprintf(env.stdout, "%s took the test event.\n", name)
			return 0
		}}
}
