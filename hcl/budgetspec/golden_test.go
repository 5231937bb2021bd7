package budgetspec_test

import (
	"bytes"
	"flag"
	"maps"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/hashicorp/hcl/v2"
	"github.com/nomad-governor/governor/hcl/budgetspec"
	"github.com/shoenig/test/must"
)

var update = flag.Bool("update", false, "write the golden files instead of comparing")

// modules returns the test modules of a directory by name: single files and
// directories of files.
func modules(t testing.TB, dir string) map[string][]budgetspec.File {
	t.Helper()
	found := map[string][]budgetspec.File{}
	for _, pattern := range []string{"*.hcl", "*/*.hcl"} {
		paths, err := filepath.Glob(filepath.Join(dir, pattern))
		must.NoError(t, err)
		for _, path := range paths {
			content, err := os.ReadFile(path)
			must.NoError(t, err)
			name := strings.TrimSuffix(filepath.Base(path), ".hcl")
			if pattern == "*/*.hcl" {
				name = filepath.Base(filepath.Dir(path))
			}
			found[name] = append(found[name], budgetspec.File{Name: filepath.Base(path), Content: content})
		}
	}
	must.MapNotEmpty(t, found)
	return found
}

func golden(t *testing.T, path, got string) {
	t.Helper()
	if *update {
		must.NoError(t, os.WriteFile(path, []byte(got), 0o600))
		return
	}
	want, err := os.ReadFile(path)
	must.NoError(t, err)
	must.Eq(t, string(want), got)
}

func render(t testing.TB, files []budgetspec.File, diags hcl.Diagnostics) string {
	t.Helper()
	var out bytes.Buffer
	must.NoError(t, budgetspec.Render(&out, files, diags, false))
	return out.String()
}

func TestEveryMistakeIsExplained(t *testing.T) {
	t.Parallel()
	for name, files := range modules(t, "testdata/bad") {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			policy, diags := budgetspec.Parse(files)
			must.Nil(t, policy)
			must.True(t, diags.HasErrors())
			golden(t, filepath.Join("testdata/bad", name+".golden"), render(t, files, diags))
		})
	}
}

func TestDoubtfulPoliciesAreAcceptedWithWarnings(t *testing.T) {
	t.Parallel()
	for name, files := range modules(t, "testdata/warn") {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			policy, diags := budgetspec.Parse(files)
			must.NotNil(t, policy)
			must.SliceNotEmpty(t, diags)
			golden(t, filepath.Join("testdata/warn", name+".golden"), render(t, files, diags))
		})
	}
}

func TestGoodPoliciesAreDecoded(t *testing.T) {
	t.Parallel()
	good := modules(t, "testdata/good")
	maps.Copy(good, modules(t, "../examples/acme"))
	for name, files := range good {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			policy, diags := budgetspec.Parse(files)
			must.Eq(t, "", render(t, files, diags))
			golden(t, filepath.Join("testdata/good", name+".golden"), dump(policy))
		})
	}
}

func TestExamplesParseWithoutWarnings(t *testing.T) {
	t.Parallel()
	for _, dir := range []string{"../examples", "../examples/acme"} {
		paths, err := filepath.Glob(dir + "/*.hcl")
		must.NoError(t, err)
		must.SliceNotEmpty(t, paths)
		var files []budgetspec.File
		for _, path := range paths {
			content, err := os.ReadFile(path)
			must.NoError(t, err)
			files = append(files, budgetspec.File{Name: filepath.Base(path), Content: content})
			formatted, diags := budgetspec.Format(path, content)
			must.False(t, diags.HasErrors())
			if dir == "../examples" { // the other one lines up its comments by hand
				must.Eq(t, string(content), string(formatted), must.Sprintf("%s is not formatted", path))
			}
		}
		policy, diags := budgetspec.Parse(files)
		must.Eq(t, "", render(t, files, diags))
		must.NotNil(t, policy)
	}
}
