package toolchain

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/shoenig/test/must"
)

func TestSuitable(t *testing.T) {
	t.Parallel()
	cases := map[string]struct {
		pinned, found string
		want          bool
	}{
		"the pinned version itself is suitable":      {"1.11.3", "1.11.3", true},
		"a later patch of the series is suitable":    {"1.11.3", "1.11.12", true},
		"an earlier patch is not suitable":           {"1.11.3", "1.11.2", false},
		"another minor series is not suitable":       {"1.11.3", "1.12.3", false},
		"another major series is not suitable":       {"1.11.3", "2.11.3", false},
		"a pre-release is not suitable":              {"1.11.3", "1.11.3-dev", false},
		"an unreadable version is not suitable":      {"1.11.3", "latest", false},
		"a version with two parts is not suitable":   {"1.11.3", "1.11", false},
		"a version with minus signs is not suitable": {"1.11.3", "1.11.-3", false},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			must.Eq(t, c.want, Suitable(c.pinned, c.found))
		})
	}
}

// script writes an executable that prints text when asked for its version.
func script(t *testing.T, dir, name, text string) string {
	t.Helper()
	path := filepath.Join(dir, name)
	body := "#!/bin/sh\necho '" + text + "'\n"
	must.NoError(t, os.WriteFile(path, []byte(body), 0o755))
	return path
}

func TestFindPrefersVariableThenPathThenCache(t *testing.T) {
	cache, path, given := t.TempDir(), t.TempDir(), t.TempDir()
	t.Setenv("GOVERNOR_CACHE", cache)
	t.Setenv("PATH", path+":/bin:/usr/bin")
	t.Setenv("NOMAD_BIN", "")
	nomad := Nomad()

	_, _, err := Find(t.Context(), nomad)
	must.ErrorIs(t, err, ErrMissing)
	must.StrContains(t, err.Error(), "make tools")

	cached := script(t, cache, "nomad-1.11.3", "Nomad v1.11.3")
	found, origin, err := Find(t.Context(), nomad)
	must.NoError(t, err)
	must.Eq(t, cached, found)
	must.StrContains(t, origin, "cache")

	script(t, path, "nomad", "Nomad v1.10.0")
	found, _, err = Find(t.Context(), nomad)
	must.NoError(t, err)
	must.Eq(t, cached, found, must.Sprint("an unsuitable version in PATH must be passed over"))

	inPath := script(t, path, "nomad", "Nomad v1.11.4")
	found, _, err = Find(t.Context(), nomad)
	must.NoError(t, err)
	must.Eq(t, inPath, found)

	override := script(t, given, "my-nomad", "Nomad v2.0.5")
	t.Setenv("NOMAD_BIN", override)
	found, origin, err = Find(t.Context(), nomad)
	must.NoError(t, err)
	must.Eq(t, override, found)
	must.StrContains(t, origin, "2.0.5")
}

func TestFindRefusesAVariableThatIsNoServer(t *testing.T) {
	t.Setenv("NOMAD_BIN", script(t, t.TempDir(), "nomad", "hello"))
	_, _, err := Find(t.Context(), Nomad())
	must.Error(t, err)
	must.StrContains(t, err.Error(), "NOMAD_BIN")
	must.StrContains(t, err.Error(), "not one of our tools")
}

func TestFindIgnoresAHalfBuiltBinary(t *testing.T) {
	cache := t.TempDir()
	t.Setenv("GOVERNOR_CACHE", cache)
	t.Setenv("PATH", t.TempDir())
	t.Setenv("NOMAD_BIN", "")
	must.NoError(t, os.WriteFile(filepath.Join(cache, "nomad-1.11.3"), []byte("half"), 0o755))
	_, _, err := Find(t.Context(), Nomad())
	must.ErrorIs(t, err, ErrMissing)
}

func TestBuildOutputIsSplitIntoPackagesAndComplaints(t *testing.T) {
	t.Parallel()
	var built atomic.Int64
	complaints := readBuildOutput(strings.NewReader(
		"internal/cpu\ngithub.com/hashicorp/nomad/api\nmain.go:3:2: undefined: x\n# note\n"), &built)
	must.Eq(t, 2, built.Load())
	must.Eq(t, []string{"main.go:3:2: undefined: x", "# note"}, complaints)
}

func TestPinnedVersionsMatchTheModules(t *testing.T) {
	t.Parallel()
	root, err := Root()
	must.NoError(t, err)
	for _, tool := range Tools() {
		text, err := os.ReadFile(filepath.Join(root, "e2e", "tools", tool.Name, "go.mod"))
		must.NoError(t, err)
		must.StrContains(t, string(text), "tool "+tool.Package+"\n")
		module := strings.TrimSuffix(tool.Package, "/cmd/"+tool.Name)
		if len(tool.Sources) > 0 {
			module = map[string]string{"nvcdi": "github.com/NVIDIA/nvidia-container-toolkit", "nfpm": "github.com/goreleaser/nfpm/v2"}[tool.Name]
		}
		must.RegexMatch(t, regexp.MustCompile(`(?m)\b`+regexp.QuoteMeta(module+" v"+tool.Version)+`( // indirect)?$`), string(text))
	}
}

func TestAProgramOfOurOwnIsCachedBySource(t *testing.T) {
	cache := t.TempDir()
	t.Setenv("GOVERNOR_CACHE", cache)
	t.Setenv("NVCDI_BIN", "")
	root, err := Root()
	must.NoError(t, err)
	name, err := cacheName(NVCDI(), root)
	must.NoError(t, err)

	_, _, err = Find(t.Context(), NVCDI())
	must.ErrorIs(t, err, ErrMissing)
	script(t, cache, "nvcdi-1.20.1", "nvcdi v1.20.1")
	script(t, cache, "nvcdi-1.20.1-000000000000", "nvcdi v1.20.1")
	_, _, err = Find(t.Context(), NVCDI())
	must.ErrorIs(t, err, ErrMissing, must.Sprint("the binary of other sources is not this one"))
	built := script(t, cache, name, "nvcdi v1.20.1")
	found, _, err := Find(t.Context(), NVCDI())
	must.NoError(t, err)
	must.Eq(t, built, found)

	listed, err := filepath.Glob(filepath.Join(root, "e2e", "tools", "nvcdi", "*"))
	must.NoError(t, err)
	must.Len(t, len(NVCDI().Sources), listed, must.Sprint("every source counts"))
}
