package release

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
)

// Check makes a release that is there a second time, from a copy of the sources at
// another path and with an empty build cache, and wants the same bytes.
func Check(ctx context.Context, o Options) error {
	first, err := os.ReadFile(filepath.Join(o.Dir, sumsName))
	if err != nil {
		return fmt.Errorf("read the release to compare with: %w: make it first", err)
	}
	elsewhere, err := os.MkdirTemp("", "governor-elsewhere-")
	if err != nil {
		return fmt.Errorf("make a second place: %w", err)
	}
	defer os.RemoveAll(elsewhere)
	second := o
	second.Root, second.Dir = filepath.Join(elsewhere, "a", "longer", "path"), filepath.Join(elsewhere, "release")
	if err := copySources(ctx, o.Root, second.Root); err != nil {
		return err
	}
	if err := os.Setenv("GOCACHE", filepath.Join(elsewhere, "cache")); err != nil {
		return err
	}
	if err := Build(ctx, second); err != nil {
		return err
	}
	again, err := os.ReadFile(filepath.Join(second.Dir, sumsName))
	if err != nil {
		return fmt.Errorf("read the second release: %w", err)
	}
	if !bytes.Equal(first, again) {
		return fmt.Errorf("the two releases differ\nfirst:\n%ssecond:\n%s", first, again)
	}
	fmt.Fprintf(o.Progress, "==> Two builds gave the same %d files\n", bytes.Count(first, []byte("\n")))
	return nil
}

// copySources copies what git knows of, and what is new and not ignored.
func copySources(ctx context.Context, from, to string) error {
	cmd := exec.CommandContext(ctx, "git", "-C", from, "ls-files", "-z", "--cached", "--others", "--exclude-standard")
	listed, err := cmd.Output()
	if err != nil {
		return fmt.Errorf("list the sources: %w", err)
	}
	for name := range bytes.SplitSeq(bytes.TrimSuffix(listed, []byte{0}), []byte{0}) {
		source, target := filepath.Join(from, string(name)), filepath.Join(to, string(name))
		content, err := os.ReadFile(source)
		if err != nil {
			return fmt.Errorf("copy the sources: %w", err)
		}
		if err := os.MkdirAll(filepath.Dir(target), 0o755); err != nil {
			return fmt.Errorf("copy the sources: %w", err)
		}
		if err := os.WriteFile(target, content, 0o644); err != nil {
			return fmt.Errorf("copy the sources: %w", err)
		}
	}
	return nil
}
