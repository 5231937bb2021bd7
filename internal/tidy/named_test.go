package tidy

import (
	"os"
	"strings"
	"testing"

	"github.com/shoenig/test/must"
)

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
