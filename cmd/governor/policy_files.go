package main

import (
	"bytes"
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"sort"
	"strings"
	"time"

	"github.com/hashicorp/hcl/v2"

	"github.com/nomad-governor/governor/hcl/budgetspec"
)

// policyHelp explains the arguments that name budget files.
const policyHelp = `
  -var=<name=value>  Value of a variable, as an expression of the language. May
                     be repeated.
  -var-file=<file>   File with values of variables (name = value in each line).
                     May be repeated; -var wins.`

// policyFlags are the options that change how budget files are read.
type policyFlags struct {
	vars  varFlag
	files listFlag
}

func addPolicyFlags(fs *flag.FlagSet) *policyFlags {
	p := &policyFlags{vars: varFlag{}}
	fs.Var(p.vars, "var", "")
	fs.Var(&p.files, "var-file", "")
	return p
}

// varFlag collects name=value.
type varFlag map[string]string

// String implements flag.Value.
func (v varFlag) String() string { return "" }

// Set implements flag.Value.
func (v varFlag) Set(text string) error {
	name, value, ok := strings.Cut(text, "=")
	if !ok || name == "" {
		return errors.New("write name=value")
	}
	if _, twice := v[name]; twice {
		return fmt.Errorf("%s is given twice", name)
	}
	v[name] = value
	return nil
}

// listFlag collects every use of an option.
type listFlag []string

// String implements flag.Value.
func (l *listFlag) String() string { return strings.Join(*l, ",") }

// Set implements flag.Value.
func (l *listFlag) Set(text string) error {
	*l = append(*l, text)
	return nil
}

// varsSuffix is how the language knows files with values of variables.
const varsSuffix = ".vars.hcl"

// read is the policy in the paths with the values of variables in it: what
// would be put into the store.
func (p *policyFlags) read(paths []string) ([]budgetspec.File, error) {
	files, err := readPolicy(paths)
	if err != nil {
		return nil, err
	}
	for _, path := range p.files {
		content, err := os.ReadFile(path)
		if err != nil {
			return nil, fmt.Errorf("read variables: %w", err)
		}
		name := filepath.Base(path)
		if !strings.HasSuffix(name, varsSuffix) {
			name = strings.TrimSuffix(name, filepath.Ext(name)) + varsSuffix
		}
		if i := slices.IndexFunc(files, func(f budgetspec.File) bool { return f.Name == name }); i >= 0 {
			files[i].Content = content
			continue
		}
		files = append(files, budgetspec.File{Name: name, Content: content})
	}
	if len(p.vars) == 0 {
		return files, nil
	}
	set, diags := budgetspec.SetVars(files, p.vars)
	if diags.HasErrors() {
		var text bytes.Buffer
		_ = budgetspec.Render(&text, files, diags, false) // a buffer takes every write
		return nil, &diagnosticsText{text.String(), files, diags}
	}
	return set, nil
}

// diagnosticsText is rendered diagnostics, which need no "Error: " before them,
// and what they were made from.
type diagnosticsText struct {
	text  string
	files []budgetspec.File
	diags hcl.Diagnostics
}

// Error is the text.
func (d *diagnosticsText) Error() string { return d.text }

// readPolicy reads the .hcl files of a directory, or single files.
func readPolicy(paths []string) ([]budgetspec.File, error) {
	var files []budgetspec.File
	for _, path := range paths {
		names, err := policyPaths(path)
		if err != nil {
			return nil, err
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

// policyPaths are the budget files that a path names: itself, or those of a
// directory.
func policyPaths(path string) ([]string, error) {
	info, err := os.Stat(path)
	if err != nil {
		return nil, fmt.Errorf("read policy: %w", err)
	}
	if !info.IsDir() {
		return []string{path}, nil
	}
	names, err := filepath.Glob(filepath.Join(path, "*.hcl"))
	if err != nil {
		return nil, fmt.Errorf("read policy directory %q: %w", path, err)
	}
	if len(names) == 0 {
		return nil, fmt.Errorf("%s has no .hcl files", path)
	}
	return names, nil
}

// gitWithin bounds how long git is asked.
const gitWithin = 5 * time.Second

// gitCommit is the commit of the work tree that a path lies in, with "-dirty"
// when the files differ from it; "" when it lies in none.
func gitCommit(ctx context.Context, path string) string {
	dir := path
	if info, err := os.Stat(path); err == nil && !info.IsDir() {
		dir = filepath.Dir(path)
	}
	ctx, cancel := context.WithTimeout(ctx, gitWithin)
	defer cancel()
	head, err := exec.CommandContext(ctx, "git", "-C", dir, "rev-parse", "--verify", "HEAD").Output()
	if err != nil {
		return ""
	}
	commit := strings.TrimSpace(string(head))
	if changed, err := exec.CommandContext(ctx, "git", "-C", dir, "status", "--porcelain", "--", ".").Output(); err == nil && len(changed) > 0 {
		commit += "-dirty"
	}
	return commit
}
