package tidy

import (
	"io/fs"
	"os"
	"strings"
	"testing"
	"testing/fstest"

	"github.com/shoenig/test/must"
)

// TestRepository runs every rule on this repository.
func TestRepository(t *testing.T) {
	t.Parallel()
	repo, err := Load(os.DirFS("../.."))
	must.NoError(t, err)
	must.Greater(t, 10, len(repo.Packages), must.Sprint("the repository was not found"))
	for name, rule := range Rules() {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			for _, finding := range rule(repo) {
				t.Errorf("%s", finding)
			}
		})
	}
}

// load parses a repository given as a map of files.
func load(t *testing.T, files map[string]string) *Repo {
	t.Helper()
	root := fstest.MapFS{}
	for name, text := range files {
		root[name] = &fstest.MapFile{Data: []byte(text), Mode: fs.ModePerm}
	}
	repo, err := Load(root)
	must.NoError(t, err)
	return repo
}

// imports is a Go file that imports the paths.
func imports(pkg string, paths ...string) string {
	var b strings.Builder
	b.WriteString("// Package " + pkg + " is a test.\npackage " + pkg + "\n")
	for _, path := range paths {
		b.WriteString("import _ \"" + path + "\"\n")
	}
	return b.String()
}

func TestRules(t *testing.T) {
	t.Parallel()
	long := "package a\n\nfunc long() {\n" + strings.Repeat("\tprintln()\n", maxFunctionLines) + "}\n"
	cases := map[string]struct {
		rule  func(*Repo) []Finding
		files map[string]string
		want  string // part of the only finding; "" means none
	}{
		"an adapter may import a pure package": {
			Layers, map[string]string{"quotaagent/gate/doc.go": imports("gate", Module+"/quotaagent/ledger")}, "",
		},
		"a pure package may import shared words": {
			Layers, map[string]string{"scheduler/place/doc.go": imports("place", Module+"/internal/gpu/topology")}, "",
		},
		"a shell may import adapters of its component": {
			Layers, map[string]string{"quotaagent/agent/doc.go": imports("agent", Module+"/quotaagent/gate")}, "",
		},
		"a program composes components": {
			Layers, map[string]string{"cmd/governor/doc.go": imports("main", Module+"/quotaagent/agent", Module+"/scheduler/service")}, "",
		},
		"a pure package must not import an adapter": {
			Layers, map[string]string{"quotaagent/ledger/doc.go": imports("ledger", Module+"/quotaagent/gate")},
			"quotaagent/ledger is pure and must not import quotaagent/gate, which is an adapter",
		},
		"adapters must not import each other": {
			Layers, map[string]string{"quotaagent/gate/doc.go": imports("gate", Module+"/quotaagent/consulkv")},
			"quotaagent/gate is an adapter",
		},
		"nobody imports a program": {
			Layers, map[string]string{"cmd/governor/doc.go": imports("main", Module+"/cmd/nomad-device-gpu")},
			"which is a program",
		},
		"a program may have packages of its own below it": {
			Layers, map[string]string{"cmd/governor/doc.go": imports("main", Module+"/cmd/governor/command")}, "",
		},
		"the product must not import the harness": {
			Layers, map[string]string{"quotaagent/agent/doc.go": imports("agent", Module+"/e2e/cluster")},
			"which is the test harness",
		},
		"a test may start the harness": {
			Layers, map[string]string{"device/nvml/nvml_test.go": imports("nvml", Module+"/device/fakenvml/fixture")}, "",
		},
		"components must not import each other": {
			Layers, map[string]string{"scheduler/service/doc.go": imports("service", Module+"/quotaagent/ledger")},
			"scheduler must not import quotaagent/ledger",
		},
		"components must not import each other even in tests": {
			Layers, map[string]string{"scheduler/place/place_test.go": imports("place", Module+"/device/inventory")},
			"scheduler must not import device/inventory",
		},
		"a package in no layer is a finding": {
			Layers, map[string]string{"quotaagent/newthing/doc.go": imports("newthing")}, "is in no layer",
		},
		"only device/nvml imports go-nvml": {
			Libraries, map[string]string{"device/plugin/doc.go": imports("plugin", "github.com/NVIDIA/go-nvml/pkg/nvml")}, "go-nvml",
		},
		"device/nvml may import go-nvml": {
			Libraries, map[string]string{"device/nvml/doc.go": imports("nvml", "github.com/NVIDIA/go-nvml/pkg/nvml")}, "",
		},
		"only consulkv imports Consul's API": {
			Libraries, map[string]string{"e2e/cluster/doc.go": imports("cluster", "github.com/hashicorp/consul/api")}, "consul/api",
		},
		"device/plugin may import Nomad's plugin protocol": {
			Libraries, map[string]string{"device/plugin/doc.go": imports("plugin", "github.com/hashicorp/nomad/plugins/device")}, "",
		},
		"nobody imports Nomad's inside, not even in tests": {
			Libraries, map[string]string{"device/plugin/plugin_test.go": imports("plugin", "github.com/hashicorp/nomad/nomad/structs")},
			"licence",
		},
		"nobody imports Nomad's helpers": {
			Libraries, map[string]string{"e2e/cluster/doc.go": imports("cluster", "github.com/hashicorp/nomad/helper/pointer")}, "licence",
		},
		"a library whose name only begins alike is another one": {
			Libraries, map[string]string{"e2e/cluster/doc.go": imports("cluster", "github.com/hashicorp/nomad-openapi/v1")}, "",
		},
		"a pure package must not import context": {
			Pure, map[string]string{"quotaagent/ledger/doc.go": imports("ledger", "context")}, "must not import context",
		},
		"a pure package must not import a child of os": {
			Pure, map[string]string{"internal/quantity/doc.go": imports("quantity", "os/exec")}, "must not import os/exec",
		},
		"a pure package may parse URLs": {
			Pure, map[string]string{"quotaagent/jobspec/doc.go": imports("jobspec", "net/url")}, "",
		},
		"a pure package must not look up names": {
			Pure, map[string]string{"hcl/agentconfig/a.go": "package agentconfig\nimport \"net\"\nvar f = net.LookupHost\n"}, "net.LookupHost",
		},
		"a pure package must not import libraries": {
			Pure, map[string]string{"quotaagent/jobspec/doc.go": imports("jobspec", "github.com/hashicorp/go-hclog")}, "go-hclog",
		},
		"a pure package must not read the clock": {
			Pure, map[string]string{"device/inventory/a.go": "package inventory\nimport \"time\"\nvar now = time.Now\n"}, "time.Now",
		},
		"a pure package must not read the clock under another name": {
			Pure, map[string]string{"device/inventory/a.go": "package inventory\nimport clock \"time\"\nfunc f() { _ = clock.Since }\n"}, "clock.Since",
		},
		"a pure package may compute with times": {
			Pure, map[string]string{"device/inventory/a.go": "package inventory\nimport \"time\"\nvar d = time.Second\n"}, "",
		},
		"a pure package may know Nomad's documents": {
			Pure, map[string]string{"quotaagent/jobspec/a.go": "package jobspec\nimport \"github.com/hashicorp/nomad/api\"\nvar j api.Job\n"}, "",
		},
		"a pure package must not speak to Nomad": {
			Pure, map[string]string{"quotaagent/jobspec/a.go": "package jobspec\nimport \"github.com/hashicorp/nomad/api\"\nvar j = api.NewClient\n"}, "api.NewClient",
		},
		"the budget language reads no files": {
			Pure, map[string]string{"hcl/budgetspec/doc.go": imports("budgetspec", "github.com/hashicorp/hcl/v2", "os")}, "must not import os",
		},
		"an adapter may use the budget language": {
			Layers, map[string]string{"quotaagent/api/doc.go": imports("api", Module+"/hcl/budgetspec")}, "",
		},
		"the budget language knows no adapter": {
			Layers, map[string]string{"hcl/budgetspec/doc.go": imports("budgetspec", Module+"/quotaagent/consulkv")}, "hcl/budgetspec is a language",
		},
		"a test of a pure package may do anything": {
			Pure, map[string]string{"device/inventory/a_test.go": imports("inventory", "os")}, "",
		},
		"an adapter may do input and output": {
			Pure, map[string]string{"device/nvml/doc.go": imports("nvml", "os")}, "",
		},
		"a package needs a package comment": {
			PackageDocs, map[string]string{"a/a.go": "package a\n"}, "no package comment",
		},
		"a package comment stands in doc.go": {
			PackageDocs, map[string]string{"a/a.go": imports("a")}, "move it to doc.go",
		},
		"a program has its comment next to main": {
			PackageDocs, map[string]string{"a/main.go": imports("main")}, "",
		},
		"a folder of tests needs no comment": {
			PackageDocs, map[string]string{"a/a_test.go": "package a\n"}, "",
		},
		"an exported function needs a comment": {
			Comments, map[string]string{"a/a.go": "package a\nfunc F() {}\n"}, "F is exported and has no comment",
		},
		"a comment begins with the name": {
			Comments, map[string]string{"a/a.go": "package a\n// Does it.\nfunc F() {}\n"}, "does not begin with its name",
		},
		"a comment that begins with a longer name is another's": {
			Comments, map[string]string{"a/a.go": "package a\n// Foo does it.\nfunc F() {}\n"}, "does not begin with its name",
		},
		"an article may stand before the name": {
			Comments, map[string]string{"a/a.go": "package a\n// A T is one.\ntype T int\n"}, "",
		},
		"a method of an exported type needs a comment": {
			Comments, map[string]string{"a/a.go": "package a\n// T is one.\ntype T[K any] int\nfunc (t *T[K]) M() {}\n"}, "M is exported",
		},
		"a method of an unexported type needs none": {
			Comments, map[string]string{"a/a.go": "package a\ntype t int\nfunc (t) M() {}\n"}, "",
		},
		"a well-known method needs no comment": {
			Comments, map[string]string{"a/a.go": "package a\n// T is one.\ntype T int\nfunc (T) String() string { return \"\" }\n"}, "",
		},
		"an exported constant needs a comment": {
			Comments, map[string]string{"a/a.go": "package a\nconst (\n\tA = 1 // A is one.\n\tB = 2\n)\n"}, "B is exported",
		},
		"one comment may speak for a group": {
			Comments, map[string]string{"a/a.go": "package a\n// Sizes.\nconst (\n\tA = 1\n\tB = 2\n)\n"}, "",
		},
		"a long function is a finding": {
			Sizes, map[string]string{"a/a.go": long}, "long has 72 lines",
		},
		"a long function of a test is none": {
			Sizes, map[string]string{"a/a_test.go": long}, "",
		},
		"a long file is a finding": {
			Sizes, map[string]string{"a/a.go": "package a\n" + strings.Repeat("//\n", maxFileLines)}, "has 501 lines",
		},
		"a test file may be longer": {
			Sizes, map[string]string{"a/a_test.go": "package a\n" + strings.Repeat("//\n", maxFileLines)}, "",
		},
		"init functions are findings": {
			NoInit, map[string]string{"a/a.go": "package a\nfunc init() {}\n"}, "no init functions",
		},
		"a method called init is none": {
			NoInit, map[string]string{"a/a.go": "package a\ntype t int\nfunc (t) init() {}\n"}, "",
		},
		"marks of unfinished work are findings": {
			Words, map[string]string{"docs/a.md": "fine\nTO" + "DO: more\n"}, "docs/a.md:2",
		},
		"a word that only contains a mark is none": {
			Words, map[string]string{"docs/a.md": "MASTO" + "DON, ha" + "cking\n"}, "",
		},
		"a path of one machine is a finding": {
			MachinePaths, map[string]string{"a/a.sh": "cd /ro" + "ot/src\n"}, "a/a.sh:1",
		},
		"a path of every machine is none": {
			MachinePaths, map[string]string{"a/a.sh": "cat /etc/passwd /proc/self/ro" + "ot/x; echo network/wo" + "rk/x\n"}, "",
		},
		"nested modules are left alone": {
			PackageDocs, map[string]string{"e2e/tools/x/go.mod": "module x\n", "e2e/tools/x/a.go": "package x\n"}, "",
		},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			findings := c.rule(load(t, c.files))
			if c.want == "" {
				must.SliceEmpty(t, findings)
				return
			}
			must.Len(t, 1, findings)
			must.StrContains(t, findings[0].String(), c.want)
		})
	}
}

func TestLinks(t *testing.T) {
	t.Parallel()
	heading := "# The `gate`, and Nomad's API\n\n## Twice\n\n## Twice\n\n```\n# a comment\n```\n"
	cases := map[string]struct {
		text, want string // want is part of the only finding; "" means none
	}{
		"to a file beside it":                 {"see [b](b.md)", ""},
		"to a file elsewhere":                 {"see [licence](../LICENSE) and [docs](../docs)", ""},
		"to a heading":                        {"see [b](b.md#the-gate-and-nomads-api)", ""},
		"to a heading that comes again":       {"see [b](b.md#twice-1)", ""},
		"to a heading of its own":             {"# Here it is\n\nsee [above](#here-it-is)", ""},
		"to another site":                     {"see [site](https://example.com/x#y)", ""},
		"in code":                             {"`[x](none.md)`\n```\n[x](none.md)\n```", ""},
		"to nothing":                          {"see [none](none.md)", `docs/a.md:1: the link "none.md" leads to no file`},
		"to no heading":                       {"\nsee [b](b.md#thrice)", `docs/a.md:2: the link "b.md#thrice" leads to no heading of docs/b.md`},
		"to a comment in code":                {"see [b](b.md#a-comment)", "leads to no heading"},
		"to a heading of what has none":       {"see [licence](../LICENSE#terms)", "leads to no heading"},
		"the second of two links in one line": {"[b](b.md) and [c](c.md)", `the link "c.md"`},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			findings := Links(load(t, map[string]string{"docs/a.md": c.text, "docs/b.md": heading, "LICENSE": "MPL"}))
			if c.want == "" {
				must.SliceEmpty(t, findings)
				return
			}
			must.Len(t, 1, findings)
			must.StrContains(t, findings[0].String(), c.want)
		})
	}
}

func TestChangelogForm(t *testing.T) {
	t.Parallel()
	const good = "## UNRELEASED\n\nFEATURES:\n\n* **device**: Reads topology.\n* quotaagent/gate: **Budgets**: Decides.\n\nBUG FIXES:\n\n* hcl: Fixed a bug where it\n  was broken.\n\n## 0.1.0 (November 23, 2026)\n\nNOTES:\n\n* build: First.\n"
	cases := map[string]struct{ text, want string }{
		"a changelog in form has no findings":    {good, ""},
		"a heading needs a date":                 {"## 0.1.0\n", "a heading is"},
		"sections have an order":                 {"## UNRELEASED\n\nNOTES:\n\n* hcl: A.\n\nFEATURES:\n\n* hcl: B.\n", "out of order"},
		"a section is not empty":                 {"## UNRELEASED\n\nFEATURES:\n\nNOTES:\n\n* hcl: A.\n", "FEATURES: above is empty"},
		"the last section is not empty":          {"## UNRELEASED\n\nFEATURES:\n", "FEATURES: above is empty"},
		"entries are sorted":                     {"## UNRELEASED\n\nNOTES:\n\n* hcl: A.\n* device: B.\n", "sorted by component"},
		"a component is a folder":                {"## UNRELEASED\n\nNOTES:\n\n* kernel: A.\n", `"kernel" is no folder`},
		"an entry names its component":           {"## UNRELEASED\n\nNOTES:\n\n* Something changed\n", "an entry stands"},
		"an entry stands in a section":           {"## UNRELEASED\n\n* hcl: A.\n", "an entry stands"},
		"anything else is a finding":             {"## UNRELEASED\n\nhello\n", "neither a release"},
		"a section belongs to a release":         {"NOTES:\n\n* hcl: A.\n", "before the first release"},
		"a repository without one has a finding": {"-", "is missing"},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			files := map[string]string{
				"CHANGELOG.md": c.text, "hcl/a.hcl": "", "device/a.hcl": "", "quotaagent/gate/a.hcl": "",
			}
			if c.text == "-" {
				delete(files, "CHANGELOG.md")
			}
			findings := Changelog(load(t, files))
			if c.want == "" {
				must.SliceEmpty(t, findings)
				return
			}
			must.Len(t, 1, findings)
			must.StrContains(t, findings[0].String(), c.want)
		})
	}
}
