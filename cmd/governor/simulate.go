package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"

	"github.com/nomad-governor/governor/scheduler/clustermap"
	"github.com/nomad-governor/governor/scheduler/simulate"
)

// traceMax bounds the files that a simulation reads, in bytes.
const traceMax = 1 << 30

func simulateCommand(env environment) command {
	return command{synopsis: "Replay a trace of jobs on a cluster as it might be", help: `Usage: governor simulate [options] <trace.csv>

  Replays the jobs of a trace on the cluster as it is, or as it might be: with
  more nodes, without some, under another policy, with limits. Says how long
  jobs would wait, how much of the GPUs would be used, how many would be idle
  while jobs wait, and how well connected the GPUs of each job would be. Changes
  nothing. The same input gives the same output, bit for bit.

  The trace is CSV. Its first line names the columns: submit_time, duration,
  gpus, and optionally count, class, cpu, memory, budget; docs/simulate.md
  explains them.

      $ governor simulate -add=4xdgx-h100 jobs.csv
      $ governor simulate -nodes=64xdgx-h100 -compare=policy=nomad jobs.csv
      $ governor simulate -compare="drain=gpu-7 drain=gpu-8" -plot=a.svg jobs.csv

  -nodes=<n>x<type>  A cluster of machine types, instead of the live one:
                     -nodes=8xdgx-h100,4xpcie-l40s-4. Types:
                     ` + wrapped(simulate.Machines(), 21, 78) + `.
  -topology=<file>   A cluster that "governor topology -json" has printed,
                     instead of the live one.
  -held              GPUs that are held now stay so. Without it the trace has
                     the whole cluster.
  -add=<n>x<type>    More nodes, of a machine type or of one of the GPUs of the
                     cluster. Can be given several times.
  -drain=<node>      Without this node. Can be given several times.
  -policy=<name>     ` + wrapped(simulate.Policies(), 21, 78) + `. Default:
                     governor.
  -backfill=<n>      How many of the waiting jobs are looked at: 1 lets nobody
                     overtake. Default: 50.
  -limit=<b>=<n>     GPUs that the jobs of a budget, and of those below it, have
                     at once: -limit=acme/research=64. Can be given several
                     times.
  -compare=<changes> A second run beside the first, with these options changed:
                     policy, backfill, nodes, add, drain, limit, as name=value,
                     several with spaces. Can be given several times.
  -plot=<file>       Draw utilisation and queue over time into an SVG file.
  -json              Print the results as JSON.` + clientHelp,
		run: func(args []string) int { return runSimulate(env, args) }}
}

// wrapped joins names with commas in lines that end before a column.
func wrapped(names []string, indent, until int) string {
	var b strings.Builder
	column := indent
	for i, name := range names {
		if i > 0 {
			b.WriteString(",")
			if column += len(name) + 2; column > until {
				b.WriteString("\n" + strings.Repeat(" ", indent))
				column = indent + len(name)
			} else {
				b.WriteString(" ")
			}
		} else {
			column += len(name)
		}
		b.WriteString(name)
	}
	return b.String()
}

// scenario is one run: what it is called, its cluster, and its options.
type scenario struct {
	name    string
	cluster simulate.Cluster
	options simulate.Options
}

// list is a flag that can be given several times.
type list []string

// String implements flag.Value.
func (l *list) String() string { return strings.Join(*l, " ") }

// Set implements flag.Value.
func (l *list) Set(text string) error {
	*l = append(*l, text)
	return nil
}

func runSimulate(env environment, args []string) int {
	fs := flags("simulate")
	c := clientFlags(env, fs)
	nodes, topology, held := fs.String("nodes", "", ""), fs.String("topology", "", ""), fs.Bool("held", false, "")
	policy, backfill := fs.String("policy", "", ""), fs.String("backfill", "", "")
	plot, asJSON := fs.String("plot", "", ""), fs.Bool("json", false, "")
	var add, drain, limits, compare list
	fs.Var(&add, "add", "")
	fs.Var(&drain, "drain", "")
	fs.Var(&limits, "limit", "")
	fs.Var(&compare, "compare", "")
	if !parse(env, fs, args, 1, 1) {
		return 1
	}
	base := scenario{}
	var err error
	if base.cluster, err = clusterOf(c, *nodes, *topology, *held); err != nil {
		return env.fail(err)
	}
	var changes []change
	for _, of := range []struct {
		name   string
		values list
	}{{"add", add}, {"drain", drain}, {"limit", limits}, {"policy", one(*policy)}, {"backfill", one(*backfill)}} {
		for _, value := range of.values {
			changes = append(changes, change{of.name, value})
		}
	}
	if base, err = base.with(changes); err != nil {
		return env.fail(err)
	}
	scenarios := []scenario{base}
	for _, text := range compare {
		changes, err := changesOf(text)
		if err != nil {
			return env.fail(err)
		}
		next, err := base.with(changes)
		if err != nil {
			return env.fail(fmt.Errorf("-compare=%q: %w", text, err))
		}
		next.name = text
		scenarios = append(scenarios, next)
	}
	return simulateAll(env, fs.Arg(0), scenarios, *plot, *asJSON)
}

func one(text string) list {
	if text == "" {
		return nil
	}
	return list{text}
}

// clusterOf is the cluster that the options name.
func clusterOf(c *client, nodes, file string, held bool) (simulate.Cluster, error) {
	var cluster simulate.Cluster
	switch {
	case nodes != "" && (file != "" || held):
		return cluster, errors.New("-nodes is a cluster of its own: leave out -topology and -held")
	case nodes != "":
		return cluster, cluster.Grow(nodes)
	}
	var m clustermap.Map
	if file == "" {
		if _, err := fetch(c, "/governor/v1/topology", &m); err != nil {
			return cluster, fmt.Errorf("%w; a simulation needs no agent with -nodes or -topology", err)
		}
	} else {
		content, err := readBounded(file)
		if err != nil {
			return cluster, fmt.Errorf("read topology: %w", err)
		}
		if err := json.Unmarshal(content, &m); err != nil {
			return cluster, fmt.Errorf("%s is not what governor topology -json prints: %w", file, err)
		}
	}
	return simulate.OfMap(m, held)
}

func readBounded(file string) ([]byte, error) {
	info, err := os.Stat(file)
	if err == nil && info.Size() > traceMax {
		err = fmt.Errorf("%s has more than %d bytes, the most that is read", file, traceMax)
	}
	if err != nil {
		return nil, err
	}
	return os.ReadFile(file)
}

// change is one option that a scenario has beside those of another.
type change struct{ name, value string }

// changesOf reads name=value, several with spaces.
func changesOf(text string) ([]change, error) {
	var out []change
	for _, field := range strings.Fields(text) {
		name, value, ok := strings.Cut(field, "=")
		if known := []string{"policy", "backfill", "nodes", "add", "drain", "limit"}; !ok || value == "" || !slices.Contains(known, name) {
			return nil, fmt.Errorf("-compare=%q: %q is not name=value with one of the names %s", text, field, strings.Join(known, ", "))
		}
		out = append(out, change{name, value})
	}
	if len(out) == 0 {
		return nil, errors.New("-compare names nothing that changes: write it like -compare=policy=nomad")
	}
	return out, nil
}

// with is the scenario with changes; nodes come before what is added and drained.
func (s scenario) with(changes []change) (scenario, error) {
	s.cluster, s.options.Limits = s.cluster.Clone(), slices.Clone(s.options.Limits)
	for _, c := range changes {
		if c.name == "nodes" {
			s.cluster = simulate.Cluster{}
			if err := s.cluster.Grow(c.value); err != nil {
				return s, err
			}
		}
	}
	for _, c := range changes {
		var err error
		switch c.name {
		case "add":
			err = s.cluster.Grow(c.value)
		case "drain":
			err = s.cluster.Drain(c.value)
		case "policy":
			s.options.Policy = c.value
		case "backfill":
			if s.options.Backfill, err = strconv.Atoi(c.value); err != nil || s.options.Backfill < 1 {
				err = fmt.Errorf("backfill is %q: it must be a number of jobs, at least 1", c.value)
			}
		case "limit":
			err = s.limit(c.value)
		}
		if err != nil {
			return s, err
		}
	}
	return s, nil
}

// limit reads budget=gpus; it replaces the one that the budget has.
func (s *scenario) limit(text string) error {
	at := strings.LastIndexByte(text, '=')
	if at < 1 {
		return fmt.Errorf("the limit %q is not <budget>=<GPUs>", text)
	}
	l := simulate.Limit{Budget: text[:at]}
	var err error
	if l.GPUs, err = strconv.Atoi(text[at+1:]); err != nil || l.GPUs < 0 {
		return fmt.Errorf("the limit %q is not <budget>=<GPUs>", text)
	}
	s.options.Limits = slices.DeleteFunc(s.options.Limits, func(have simulate.Limit) bool { return have.Budget == l.Budget })
	s.options.Limits = append(s.options.Limits, l)
	return nil
}

// simulateAll runs the scenarios one after the other and prints the results.
func simulateAll(env environment, file string, scenarios []scenario, plot string, asJSON bool) int {
	if len(scenarios) > simulate.PlotsMax {
		return env.fail(fmt.Errorf("%d runs cannot be shown beside each other: at most %d", len(scenarios), simulate.PlotsMax))
	}
	content, err := readBounded(file)
	if err != nil {
		return env.fail(fmt.Errorf("read trace: %w", err))
	}
	trace, err := simulate.ParseTrace(file, content)
	if err != nil {
		return env.fail(err)
	}
	if len(trace.Jobs) == 0 {
		return env.fail(fmt.Errorf("%s has no jobs with whole GPUs", file))
	}
	results := make([]simulate.Result, 0, len(scenarios))
	for i := range scenarios {
		if scenarios[i].name == "" {
			scenarios[i].name = nameOf(scenarios[i].options)
		}
		scenarios[i].options.Progress = progress(env, scenarios[i].name)
		r, err := simulate.Run(scenarios[i].cluster, trace.Jobs, scenarios[i].options)
		clearProgress(env)
		if err != nil {
			return env.fail(err)
		}
		r.Name = scenarios[i].name
		results = append(results, r)
	}
	if plot != "" {
		if err := os.WriteFile(plot, simulate.Plot(results), 0o644); err != nil {
			return env.fail(fmt.Errorf("write picture: %w", err))
		}
	}
	if asJSON {
		printJSON(env.stdout, results)
		return 0
	}
	printSimulation(env.stdout, file, trace, scenarios[0].cluster.LeftOut, results)
	return 0
}

func nameOf(o simulate.Options) string {
	if o.Policy == "" {
		return "policy=" + simulate.Governor
	}
	return "policy=" + o.Policy
}

// progress writes to a terminal how far a run is, once for each percent.
func progress(env environment, name string) func(done, total int) {
	if !isTerminal(env.stderr) {
		return nil
	}
	last := -1
	return func(done, total int) {
		if percent := done * 100 / max(1, total); percent > last {
			last = percent
			fmt.Fprintf(env.stderr, "\r\x1b[K%s: %d %%", name, percent)
		}
	}
}

func clearProgress(env environment) {
	if isTerminal(env.stderr) {
		fmt.Fprint(env.stderr, "\r\x1b[K")
	}
}
