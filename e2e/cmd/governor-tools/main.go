// Command governor-tools finds or builds the pinned programs of package
// toolchain: `governor-tools servers` for Nomad and Consul, `governor-tools
// linter` for golangci-lint, `governor-tools nvcdi` for the program around
// NVIDIA's generator of CDI specifications. Progress goes to stderr, the paths to stdout.
package main

import (
	"context"
	"fmt"
	"io"
	"os"
	"os/signal"
	"syscall"

	"github.com/nomad-governor/governor/e2e/toolchain"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	os.Exit(run(ctx, os.Args[1:], os.Stdout, os.Stderr))
}

// run ensures the tools that the arguments name and prints their paths.
func run(ctx context.Context, args []string, stdout, stderr io.Writer) int {
	sets := map[string][]toolchain.Tool{
		"servers": toolchain.Servers(),
		"linter":  {toolchain.Linter()},
		"nvcdi":   {toolchain.NVCDI()},
	}
	if len(args) != 1 || sets[args[0]] == nil {
		fmt.Fprintln(stderr, "usage: governor-tools servers|linter|nvcdi")
		return 2
	}
	for _, tool := range sets[args[0]] {
		path, err := toolchain.Ensure(ctx, tool, stderr)
		if err != nil {
			fmt.Fprintf(stderr, "governor-tools: %v\n", err)
			return 1
		}
		fmt.Fprintln(stdout, path)
	}
	return 0
}
