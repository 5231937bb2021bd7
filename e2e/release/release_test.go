package release

import (
	"archive/tar"
	"compress/gzip"
	"errors"
	"io"
	"os"
	"path/filepath"
	"regexp"
	"runtime"
	"testing"
	"time"

	"github.com/shoenig/test/must"

	"github.com/nomad-governor/governor/e2e/toolchain"
	"github.com/nomad-governor/governor/internal/version"
)

// sources is a directory as a checkout of somebody has it.
func sources(t *testing.T, mode os.FileMode, at time.Time) string {
	t.Helper()
	root := t.TempDir()
	for name, text := range map[string]string{"governor": "program", "LICENSE": "MPL", "jobs/acl/b.hcl": "b", "jobs/acl/a.hcl": "a"} {
		file := filepath.Join(root, filepath.FromSlash(name))
		must.NoError(t, os.MkdirAll(filepath.Dir(file), 0o755))
		must.NoError(t, os.WriteFile(file, []byte(text), mode))
		must.NoError(t, os.Chtimes(file, at, at))
	}
	return root
}

func packed(t *testing.T, root string, at time.Time) []byte {
	t.Helper()
	files := map[string]string{"governor": filepath.Join(root, "governor")}
	must.NoError(t, collect(files, root, "LICENSE"))
	must.NoError(t, collect(files, root, "jobs/acl"))
	target := filepath.Join(t.TempDir(), "out.tar.gz")
	must.NoError(t, writeArchive(target, files, "governor", at))
	content, err := os.ReadFile(target)
	must.NoError(t, err)
	return content
}

func TestArchivesOfTheSameSourcesAreTheSame(t *testing.T) {
	t.Parallel()
	at := time.Unix(1_800_000_000, 0)
	first := packed(t, sources(t, 0o600, time.Unix(1, 0)), at)
	must.Eq(t, first, packed(t, sources(t, 0o755, time.Unix(2, 0)), at))
	must.NotEq(t, first, packed(t, sources(t, 0o600, time.Unix(1, 0)), at.Add(time.Second)), must.Sprint("the time is in them"))
}

func TestAnArchiveHasTheProgramAndWhatIsBeside(t *testing.T) {
	t.Parallel()
	at := time.Unix(1_800_000_000, 0)
	target := filepath.Join(t.TempDir(), "out.tar.gz")
	must.NoError(t, os.WriteFile(target, packed(t, sources(t, 0o777, time.Unix(1, 0)), at), 0o600))
	file, err := os.Open(target)
	must.NoError(t, err)
	defer file.Close()
	unzipped, err := gzip.NewReader(file)
	must.NoError(t, err)
	reader, modes := tar.NewReader(unzipped), map[string]int64{}
	var order []string
	for {
		header, err := reader.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		must.NoError(t, err)
		must.True(t, header.ModTime.Equal(at))
		must.Eq(t, "", header.Uname)
		order, modes[header.Name] = append(order, header.Name), header.Mode
	}
	must.Eq(t, []string{"LICENSE", "acl/a.hcl", "acl/b.hcl", "governor"}, order)
	must.Eq(t, map[string]int64{"LICENSE": 0o644, "acl/a.hcl": 0o644, "acl/b.hcl": 0o644, "governor": 0o755}, modes)
}

func TestADirectoryWithOtherFilesIsNotEmptied(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	kept := filepath.Join(dir, "thesis.txt")
	must.NoError(t, os.WriteFile(kept, nil, 0o600))
	must.ErrorContains(t, Options{Dir: dir}.prepare(), "is no release: name another directory, or remove it")
	must.FileExists(t, kept)
	must.NoError(t, os.WriteFile(filepath.Join(dir, sumsName), nil, 0o600))
	must.NoError(t, Options{Dir: dir}.prepare())
	must.FileNotExists(t, kept, must.Sprint("the release before goes"))
}

// What the packages take from the repository is there, and each program has one.
func TestPackagesTakeFilesThatExist(t *testing.T) {
	t.Parallel()
	root, err := toolchain.Root()
	must.NoError(t, err)
	for _, p := range programs() {
		text, err := os.ReadFile(filepath.Join(root, "jobs", "packages", p.name+".yaml"))
		must.NoError(t, err)
		must.StrContains(t, string(text), "name: "+p.name+"\n")
		taken := regexp.MustCompile(`(?m)(?:src|install|remove): (jobs/\S+|hcl/\S+|LICENSE)$`).FindAllStringSubmatch(string(text), -1)
		must.Greater(t, 1, len(taken))
		for _, path := range taken {
			found, err := filepath.Glob(filepath.Join(root, path[1]))
			must.NoError(t, err)
			must.SliceNotEmpty(t, found, must.Sprint(path[1]))
		}
		must.StrNotContains(t, string(text), "type: tree", must.Sprint("whose files keep the times that they have on this machine"))
		for _, path := range p.beside {
			_, err := os.Stat(filepath.Join(root, path))
			must.NoError(t, err)
		}
	}
}

func TestNamesSayWhatTheyAre(t *testing.T) {
	t.Parallel()
	must.Eq(t, "governor_"+version.String()+"_linux_"+runtime.GOARCH, Name("governor", runtime.GOARCH))
}
