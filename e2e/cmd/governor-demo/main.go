// Command governor-demo shows Governor on real servers: `demo` plays the whole
// story and leaves nothing running; `up` starts the same stack in the
// background for trying, and `down` stops exactly that.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"

	"github.com/nomad-governor/governor/e2e/cluster"
	"github.com/nomad-governor/governor/e2e/story"
	"github.com/nomad-governor/governor/e2e/toolchain"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	os.Exit(run(ctx, os.Args[1:], os.Stdout, os.Stderr))
}

// run is the whole program. Exit codes: 0 all as expected, 1 not, 2 usage.
func run(ctx context.Context, args []string, stdout, stderr io.Writer) int {
	commands := map[string]func(context.Context, io.Writer) error{"demo": demo, "up": up, "down": down}
	if len(args) != 1 || commands[args[0]] == nil {
		fmt.Fprintln(stderr, "usage: governor-demo demo|up|down")
		return 2
	}
	if err := commands[args[0]](ctx, stdout); err != nil {
		fmt.Fprintf(stderr, "governor-demo %s: %v\n", args[0], err)
		return 1
	}
	return 0
}

// errDifferences is the demo's own failure: what it was is printed already.
var errDifferences = errors.New("not everything was as expected, see DIFF above")

// demo plays the story. A step that differs does not end it.
func demo(ctx context.Context, out io.Writer) (err error) {
	root, err := toolchain.Root()
	if err != nil {
		return err
	}
	printer := story.NewPrinter(out)
	c, err := cluster.Start(ctx, options(printer))
	if err != nil {
		return err
	}
	// Also when interrupted: Close does not use ctx.
	defer func() {
		printer.Note("stopping everything")
		err = errors.Join(err, c.Close())
	}()
	scene := story.NewScene(c, printer, filepath.Join(root, "e2e", "_out", "pictures"))
	for _, step := range story.Steps() {
		_ = scene.Play(ctx, step) // told by the printer, counted by its summary
		if ctx.Err() != nil {
			return errors.New("interrupted")
		}
	}
	if printer.Summary() {
		return nil
	}
	logs := filepath.Join(root, "e2e", "_out", "failed", "demo")
	if err := c.SaveLogs(logs); err == nil {
		printer.Note("all logs: %s", logs)
	}
	return errDifferences
}

func options(printer *story.Printer) cluster.Options {
	opts := cluster.Default()
	opts.Progress = printer.Note
	return opts
}

// stateFile is where up leaves what down needs.
func stateFile(root string) string { return filepath.Join(root, "e2e", "_out", "up", "state.json") }

// up starts the stack, applies the example budgets, and leaves it running.
func up(ctx context.Context, out io.Writer) error {
	root, err := toolchain.Root()
	if err != nil {
		return err
	}
	if state, err := readState(stateFile(root)); err == nil {
		return fmt.Errorf("a stack is up already (NOMAD_ADDR=%s): use it, or stop it with `make down`", state.GovernorAddr)
	}
	printer := story.NewPrinter(out)
	c, err := cluster.Start(ctx, options(printer))
	if err != nil {
		return err
	}
	if err := prepare(ctx, c, root); err != nil {
		return errors.Join(err, c.Close())
	}
	state, err := c.Detach()
	if err != nil {
		return errors.Join(err, c.Close())
	}
	if err := writeState(stateFile(root), state); err != nil {
		return errors.Join(err, cluster.StopDetached(state))
	}
	fmt.Fprint(out, welcome(c))
	return nil
}

// prepare applies the example budgets.
func prepare(ctx context.Context, c *cluster.Cluster, root string) error {
	result, err := c.GovernorCLI(ctx, "budget", "apply", "-auto-approve", filepath.Join(root, "hcl", "examples"))
	if err != nil {
		return err
	}
	if result.ExitCode != 0 {
		return fmt.Errorf("apply the example budgets: %s", result.Output())
	}
	return nil
}

// welcome says how to use the stack.
func welcome(c *cluster.Cluster) string {
	nomad := "nomad"
	if path, _, err := toolchain.Find(context.Background(), toolchain.Nomad()); err == nil {
		nomad = path
	}
	return fmt.Sprintf(`
The stack is up: Consul, Nomad with two GPU clients, and the governor agent in
front. The example budgets are applied.

  export NOMAD_ADDR=%[1]s
  export GOVERNOR_ADDR=%[1]s

Web UI: %[1]s/ui/

Three commands to try:

  %[2]s node status -verbose
  %[2]s job run -detach jobs/examples/pair.nomad.hcl
  bin/governor budget status

Logs are in %[3]s/logs. Stop it all with: make down
`, c.GovernorAddr, nomad, c.Dir)
}

// down stops what up started: exactly those processes, known by their ids and
// start times, and what carries their marker.
func down(_ context.Context, out io.Writer) error {
	root, err := toolchain.Root()
	if err != nil {
		return err
	}
	path := stateFile(root)
	state, err := readState(path)
	if errors.Is(err, os.ErrNotExist) {
		fmt.Fprintln(out, "Nothing is up.")
		return nil
	}
	if err != nil {
		return err
	}
	for _, p := range state.Processes {
		if !p.Running() {
			fmt.Fprintf(out, "%s (pid %d) has ended already\n", p.Name, p.PID)
		}
	}
	if err := cluster.StopDetached(state); err != nil {
		return err
	}
	fmt.Fprintf(out, "Stopped %d processes and removed %s.\n", len(state.Processes), state.Dir)
	return os.Remove(path)
}

func readState(path string) (cluster.State, error) {
	var state cluster.State
	text, err := os.ReadFile(path)
	if err != nil {
		return state, fmt.Errorf("read the state of the stack: %w", err)
	}
	if err := json.Unmarshal(text, &state); err != nil {
		return state, fmt.Errorf("decode %s: %w", path, err)
	}
	return state, nil
}

func writeState(path string, state cluster.State) error {
	text, err := json.MarshalIndent(state, "", "  ")
	if err != nil {
		return fmt.Errorf("encode the state of the stack: %w", err)
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return fmt.Errorf("make the folder of the state: %w", err)
	}
	// The state may hold a management token.
	if err := os.WriteFile(path, append(text, '\n'), 0o600); err != nil {
		return fmt.Errorf("write the state of the stack: %w", err)
	}
	return nil
}
