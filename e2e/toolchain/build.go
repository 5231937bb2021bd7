package toolchain

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync/atomic"
	"syscall"
	"time"
)

// progressEvery is how often a running build says how far it is.
const progressEvery = 10 * time.Second

// build compiles t from its pinned module into the cache. The binary appears
// under its final name only when complete, so an interrupted build leaves
// nothing that Find would take for a server, and a lock lets several callers
// ask for the same binary at once while only one builds it.
func build(ctx context.Context, t Tool, out io.Writer) (string, error) {
	root, err := Root()
	if err != nil {
		return "", err
	}
	cache, err := CacheDir()
	if err != nil {
		return "", err
	}
	if err := os.MkdirAll(cache, 0o755); err != nil {
		return "", fmt.Errorf("make the tools cache: %w", err)
	}
	unlock, err := lock(filepath.Join(cache, t.Name+".lock"), func() {
		fmt.Fprintf(out, "==> %s: waiting for another build to finish\n", t.Name)
	})
	if err != nil {
		return "", err
	}
	defer unlock()
	if path, _, err := Find(ctx, t); err == nil {
		return path, nil
	}

	name, err := cacheName(t, root)
	if err != nil {
		return "", err
	}
	final := filepath.Join(cache, name)
	partial := final + ".partial"
	defer os.Remove(partial)
	if err := compile(ctx, t, filepath.Join(root, "e2e", "tools", t.Name), partial, out); err != nil {
		return "", fmt.Errorf("build %s %s: %w", t.Name, t.Version, err)
	}
	found, err := version(ctx, partial)
	if err != nil {
		return "", fmt.Errorf("check the built %s: %w", t.Name, err)
	}
	if found != t.Version {
		return "", fmt.Errorf("check the built %s: it says that it is %q, not %q", t.Name, found, t.Version)
	}
	if err := os.Rename(partial, final); err != nil {
		return "", fmt.Errorf("move %s into the cache: %w", t.Name, err)
	}
	return final, nil
}

// compile runs go build in the pinning module and reports progress.
// -mod=readonly makes go.sum binding: a module whose hash differs fails.
func compile(ctx context.Context, t Tool, dir, target string, out io.Writer) error {
	fmt.Fprintf(out, "==> %s %s: downloading its modules (checked against go.sum)\n", t.Name, t.Version)
	total, err := countPackages(ctx, t, dir)
	if err != nil {
		return err
	}
	fmt.Fprintf(out, "==> %s %s: compiling up to %d packages; several minutes the first time, then cached\n",
		t.Name, t.Version, total)

	args := append([]string{"build", "-v", "-mod=readonly", "-trimpath", "-o", target}, t.Flags...)
	cmd := exec.CommandContext(ctx, "go", append(args, t.Package)...)
	cmd.Dir, cmd.Env = dir, buildEnv()
	stderr, err := cmd.StderrPipe()
	if err != nil {
		return fmt.Errorf("read the build's output: %w", err)
	}
	started := time.Now()
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("start go build: %w", err)
	}
	var built atomic.Int64
	stop := make(chan struct{})
	stopped := make(chan struct{})
	go func() {
		defer close(stopped)
		ticker := time.NewTicker(progressEvery)
		defer ticker.Stop()
		for {
			select {
			case <-stop:
				return
			case <-ticker.C:
				fmt.Fprintf(out, "    %s: %d of at most %d packages compiled, %s\n",
					t.Name, built.Load(), total, time.Since(started).Round(time.Second))
			}
		}
	}()
	complaints := readBuildOutput(stderr, &built)
	err = cmd.Wait()
	close(stop)
	<-stopped
	if err != nil {
		return fmt.Errorf("%w\n%s", err, strings.Join(complaints, "\n"))
	}
	fmt.Fprintf(out, "==> %s %s: built in %s\n", t.Name, t.Version, time.Since(started).Round(time.Second))
	return nil
}

// complaintLines bounds how much of a failed build's output is kept.
const complaintLines = 60

// readBuildOutput counts the package names that go build -v prints and
// returns the last lines that are not one.
func readBuildOutput(r io.Reader, built *atomic.Int64) []string {
	var complaints []string
	lines := bufio.NewScanner(r)
	for lines.Scan() {
		line := lines.Text()
		if line != "" && !strings.ContainsAny(line, " \t:") {
			built.Add(1)
			continue
		}
		complaints = append(complaints, line)
		if len(complaints) > complaintLines {
			complaints = complaints[1:]
		}
	}
	return complaints
}

// countPackages lists what the binary is made of; it also downloads all modules.
func countPackages(ctx context.Context, t Tool, dir string) (int, error) {
	args := append([]string{"list", "-deps", "-mod=readonly"}, t.Flags...)
	cmd := exec.CommandContext(ctx, "go", append(args, t.Package)...)
	cmd.Dir, cmd.Env = dir, buildEnv()
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	listed, err := cmd.Output()
	if err != nil {
		return 0, fmt.Errorf("list the packages of %s: %w\n%s", t.Package, err, stderr.String())
	}
	return bytes.Count(listed, []byte("\n")), nil
}

// buildEnv is the environment without settings that would change what is built.
func buildEnv() []string {
	env := []string{"GOWORK=off", "GOFLAGS="}
	for _, pair := range os.Environ() {
		if !strings.HasPrefix(pair, "GOFLAGS=") && !strings.HasPrefix(pair, "GOWORK=") {
			env = append(env, pair)
		}
	}
	return env
}

// lock takes an exclusive lock on a file, calling waiting first when somebody
// else has it. The kernel drops the lock when its holder dies.
func lock(path string, waiting func()) (unlock func(), err error) {
	file, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR, 0o644)
	if err != nil {
		return nil, fmt.Errorf("open the lock %s: %w", path, err)
	}
	fd := int(file.Fd())
	if err := syscall.Flock(fd, syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		waiting()
		if err := syscall.Flock(fd, syscall.LOCK_EX); err != nil {
			file.Close()
			return nil, fmt.Errorf("take the lock %s: %w", path, err)
		}
	}
	return func() { file.Close() }, nil
}
