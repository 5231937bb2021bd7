package toolchain

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"time"
)

// ErrMissing is returned, wrapped, when a tool was not found and may be built.
var ErrMissing = errors.New("not found")

// modulePath is the first line of the go.mod that marks the repository's root.
const modulePath = "module github.com/nomad-governor/governor"

// Tool is one pinned program: what it is called, and how it is built.
type Tool struct {
	Name    string   // the command's name and its folder in e2e/tools, "nomad"
	Version string   // the pinned version, "1.11.3"
	Package string   // the Go package of its main
	EnvVar  string   // the variable that overrides it, "NOMAD_BIN"
	Flags   []string // further flags for go build
	// Sources are the files of a program of our own, in its folder. A cached
	// binary is one of just these sources. None for a program of others.
	Sources []string
}

// Nomad is the pinned Nomad, with its web UI embedded. It needs cgo: the exec
// driver enters namespaces through libcontainer's C code.
func Nomad() Tool {
	return Tool{
		Name: "nomad", Version: "1.11.3", EnvVar: "NOMAD_BIN",
		Package: "github.com/hashicorp/nomad", Flags: []string{"-tags", "ui"},
	}
}

// Consul is the pinned Consul.
func Consul() Tool {
	return Tool{
		Name: "consul", Version: "1.22.5", EnvVar: "CONSUL_BIN",
		Package: "github.com/hashicorp/consul",
	}
}

// Linter is the pinned golangci-lint, which only `make check` needs.
func Linter() Tool {
	return Tool{
		Name: "golangci-lint", Version: "2.15.0", EnvVar: "GOLANGCI_LINT_BIN",
		Package: "github.com/golangci/golangci-lint/v2/cmd/golangci-lint",
	}
}

// NVCDI is a program of our own around NVIDIA's generator of CDI specifications,
// with which device/inject is compared. Its version is that of the generator.
func NVCDI() Tool {
	return Tool{
		Name: "nvcdi", Version: "1.20.1", EnvVar: "NVCDI_BIN",
		Package: "github.com/nomad-governor/governor/e2e/tools/nvcdi",
		Sources: []string{"go.mod", "go.sum", "main.go", "nvml.go"},
	}
}

// NFPM is a program of our own around the library that makes packages, which only
// `make release` needs. Its version is that of the library.
func NFPM() Tool {
	return Tool{
		Name: "nfpm", Version: "2.47.0", EnvVar: "NFPM_BIN",
		Package: "github.com/nomad-governor/governor/e2e/tools/nfpm",
		Sources: []string{"go.mod", "go.sum", "main.go"},
	}
}

// Servers lists the servers that the end-to-end tests and the demo need, in
// the order in which they are built.
func Servers() []Tool { return []Tool{Consul(), Nomad()} }

// Tools lists everything that is pinned.
func Tools() []Tool { return append(Servers(), Linter(), NVCDI(), NFPM()) }

// cacheName is the name of t's binary in the cache.
func cacheName(t Tool, root string) (string, error) {
	name := t.Name + "-" + t.Version
	if len(t.Sources) == 0 {
		return name, nil
	}
	digest := sha256.New()
	for _, source := range t.Sources {
		text, err := os.ReadFile(filepath.Join(root, "e2e", "tools", t.Name, source))
		if err != nil {
			return "", fmt.Errorf("read the sources of %s: %w", t.Name, err)
		}
		fmt.Fprintf(digest, "%s %d\n%s", source, len(text), text)
	}
	return fmt.Sprintf("%s-%x", name, digest.Sum(nil)[:6]), nil
}

// Root returns the repository's root: the nearest directory at or above the
// working directory whose go.mod declares this module.
func Root() (string, error) {
	dir, err := os.Getwd()
	if err != nil {
		return "", fmt.Errorf("find the working directory: %w", err)
	}
	for {
		text, err := os.ReadFile(filepath.Join(dir, "go.mod"))
		if err == nil && strings.HasPrefix(string(text), modulePath+"\n") {
			return dir, nil
		}
		parent := filepath.Dir(dir)
		if parent == dir {
			return "", errors.New("no go.mod of github.com/nomad-governor/governor at or above the working directory: run this inside the repository")
		}
		dir = parent
	}
}

// CacheDir is where built servers are kept: GOVERNOR_CACHE, or
// governor-tools in the user's cache directory. `make clean` leaves it alone.
func CacheDir() (string, error) {
	if dir := os.Getenv("GOVERNOR_CACHE"); dir != "" {
		return filepath.Abs(dir)
	}
	base, err := os.UserCacheDir()
	if err != nil {
		return "", fmt.Errorf("find a cache directory (set GOVERNOR_CACHE to choose one): %w", err)
	}
	return filepath.Join(base, "governor-tools"), nil
}

// Find returns the path of a usable binary of t and a phrase that says where
// it came from. The error wraps ErrMissing when Ensure could build it.
func Find(ctx context.Context, t Tool) (path, origin string, err error) {
	if given := os.Getenv(t.EnvVar); given != "" {
		found, err := version(ctx, given)
		if err != nil {
			return "", "", fmt.Errorf("use %s=%s: %w", t.EnvVar, given, err)
		}
		path, err = filepath.Abs(given)
		return path, fmt.Sprintf("%s (%s)", t.EnvVar, found), err
	}
	if inPath, err := exec.LookPath(t.Name); err == nil && len(t.Sources) == 0 {
		found, err := version(ctx, inPath)
		if err == nil && Suitable(t.Version, found) {
			return inPath, fmt.Sprintf("PATH (%s)", found), nil
		}
	}
	cache, err := CacheDir()
	if err != nil {
		return "", "", err
	}
	root := ""
	if len(t.Sources) > 0 { // only they are in the repository
		if root, err = Root(); err != nil {
			return "", "", err
		}
	}
	name, err := cacheName(t, root)
	if err != nil {
		return "", "", err
	}
	cached := filepath.Join(cache, name)
	if found, err := version(ctx, cached); err == nil && found == t.Version {
		return cached, fmt.Sprintf("cache (%s)", found), nil
	}
	return "", "", fmt.Errorf("%s %s: %w: run `make tools`, or set %s", t.Name, t.Version, ErrMissing, t.EnvVar)
}

// Suitable reports whether version found can stand in for the pinned one: the
// same minor series, and no older patch release.
func Suitable(pinned, found string) bool {
	p, okPinned := parse(pinned)
	f, okFound := parse(found)
	return okPinned && okFound && p[0] == f[0] && p[1] == f[1] && f[2] >= p[2]
}

// parse reads "1.11.3"; a pre-release such as "1.11.3-dev" is not ok, because
// its order among releases says nothing about what it contains.
func parse(text string) (parts [3]int, ok bool) {
	fields := strings.Split(text, ".")
	if len(fields) != len(parts) {
		return parts, false
	}
	for i, field := range fields {
		n, err := strconv.Atoi(field)
		if err != nil || n < 0 {
			return parts, false
		}
		parts[i] = n
	}
	return parts, true
}

// versionLine matches the first line that the tools print: "Nomad v1.11.3",
// "Consul v1.22.5", "nvcdi v1.20.1", "nfpm v2.47.0", "golangci-lint has version 2.15.0 built with ...".
var versionLine = regexp.MustCompile(`^(?:Nomad v|Consul v|nvcdi v|nfpm v|golangci-lint has version v?)(\S+)`)

// versionTimeout bounds asking a binary for its version.
const versionTimeout = 20 * time.Second

// version asks a binary for its version.
func version(ctx context.Context, path string) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, versionTimeout)
	defer cancel()
	out, err := exec.CommandContext(ctx, path, "version").Output()
	if err != nil {
		return "", fmt.Errorf("ask %s for its version: %w", path, err)
	}
	match := versionLine.FindSubmatch(out)
	if match == nil {
		return "", fmt.Errorf("%s is not one of our tools: `version` printed %q", path, firstLine(out))
	}
	return string(match[1]), nil
}

func firstLine(text []byte) string {
	line, _, _ := strings.Cut(string(text), "\n")
	return line
}

// Ensure returns a usable binary of t, building it into the cache when there
// is none. Progress goes to out, a line every few seconds.
func Ensure(ctx context.Context, t Tool, out io.Writer) (string, error) {
	path, origin, err := Find(ctx, t)
	if err == nil {
		fmt.Fprintf(out, "==> %s: %s, from %s\n", t.Name, path, origin)
		return path, nil
	}
	if !errors.Is(err, ErrMissing) {
		return "", err
	}
	return build(ctx, t, out)
}
