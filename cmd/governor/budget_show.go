package main

import (
	"fmt"
	"io"
	"strings"

	"github.com/nomad-governor/governor/hcl/budgetspec"
	"github.com/nomad-governor/governor/quotaagent/agent"
)

func showCommand(env environment) command {
	return command{synopsis: "Show the settings of a budget, or the policy in force", help: `Usage: governor budget show [options] [<budget path>]

  Shows every setting that applies to a budget: its own, the bounds of the
  budgets above it, what it inherits and the defaults, each with the file and
  line that says so. Without a path it lists the budgets. What is used and held
  is in 'governor budget status'.

      $ governor budget show acme/research
      $ governor budget show -files

  -files           Print the files of the policy in force.
  -json            Print the agent's answer as JSON.` + clientHelp,
		run: func(args []string) int {
			fs := flags("budget show")
			c := clientFlags(env, fs)
			files, asJSON := fs.Bool("files", false, ""), fs.Bool("json", false, "")
			if !parse(env, fs, args, 0, 1) {
				return 1
			}
			if fs.NArg() == 1 && !*files {
				var view agent.BudgetView
				if err := c.call("GET", "/governor/v1/budgets/"+escapePath(fs.Arg(0)), nil, &view); err != nil {
					return env.fail(err)
				}
				if *asJSON {
					printJSON(env.stdout, view)
					return 0
				}
				printBudget(env.stdout, view)
				return 0
			}
			if *files {
				return showFiles(env, c, *asJSON)
			}
			status, err := fetchStatus(c)
			if err != nil {
				return env.fail(err)
			}
			if *asJSON {
				printJSON(env.stdout, status.Budgets)
				return 0
			}
			printTree(env.stdout, status)
			return 0
		}}
}

func showFiles(env environment, c *client, asJSON bool) int {
	var policy struct {
		agent.PolicyStatus
		Files []budgetspec.File `json:"files"`
	}
	if err := c.call("GET", "/governor/v1/policy", nil, &policy); err != nil {
		return env.fail(err)
	}
	if asJSON {
		printJSON(env.stdout, policy)
		return 0
	}
	for i, f := range policy.Files {
		if i > 0 {
			fmt.Fprintln(env.stdout)
		}
		fmt.Fprintf(env.stdout, "# %s (revision %.12s)\n\n%s\n", f.Name, policy.Revision, strings.TrimRight(string(f.Content), "\n"))
	}
	return 0
}

func printTree(w io.Writer, s agent.Status) {
	printPolicy(w, s.Policy)
	if len(s.Budgets) == 0 {
		return
	}
	fmt.Fprintln(w)
	t := newTable("BUDGET", ">LIMITS", "OWNER")
	for _, b := range s.Budgets {
		depth := strings.Count(b.Path, "/")
		t.row(strings.Repeat("  ", depth)+b.Path, fmt.Sprint(len(b.Limits)), orDash(b.Owner))
	}
	t.write(w)
}

func printBudget(w io.Writer, v agent.BudgetView) {
	fmt.Fprintf(w, "Budget       %s (%s)\n", v.Path, v.Source)
	if v.Description != "" {
		fmt.Fprintf(w, "Description  %s\n", v.Description)
	}
	if v.Owner != "" {
		fmt.Fprintf(w, "Owner        %s\n", v.Owner)
	}
	if len(v.Children) > 0 {
		fmt.Fprintf(w, "Below it     %s\n", strings.Join(v.Children, ", "))
	}
	t := newTable("SETTING", "VALUE", "FROM", "SET AT")
	for _, s := range v.Settings {
		if s.Name == "description" || s.Name == "owner" {
			continue
		}
		from := s.From
		if from == v.Path {
			from = "itself"
		}
		t.row(s.Name, s.Value, from, orDash(s.Source))
	}
	fmt.Fprintln(w)
	t.write(w)
}

func historyCommand(env environment) command {
	return command{synopsis: "List the revisions of the budgets", help: `Usage: governor budget history [options]

  Lists who changed the budgets when, from which commit, and what changed. The
  last 50 revisions are kept. An edit made directly in the store has the author
  kv-edit.

      $ governor budget history
      $ governor budget history -verbose

  -verbose         Print every change of every revision.
  -json            Print the agent's answer as JSON.` + clientHelp,
		run: func(args []string) int {
			fs := flags("budget history")
			c := clientFlags(env, fs)
			verbose, asJSON := fs.Bool("verbose", false, ""), fs.Bool("json", false, "")
			if !parse(env, fs, args, 0, 0) {
				return 1
			}
			var history []agent.HistoryEntry
			if err := c.call("GET", "/governor/v1/policy/history", nil, &history); err != nil {
				return env.fail(err)
			}
			switch {
			case *asJSON:
				printJSON(env.stdout, history)
			case len(history) == 0:
				fmt.Fprintln(env.stdout, "No budgets were applied yet.")
			default:
				printHistory(env.stdout, history, *verbose)
			}
			return 0
		}}
}

func printHistory(w io.Writer, history []agent.HistoryEntry, verbose bool) {
	t := newTable(">REVISION", "TIME", "AUTHOR", "COMMIT", "CHANGES")
	for _, e := range history {
		t.row(fmt.Sprint(e.Nr), e.Time.UTC().Format("2006-01-02 15:04:05 MST"), orDash(e.Author), orDash(shortCommit(e.Commit)), changesText(e))
		if verbose {
			for _, line := range e.Changes {
				t.row("      " + line)
			}
		}
	}
	t.write(w)
}

// shortCommit cuts a hash to the length that people use.
func shortCommit(commit string) string {
	hash, dirty, _ := strings.Cut(commit, "-")
	if len(hash) > 12 {
		hash = hash[:12]
	}
	if dirty != "" {
		return hash + "-" + dirty
	}
	return hash
}

func changesText(e agent.HistoryEntry) string {
	text := "nothing but comments or order"
	switch n := len(e.Changes); {
	case n == 1:
		text = e.Changes[0]
	case n > 1:
		text = fmt.Sprintf("%s and %d more", e.Changes[0], n-1)
	}
	if e.Restored > 0 {
		text = fmt.Sprintf("back to revision %d: %s", e.Restored, text)
	}
	return text
}
