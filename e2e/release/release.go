package release

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"time"

	"github.com/nomad-governor/governor/e2e/toolchain"
	"github.com/nomad-governor/governor/internal/version"
)

// Options say what is made, and where.
type Options struct {
	// Root is the repository, Dir where the files of the release go. What is in Dir
	// before is removed.
	Root, Dir string
	// Time is the time of all files in archives and packages.
	Time time.Time
	// Packages makes packages too; else there are archives only.
	Packages bool
	// Progress is told what is being made.
	Progress io.Writer
}

// program is one of ours, as it is released.
type program struct {
	name string
	// cgo programs need a C compiler for their processor.
	cgo   bool
	flags []string
	// beside lists the files that an archive has besides the program.
	beside []string
}

func programs() []program {
	return []program{
		{name: "governor", beside: []string{"LICENSE", "CHANGELOG.md", "jobs/governor.nomad.hcl", "jobs/acl", "jobs/systemd", "hcl/examples"}},
		{name: "nomad-device-gpu", cgo: true, flags: []string{"-extldflags", `"-Wl,-z,lazy"`}, beside: []string{"LICENSE", "CHANGELOG.md", "jobs/packages/nomad-device-gpu.hcl"}},
	}
}

// compilers are the C compilers by processor, where they are not the machine's own.
func compilers() map[string]string {
	return map[string]string{"amd64": "x86_64-linux-gnu-gcc", "arm64": "aarch64-linux-gnu-gcc"}
}

// Name is what a release's file of a program is called, without its ending.
func Name(program, arch string) string {
	return fmt.Sprintf("%s_%s_linux_%s", program, version.String(), arch)
}

// Build makes a release. A program that needs a C compiler which is not there is left
// out for that processor, and that is said.
func Build(ctx context.Context, o Options) error {
	if err := o.prepare(); err != nil {
		return err
	}
	work, err := os.MkdirTemp("", "governor-release-")
	if err != nil {
		return fmt.Errorf("make a directory for the programs: %w", err)
	}
	defer os.RemoveAll(work)
	var nfpm string
	if o.Packages {
		if nfpm, err = toolchain.Ensure(ctx, toolchain.NFPM(), o.Progress); err != nil {
			return err
		}
	}
	for _, p := range programs() {
		for _, arch := range []string{"amd64", "arm64"} {
			built, err := o.compile(ctx, p, arch, work)
			if errors.Is(err, exec.ErrNotFound) {
				fmt.Fprintf(o.Progress, "==> %s for %s is left out: %v\n", p.name, arch, err)
				continue
			}
			if err == nil {
				err = o.archive(p, arch, built)
			}
			if err == nil && o.Packages {
				err = o.packages(ctx, nfpm, p, arch, built)
			}
			if err != nil {
				return fmt.Errorf("release %s for %s: %w", p.name, arch, err)
			}
		}
	}
	return o.sums()
}

// prepare makes Dir empty. What is no release is not removed.
func (o Options) prepare() error {
	entries, err := os.ReadDir(o.Dir)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("look into %s: %w", o.Dir, err)
	}
	known := slices.ContainsFunc(entries, func(e os.DirEntry) bool { return e.Name() == sumsName })
	if len(entries) > 0 && !known {
		return fmt.Errorf("%s has files and no %s, so that it is no release: name another directory, or remove it", o.Dir, sumsName)
	}
	if err := os.RemoveAll(o.Dir); err != nil {
		return fmt.Errorf("empty %s: %w", o.Dir, err)
	}
	if err := os.MkdirAll(o.Dir, 0o755); err != nil {
		return fmt.Errorf("make %s: %w", o.Dir, err)
	}
	// One that breaks off is still known as one.
	if err := os.WriteFile(filepath.Join(o.Dir, sumsName), nil, 0o644); err != nil {
		return fmt.Errorf("begin %s: %w", sumsName, err)
	}
	return nil
}

// compile builds a program and returns its file.
func (o Options) compile(ctx context.Context, p program, arch, work string) (string, error) {
	env := append(os.Environ(), "GOOS=linux", "GOARCH="+arch, "GOFLAGS=", "CGO_ENABLED=0", "GOAMD64=v1", "GOARM64=v8.0")
	if p.cgo {
		compiler := "gcc"
		if arch != runtime.GOARCH {
			compiler = compilers()[arch]
		}
		if _, err := exec.LookPath(compiler); err != nil {
			return "", fmt.Errorf("look for a C compiler: %w", err)
		}
		// go-nvml's header marks functions that it still has to bind as deprecated.
		env = append(env, "CGO_ENABLED=1", "CC="+compiler, "CGO_CFLAGS=-O2 -Wno-deprecated-declarations")
	}
	target := filepath.Join(work, arch, p.name)
	fmt.Fprintf(o.Progress, "==> Building %s for %s\n", p.name, arch)
	cmd := exec.CommandContext(ctx, "go", "build", "-trimpath", "-buildvcs=false", "-mod=readonly",
		"-ldflags", strings.Join(append([]string{"-s", "-w", "-buildid="}, p.flags...), " "), "-o", target, "./cmd/"+p.name)
	cmd.Dir, cmd.Env = o.Root, env
	if out, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("go build: %w\n%s", err, out)
	}
	return target, nil
}

// archive makes the archive of a program.
func (o Options) archive(p program, arch, built string) error {
	files := map[string]string{p.name: built}
	for _, path := range p.beside {
		if err := collect(files, o.Root, path); err != nil {
			return err
		}
	}
	return writeArchive(filepath.Join(o.Dir, Name(p.name, arch)+".tar.gz"), files, p.name, o.Time)
}

// packages makes the packages of a program.
func (o Options) packages(ctx context.Context, nfpm string, p program, arch, built string) error {
	for _, format := range []string{"deb", "rpm"} {
		file := filepath.Join(o.Dir, Name(p.name, arch)+"."+format)
		fmt.Fprintf(o.Progress, "==> Packing %s\n", filepath.Base(file))
		cmd := exec.CommandContext(ctx, nfpm, "package", format, filepath.Join("jobs", "packages", p.name+".yaml"), file)
		cmd.Dir = o.Root
		cmd.Env = append(os.Environ(), "GOARCH="+arch, "VERSION="+version.Version, "PRERELEASE="+version.Prerelease,
			"PROGRAM="+built, fmt.Sprintf("SOURCE_DATE_EPOCH=%d", o.Time.Unix()))
		if out, err := cmd.CombinedOutput(); err != nil {
			return fmt.Errorf("nfpm: %w\n%s", err, out)
		}
	}
	return nil
}

// sums writes SHA256SUMS, as sha256sum -c reads it.
func (o Options) sums() error {
	entries, err := os.ReadDir(o.Dir)
	if err != nil {
		return fmt.Errorf("list the release: %w", err)
	}
	var text strings.Builder
	for _, entry := range entries {
		e := entry.Name()
		if e == sumsName {
			continue
		}
		content, err := os.ReadFile(filepath.Join(o.Dir, e))
		if err != nil {
			return fmt.Errorf("sum up %s: %w", e, err)
		}
		fmt.Fprintf(&text, "%x  %s\n", sha256.Sum256(content), e)
	}
	if err := os.WriteFile(filepath.Join(o.Dir, sumsName), []byte(text.String()), 0o644); err != nil {
		return fmt.Errorf("write %s: %w", sumsName, err)
	}
	return nil
}

// sumsName is the file with the digests of all others.
const sumsName = "SHA256SUMS"
