package main

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"sort"
	"strings"

	"github.com/nomad-governor/governor/hcl/budgetspec"
	"github.com/nomad-governor/governor/quotaagent/agent"
	"github.com/nomad-governor/governor/quotaagent/api"
)

// readPolicy reads the .hcl files of a directory, or single files.
func readPolicy(paths []string) ([]budgetspec.File, error) {
	var files []budgetspec.File
	for _, path := range paths {
		info, err := os.Stat(path)
		if err != nil {
			return nil, fmt.Errorf("read policy: %w", err)
		}
		names := []string{path}
		if info.IsDir() {
			if names, err = filepath.Glob(filepath.Join(path, "*.hcl")); err != nil {
				return nil, fmt.Errorf("read policy directory %q: %w", path, err)
			}
			if len(names) == 0 {
				return nil, fmt.Errorf("%s has no .hcl files", path)
			}
		}
		for _, name := range names {
			content, err := os.ReadFile(name)
			if err != nil {
				return nil, fmt.Errorf("read policy: %w", err)
			}
			files = append(files, budgetspec.File{Name: filepath.Base(name), Content: content})
		}
	}
	sort.Slice(files, func(i, j int) bool { return files[i].Name < files[j].Name })
	for i := 1; i < len(files); i++ {
		if files[i].Name == files[i-1].Name {
			return nil, fmt.Errorf("two files are named %s; all files of a policy share one directory in the store", files[i].Name)
		}
	}
	return files, nil
}

func validateCommand(env environment) command {
	return command{synopsis: "Check budget files", help: `Usage: governor budget validate [-json] <dir or files>...

  Parses budget files and prints every mistake with its place, what the rule
  is and what to do. Needs no agent. Exits with 1 if there are errors.

      $ governor budget validate budgets/

  -json   Print the diagnostics as JSON.`,
		run: func(args []string) int {
			fs := flags("budget validate")
			asJSON := fs.Bool("json", false, "")
			if !parse(env, fs, args, 1, 1000) {
				return 1
			}
			files, err := readPolicy(fs.Args())
			if err != nil {
				return env.fail(err)
			}
			policy, diags := budgetspec.Parse(files)
			if *asJSON {
				err = budgetspec.WriteJSON(env.stdout, files, diags)
			} else {
				err = budgetspec.Render(env.stderr, files, diags, isTerminal(env.stderr))
			}
			if err != nil {
				return env.fail(err)
			}
			if policy == nil || diags.HasErrors() {
				return 1
			}
			if !*asJSON {
				fmt.Fprintf(env.stdout, "The budgets are valid: %s.\n", count(len(files), "file"))
			}
			return 0
		}}
}

func fmtCommand(env environment) command {
	return command{synopsis: "Format budget files", help: `Usage: governor budget fmt [-check] <dir or files>...

  Rewrites budget files in the canonical style.

      $ governor budget fmt budgets/

  -check   Change nothing; list files that would change and exit with 1.`,
		run: func(args []string) int {
			fs := flags("budget fmt")
			check := fs.Bool("check", false, "")
			if !parse(env, fs, args, 1, 1000) {
				return 1
			}
			code := 0
			for _, path := range fs.Args() {
				names, err := filepath.Glob(filepath.Join(path, "*.hcl"))
				if err != nil || len(names) == 0 {
					names = []string{path}
				}
				for _, name := range names {
					changed, err := formatFile(name, *check)
					if err != nil {
						return env.fail(err)
					}
					if changed {
						fmt.Fprintln(env.stdout, name)
						if *check {
							code = 1
						}
					}
				}
			}
			return code
		}}
}

func formatFile(name string, check bool) (bool, error) {
	src, err := os.ReadFile(name)
	if err != nil {
		return false, fmt.Errorf("format: %w", err)
	}
	out, diags := budgetspec.Format(filepath.Base(name), src)
	if diags.HasErrors() {
		var text bytes.Buffer
		_ = budgetspec.Render(&text, []budgetspec.File{{Name: filepath.Base(name), Content: src}}, diags, false)
		return false, fmt.Errorf("format %s:\n%s", name, text.String())
	}
	if bytes.Equal(src, out) {
		return false, nil
	}
	if check {
		return true, nil
	}
	if err := os.WriteFile(name, out, 0o644); err != nil {
		return false, fmt.Errorf("format: %w", err)
	}
	return true, nil
}

func planCommand(env environment) command {
	return command{synopsis: "Show what applying budgets would change", help: `Usage: governor budget plan [options] <dir or files>...

  Compares budget files with the policy in force: which limits would change,
  which would be over at once, which jobs would lose their budget. Changes
  nothing.

      $ governor budget plan budgets/
` + clientHelp,
		run: func(args []string) int {
			fs := flags("budget plan")
			c := clientFlags(env, fs)
			if !parse(env, fs, args, 1, 1000) {
				return 1
			}
			files, err := readPolicy(fs.Args())
			if err != nil {
				return env.fail(err)
			}
			effect, err := plan(c, files)
			if err != nil {
				return env.fail(err)
			}
			printEffect(env, effect)
			return 0
		}}
}

func plan(c *client, files []budgetspec.File) (agent.PlanEffect, error) {
	var effect agent.PlanEffect
	return effect, c.call("POST", "/governor/v1/policy/plan", api.Upload{Files: files}, &effect)
}

func printEffect(env environment, e agent.PlanEffect) {
	if e.Diagnostics != "" {
		fmt.Fprint(env.stderr, e.Diagnostics)
	}
	if len(e.Changes) == 0 {
		fmt.Fprintln(env.stdout, "No limit or price changes.")
	}
	for _, line := range e.Changes {
		fmt.Fprintln(env.stdout, line)
	}
	for _, line := range append(e.Over, e.Orphaned...) {
		fmt.Fprintln(env.stdout, "! "+line)
	}
}

func applyCommand(env environment) command {
	return command{synopsis: "Put budgets into force", help: `Usage: governor budget apply [options] <dir or files>...

  Replaces all budgets in the store by these files in one transaction, and
  prints what changed. With ACLs on it needs a Nomad management token. If
  somebody else applied in between nothing is written.

      $ governor budget apply -commit=$(git rev-parse HEAD) budgets/

  -commit=<rev>    Version-control revision of the files, kept with the policy.` + clientHelp,
		run: func(args []string) int {
			fs := flags("budget apply")
			c := clientFlags(env, fs)
			commit := fs.String("commit", "", "")
			if !parse(env, fs, args, 1, 1000) {
				return 1
			}
			files, err := readPolicy(fs.Args())
			if err != nil {
				return env.fail(err)
			}
			effect, err := plan(c, files)
			if err != nil {
				return env.fail(err)
			}
			upload := api.Upload{Files: files, Version: effect.Version, Commit: *commit}
			if err := c.call("PUT", "/governor/v1/policy", upload, nil); err != nil {
				return env.fail(err)
			}
			printEffect(env, effect)
			fmt.Fprintf(env.stdout, "Applied %s.\n", count(len(files), "file"))
			return 0
		}}
}

// count writes a number and its noun: "1 file", "2 files".
func count(n int, noun string) string {
	if n != 1 {
		noun += "s"
	}
	return fmt.Sprintf("%d %s", n, strings.TrimSpace(noun))
}
