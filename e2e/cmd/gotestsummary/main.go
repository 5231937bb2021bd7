// Command gotestsummary runs `go test` with the given arguments and prints
// what a person wants to read: one line a package, the slow tests as they end,
// the whole output of what failed, and the totals.
package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"slices"
	"strings"
	"syscall"
	"time"
)

// slowTest is from when on a test that passed gets a line of its own.
const slowTest = 2 * time.Second

// interruptGrace is how long an interrupted go test may clean up.
const interruptGrace = 2 * time.Minute

// maxLine bounds one line of a test's output.
const maxLine = 4 << 20

// event is one line of go test -json (go doc test2json).
type event struct {
	Action  string
	Package string
	Test    string
	Output  string
	Elapsed float64 // seconds
	// ImportPath is set instead of Package in the output of a failed build.
	ImportPath  string
	FailedBuild string
}

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	os.Exit(run(ctx, os.Args[1:], os.Stdout, os.Stderr))
}

// run runs go test and returns its exit status.
func run(ctx context.Context, args []string, stdout, stderr io.Writer) int {
	cmd := exec.CommandContext(ctx, "go", append([]string{"test", "-json"}, args...)...)
	cmd.Stderr = stderr
	// An interrupt is passed on, so that tests can stop their servers.
	cmd.Cancel = func() error { return cmd.Process.Signal(os.Interrupt) }
	cmd.WaitDelay = interruptGrace
	pipe, err := cmd.StdoutPipe()
	if err != nil {
		fmt.Fprintf(stderr, "gotestsummary: %v\n", err)
		return 1
	}
	if err := cmd.Start(); err != nil {
		fmt.Fprintf(stderr, "gotestsummary: start go test: %v\n", err)
		return 1
	}
	s := newSummary(stdout)
	s.read(pipe)
	err = cmd.Wait()
	s.finish()
	if err != nil || s.failed > 0 || s.failedPackages > 0 {
		return 1
	}
	return 0
}

// summary prints events as they come and counts them.
type summary struct {
	out                     io.Writer
	passed, failed, skipped int
	failedPackages          int
	tests                   map[string]int      // tests passed, by package
	output                  map[string][]string // by package and test, until it ends
	failures                []string            // names of what failed
}

func newSummary(out io.Writer) *summary {
	return &summary{out: out, tests: map[string]int{}, output: map[string][]string{}}
}

// read handles every line until the end of go test's output. A line that is
// not an event is printed as it is: go writes such lines when a build fails.
func (s *summary) read(r io.Reader) {
	lines := bufio.NewScanner(r)
	lines.Buffer(make([]byte, 0, 64<<10), maxLine)
	for lines.Scan() {
		var e event
		if !bytes.HasPrefix(lines.Bytes(), []byte("{")) || json.Unmarshal(lines.Bytes(), &e) != nil {
			fmt.Fprintln(s.out, lines.Text())
			continue
		}
		s.handle(e)
	}
	if err := lines.Err(); err != nil {
		fmt.Fprintf(s.out, "gotestsummary: read go test's output: %v\n", err)
		s.failedPackages++
	}
}

func (s *summary) handle(e event) {
	key := e.Package + "\n" + e.Test
	switch e.Action {
	case "output":
		s.output[key] = append(s.output[key], e.Output)
	case "build-output":
		fmt.Fprint(s.out, e.Output)
	case "pass", "fail", "skip":
		if e.Test == "" {
			s.endPackage(e, s.output[key])
		} else {
			s.endTest(e, s.output[key])
		}
		delete(s.output, key)
	}
}

// endTest counts one test; subtests count like tests.
func (s *summary) endTest(e event, output []string) {
	elapsed := time.Duration(e.Elapsed * float64(time.Second)).Round(100 * time.Millisecond)
	switch e.Action {
	case "pass":
		s.passed++
		s.tests[e.Package]++
		if elapsed >= slowTest {
			fmt.Fprintf(s.out, "     %s (%s)\n", e.Test, elapsed)
		}
	case "skip":
		s.skipped++
		fmt.Fprintf(s.out, "skip %s %s\n%s", short(e.Package), e.Test, strings.Join(output, ""))
	case "fail":
		s.failed++
		s.failures = append(s.failures, short(e.Package)+" "+e.Test)
		fmt.Fprintf(s.out, "FAIL %s %s\n%s", short(e.Package), e.Test, strings.Join(output, ""))
	}
}

func (s *summary) endPackage(e event, output []string) {
	elapsed := time.Duration(e.Elapsed * float64(time.Second)).Round(10 * time.Millisecond)
	switch e.Action {
	case "pass":
		fmt.Fprintf(s.out, "ok   %s: %d tests, %s\n", short(e.Package), s.tests[e.Package], elapsed)
	case "fail":
		s.failedPackages++
		s.failures = append(s.failures, short(e.Package))
		fmt.Fprintf(s.out, "FAIL %s\n%s", short(e.Package), strings.Join(output, ""))
		// What a test printed before it was cut off, by a panic or a time limit.
		for _, key := range s.unfinished(e.Package) {
			fmt.Fprintf(s.out, "unfinished: %s\n%s", strings.TrimPrefix(key, e.Package+"\n"), strings.Join(s.output[key], ""))
			delete(s.output, key)
		}
	}
}

// unfinished lists the keys of the package's tests that never ended.
func (s *summary) unfinished(pkg string) []string {
	var keys []string
	for key := range s.output {
		if strings.HasPrefix(key, pkg+"\n") && key != pkg+"\n" {
			keys = append(keys, key)
		}
	}
	slices.Sort(keys)
	return keys
}

// finish prints the totals; the last line has a form that tools can read.
func (s *summary) finish() {
	if len(s.failures) > 0 {
		fmt.Fprintf(s.out, "\nFailed:\n  %s\n", strings.Join(s.failures, "\n  "))
	}
	fmt.Fprintf(s.out, "\n%d passed, %d failed, %d skipped\n", s.passed, max(s.failed, s.failedPackages), s.skipped)
}

// short drops the module's path from a package's.
func short(pkg string) string {
	return strings.TrimPrefix(pkg, "github.com/nomad-governor/governor/")
}
