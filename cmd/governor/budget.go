package main

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/nomad-governor/governor/hcl/budgetspec"
	"github.com/rogpeppe/go-internal/diff"
)

func validateCommand(env environment) command {
	return command{synopsis: "Check budget files", help: `Usage: governor budget validate [options] <dir or files>...

  Parses budget files and prints every mistake with its place, what the rule
  is and what to do. Needs no agent. Exits with 1 if there are errors.

      $ governor budget validate budgets/
      $ governor budget validate -var=night_discount=0.5 budgets/

  -json              Print the diagnostics as JSON.` + policyHelp,
		run: func(args []string) int {
			fs := flags("budget validate")
			asJSON := fs.Bool("json", false, "")
			policy := addPolicyFlags(fs)
			if !parse(env, fs, args, 1, 1000) {
				return 1
			}
			files, err := policy.read(fs.Args())
			if refused := new(diagnosticsText); *asJSON && errors.As(err, &refused) {
				if err := budgetspec.WriteJSON(env.stdout, refused.files, refused.diags); err != nil {
					return env.fail(err)
				}
				return 1
			}
			if err != nil {
				return env.failWith(err)
			}
			_, diags := budgetspec.Parse(files)
			if *asJSON {
				err = budgetspec.WriteJSON(env.stdout, files, diags)
			} else {
				err = budgetspec.Render(env.stderr, files, diags, isTerminal(env.stderr))
			}
			if err != nil {
				return env.fail(err)
			}
			if diags.HasErrors() {
				return 1
			}
			if !*asJSON {
				fmt.Fprintf(env.stdout, "The budgets are valid: %s.\n", count(len(files), "file"))
			}
			return 0
		}}
}

func fmtCommand(env environment) command {
	return command{synopsis: "Format budget files", help: `Usage: governor budget fmt [options] <dir or files>...

  Rewrites budget files in the canonical style, and lists those that changed.

      $ governor budget fmt budgets/
      $ governor budget fmt -check -diff budgets/

  -check   Change nothing; exit with 1 if a file would change.
  -diff    Print the differences instead of the names of the files.`,
		run: func(args []string) int {
			fs := flags("budget fmt")
			check, asDiff := fs.Bool("check", false, ""), fs.Bool("diff", false, "")
			if !parse(env, fs, args, 1, 1000) {
				return 1
			}
			code := 0
			for _, path := range fs.Args() {
				names, err := policyPaths(path)
				if err != nil {
					return env.fail(err)
				}
				for _, name := range names {
					difference, err := formatFile(name, *check)
					if err != nil {
						return env.fail(err)
					}
					if len(difference) == 0 {
						continue
					}
					if *check {
						code = 1
					}
					if *asDiff {
						_, _ = env.stdout.Write(difference)
						continue
					}
					fmt.Fprintln(env.stdout, name)
				}
			}
			return code
		}}
}

// formatFile formats one file and returns what changes; nothing when it is
// formatted already.
func formatFile(name string, check bool) ([]byte, error) {
	src, err := os.ReadFile(name)
	if err != nil {
		return nil, fmt.Errorf("format: %w", err)
	}
	out, diags := budgetspec.Format(filepath.Base(name), src)
	if diags.HasErrors() {
		var text bytes.Buffer
		_ = budgetspec.Render(&text, []budgetspec.File{{Name: filepath.Base(name), Content: src}}, diags, false)
		return nil, fmt.Errorf("format %s:\n%s", name, text.String())
	}
	if bytes.Equal(src, out) {
		return nil, nil
	}
	difference := diff.Diff(name, src, name+" (formatted)", out)
	if check {
		return difference, nil
	}
	info, err := os.Stat(name)
	if err != nil {
		return nil, fmt.Errorf("format: %w", err)
	}
	if err := os.WriteFile(name, out, info.Mode().Perm()); err != nil {
		return nil, fmt.Errorf("format: %w", err)
	}
	return difference, nil
}

// count writes a number and its noun: "1 file", "2 files".
func count(n int, noun string) string {
	if n != 1 {
		noun += "s"
	}
	return fmt.Sprintf("%d %s", n, strings.TrimSpace(noun))
}

// failWith prints an error; diagnostics stand by themselves.
func (e environment) failWith(err error) int {
	var text *diagnosticsText
	if errors.As(err, &text) || strings.HasPrefix(err.Error(), "Error: ") {
		fmt.Fprintln(e.stderr, strings.TrimRight(err.Error(), "\n"))
		return 1
	}
	return e.fail(err)
}
