// Command governor-release makes a release into a directory. The time of its files
// is SOURCE_DATE_EPOCH, or that of the latest commit.
//
//	governor-release bin/release           archives, packages and SHA256SUMS
//	governor-release -check bin/release    makes it a second time, elsewhere and from
//	                                       nothing, and compares
package main

import (
	"context"
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/nomad-governor/governor/e2e/release"
	"github.com/nomad-governor/governor/e2e/toolchain"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, os.Args[1:], os.Stderr); err != nil {
		fmt.Fprintf(os.Stderr, "governor-release: %v\n", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, args []string, stderr io.Writer) error {
	fs := flag.NewFlagSet("governor-release", flag.ContinueOnError)
	fs.SetOutput(stderr)
	check := fs.Bool("check", false, "make it a second time and compare")
	if err := fs.Parse(args); err != nil {
		return err
	}
	if fs.NArg() != 1 {
		return fmt.Errorf("name the directory of the release, for example bin/release")
	}
	root, err := toolchain.Root()
	if err != nil {
		return err
	}
	at, err := releaseTime(ctx, root)
	if err != nil {
		return err
	}
	options := release.Options{Root: root, Dir: fs.Arg(0), Time: at, Packages: true, Progress: stderr}
	if *check {
		return release.Check(ctx, options)
	}
	return release.Build(ctx, options)
}

// releaseTime is SOURCE_DATE_EPOCH, or the time of the latest commit.
func releaseTime(ctx context.Context, root string) (time.Time, error) {
	text := os.Getenv("SOURCE_DATE_EPOCH")
	if text == "" {
		out, err := exec.CommandContext(ctx, "git", "-C", root, "log", "-1", "--format=%ct").Output()
		if err != nil {
			return time.Time{}, fmt.Errorf("ask git for the time of the latest commit (set SOURCE_DATE_EPOCH where there is no git): %w", err)
		}
		text = strings.TrimSpace(string(out))
	}
	seconds, err := strconv.ParseInt(text, 10, 64)
	if err != nil {
		return time.Time{}, fmt.Errorf("SOURCE_DATE_EPOCH is %q; it must be seconds since 1970", text)
	}
	return time.Unix(seconds, 0), nil
}
