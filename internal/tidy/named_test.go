package tidy

import (
	"fmt"
	"go/ast"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/shoenig/test/must"
)

// liteLLM are the issues of LiteLLM, and a bypass by its page, that each have a test
// here: defects that a budget system easily has.
var liteLLM = []string{"34732", "34733", "27639", "28247", "30460", "36926", "6288", "26672", "9658", "UIBypass"}

// traps is how many known traps there are; each has a test TestTrap<n>..., in the
// package that could fall into it.
const traps = 18

// invariants is how many invariants the ledger has; each has TestInvariantI<n>_....
const invariants = 10

// TestEveryTrapDefectAndInvariantHasATest finds the tests by their names.
func TestEveryTrapDefectAndInvariantHasATest(t *testing.T) {
	t.Parallel()
	repo, err := Load(os.DirFS("../.."))
	must.NoError(t, err)
	var names []string
	for _, p := range repo.Packages {
		for _, f := range p.Files {
			for _, d := range f.Tree.Decls {
				if fn, ok := d.(*ast.FuncDecl); ok && f.Test && fn.Recv == nil && strings.HasPrefix(fn.Name.Name, "Test") {
					names = append(names, fn.Name.Name)
				}
			}
		}
	}
	must.Greater(t, 100, len(names), must.Sprint("the tests were not found"))
	want := func(pattern string) {
		found := slices.ContainsFunc(names, regexp.MustCompile("^"+pattern).MatchString)
		must.True(t, found, must.Sprintf("no test is named %s...", pattern))
	}
	for n := range traps {
		want(fmt.Sprintf("TestTrap%d[A-Z_]", n+1))
	}
	for n := range invariants {
		want(fmt.Sprintf("TestInvariantI%d_", n+1))
	}
	for _, issue := range liteLLM {
		want("TestLiteLLM" + issue)
	}
}

// Trap 16: Nomad's root module is under the BUSL licence; its api is not. What the
// agent is made of may import no more of Nomad than that, not even through others.
func TestTrap16TheAgentUsesOnlyTheAPIOfNomad(t *testing.T) {
	t.Parallel()
	repo, err := Load(os.DirFS("../.."))
	must.NoError(t, err)
	packages := map[string]*Package{}
	for _, p := range repo.Packages {
		packages[Module+"/"+p.Path] = p
	}
	seen := map[string]bool{}
	var visit func(path, by string)
	visit = func(path, by string) {
		if strings.HasPrefix(path, "github.com/hashicorp/nomad") {
			must.True(t, path == "github.com/hashicorp/nomad/api" || strings.HasPrefix(path, "github.com/hashicorp/nomad/api/"),
				must.Sprintf("%s imports %s, which is not under an open licence", by, path))
		}
		p := packages[path]
		if p == nil || seen[path] {
			return
		}
		seen[path] = true
		for _, f := range p.Files {
			if f.Test {
				continue
			}
			for _, i := range f.Tree.Imports {
				visit(strings.Trim(i.Path.Value, `"`), path)
			}
		}
	}
	visit(Module+"/cmd/governor", "")
	must.Greater(t, 20, len(seen), must.Sprint("the agent's packages were not found"))
	must.True(t, seen[Module+"/quotaagent/agent"])
}
