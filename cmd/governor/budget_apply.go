package main

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"

	"github.com/nomad-governor/governor/hcl/budgetspec"
	"github.com/nomad-governor/governor/quotaagent/agent"
	"github.com/nomad-governor/governor/quotaagent/api"
	"github.com/nomad-governor/governor/quotaagent/budget"
)

// exitChanges is the exit code of `plan -detailed-exitcode` when something would
// change.
const exitChanges = 2

func planCommand(env environment) command {
	return command{synopsis: "Show what applying budgets would change", help: `Usage: governor budget plan [options] <dir or files>...

  Compares budget files with the policy in force: every setting that would
  change, and what that does to running and waiting work: limits that would be
  exceeded at once, jobs that would have another budget or none, prices, queued
  jobs that would start or never fit. Changes nothing.

      $ governor budget plan budgets/

  -detailed-exitcode Exit with 0 when nothing changes, 1 on an error, and 2 when
                     something would change.
  -json              Print the plan as JSON.` + policyHelp + clientHelp,
		run: func(args []string) int {
			fs := flags("budget plan")
			c, policy := clientFlags(env, fs), addPolicyFlags(fs)
			detailed, asJSON := fs.Bool("detailed-exitcode", false, ""), fs.Bool("json", false, "")
			if !parse(env, fs, args, 1, 1000) {
				return 1
			}
			files, err := policy.read(fs.Args())
			if err != nil {
				return env.failWith(err)
			}
			effect, err := plan(c, files)
			if err != nil {
				return env.failWith(err)
			}
			if *asJSON {
				printJSON(env.stdout, effect)
			} else {
				printPlan(env, effect)
			}
			switch {
			case len(effect.Refused) > 0:
				return 1
			case *detailed && len(effect.Changes) > 0:
				return exitChanges
			}
			return 0
		}}
}

func plan(c *client, files []budgetspec.File) (agent.PlanEffect, error) {
	var effect agent.PlanEffect
	return effect, c.call("POST", "/governor/v1/policy/plan", api.Upload{Files: files}, &effect)
}

func printJSON(w io.Writer, v any) {
	encoder := json.NewEncoder(w)
	encoder.SetEscapeHTML(false)
	encoder.SetIndent("", "  ")
	_ = encoder.Encode(v) // answers of an agent, which were JSON before
}

// printPlan prints a plan block by block, then its effects and a count.
func printPlan(env environment, e agent.PlanEffect) {
	if e.Diagnostics != "" {
		fmt.Fprint(env.stderr, e.Diagnostics)
	}
	w := env.stdout
	if len(e.Changes) == 0 {
		fmt.Fprintln(w, "No changes. The budgets in force say the same as these files.")
	} else {
		fmt.Fprintln(w, "These settings would change:")
		printChanges(w, e.Changes)
	}
	if len(e.Effects) > 0 {
		fmt.Fprintln(w, "\nEffect on running and waiting work:")
		for _, effect := range e.Effects {
			fmt.Fprintf(w, "  ! %s\n", effect.Text)
		}
	}
	if len(e.Changes) > 0 {
		counts := map[string]int{}
		for _, block := range byBlock(e.Changes) {
			counts[blockAction(block)]++
		}
		fmt.Fprintf(w, "\nPlan: %d to add, %d to change, %d to remove.\n", counts["+"], counts["~"], counts["-"])
	}
	for _, text := range e.Refused {
		fmt.Fprintf(env.stderr, "\nError: %s\n", text)
	}
}

// byBlock groups changes that follow each other by their block.
func byBlock(changes []budget.Change) [][]budget.Change {
	var blocks [][]budget.Change
	for i, c := range changes {
		if i == 0 || c.Block != changes[i-1].Block {
			blocks = append(blocks, nil)
		}
		blocks[len(blocks)-1] = append(blocks[len(blocks)-1], c)
	}
	return blocks
}

// blockAction is "+" for a new block, "-" for one that is gone, else "~".
func blockAction(block []budget.Change) string {
	for _, c := range block {
		if c.Name == "" {
			return c.Action
		}
	}
	return "~"
}

func printChanges(w io.Writer, changes []budget.Change) {
	for _, block := range byBlock(changes) {
		fmt.Fprintf(w, "\n  %s %s\n", blockAction(block), block[0].Block)
		t := newTable("", "", "")
		for _, c := range block {
			value := c.Was + c.Becomes
			if c.Action == "~" {
				value = c.Was + " -> " + c.Becomes
			}
			if c.Name != "" {
				t.row("    "+c.Action+" "+c.Name, value, c.Source)
			}
		}
		t.write(w)
	}
}

func applyCommand(env environment) command {
	return command{synopsis: "Put budgets into force", help: `Usage: governor budget apply [options] <dir or files>...

  Shows the plan, asks, and replaces all budgets in the store by these files in
  one transaction. With ACLs on it needs a Nomad management token. If somebody
  else applied in between nothing is written.

      $ governor budget apply budgets/
      $ governor budget apply -auto-approve budgets/

  -auto-approve      Do not ask. Needed where nobody can answer.
  -commit=<rev>      Version-control revision of the files, kept with the policy.
                     Default: HEAD of the git work tree that they lie in.` + policyHelp + clientHelp,
		run: func(args []string) int {
			fs := flags("budget apply")
			c, policy := clientFlags(env, fs), addPolicyFlags(fs)
			commit, approved := fs.String("commit", "", ""), fs.Bool("auto-approve", false, "")
			if !parse(env, fs, args, 1, 1000) {
				return 1
			}
			files, err := policy.read(fs.Args())
			if err != nil {
				return env.failWith(err)
			}
			if *commit == "" {
				*commit = gitCommit(env.ctx, fs.Arg(0))
			}
			return planAndApply(env, c, files, *approved, func(version string) error {
				upload := api.Upload{Files: files, Version: version, Commit: *commit}
				return c.call("PUT", "/governor/v1/policy", upload, nil)
			})
		}}
}

// planAndApply shows what files would change, asks, and applies them.
func planAndApply(env environment, c *client, files []budgetspec.File, approved bool, apply func(version string) error) int {
	effect, err := plan(c, files)
	if err != nil {
		return env.failWith(err)
	}
	printPlan(env, effect)
	switch {
	case len(effect.Refused) > 0:
		return 1
	case effect.Same:
		return 0
	}
	if !approved {
		if err := confirm(env, "Do you want to put these budgets into force? Only \"yes\" is taken as yes: "); err != nil {
			return env.fail(err)
		}
	}
	if err := apply(effect.Version); err != nil {
		return env.failWith(err)
	}
	fmt.Fprintf(env.stdout, "\nApplied %s.\n", count(len(files), "file"))
	return 0
}

// confirm asks a person. Where nobody can answer it is an error.
func confirm(env environment, question string) error {
	if file, ok := env.stdin.(*os.File); !ok || !isTerminal(file) {
		return errors.New("nobody can be asked here, for standard input is no terminal; look at the plan, then use -auto-approve")
	}
	fmt.Fprint(env.stdout, "\n"+question)
	answer, err := bufio.NewReader(io.LimitReader(env.stdin, 100)).ReadString('\n')
	if err != nil && !errors.Is(err, io.EOF) {
		return fmt.Errorf("read the answer: %w", err)
	}
	if strings.TrimSpace(answer) != "yes" {
		return errors.New("nothing was applied")
	}
	return nil
}

func rollbackCommand(env environment) command {
	return command{synopsis: "Put an older revision of the budgets into force again", help: `Usage: governor budget rollback [options] <revision>

  Shows the plan of going back to a revision of 'governor budget history', asks,
  and applies its files as a new revision. Prices that are in force by now stay:
  a revision without them cannot be restored.

      $ governor budget rollback 12

  -auto-approve      Do not ask. Needed where nobody can answer.` + clientHelp,
		run: func(args []string) int {
			fs := flags("budget rollback")
			c, approved := clientFlags(env, fs), fs.Bool("auto-approve", false, "")
			if !parse(env, fs, args, 1, 1) {
				return 1
			}
			nr, err := strconv.Atoi(fs.Arg(0))
			if err != nil {
				return env.fail(fmt.Errorf("%q is not the number of a revision; `governor budget history` lists them", fs.Arg(0)))
			}
			var past agent.PastPolicy
			if err := c.call("GET", fmt.Sprintf("/governor/v1/policy/history/%d", nr), nil, &past); err != nil {
				return env.fail(err)
			}
			return planAndApply(env, c, past.Files, *approved, func(version string) error {
				return c.call("POST", "/governor/v1/policy/rollback", agent.RollbackRequest{Revision: nr, Version: version}, nil)
			})
		}}
}
