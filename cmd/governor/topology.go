package main

import (
	"context"
	"fmt"
	"io"
	"strings"

	"github.com/nomad-governor/governor/quotaagent/api"
	"github.com/nomad-governor/governor/scheduler/clustermap"
)

// topology answers the map. Who has a GPU is told to those who may read the job.
func (p *placer) topology(ctx context.Context, c api.Call) (any, error) {
	reads, _, err := c.Reads()
	if err != nil {
		return nil, err
	}
	m, err := p.clusterMap(ctx)
	if reads != nil {
		m.Hide(func(namespace string) bool { return !reads(namespace) }, api.HiddenJob)
	}
	return m, err
}

// clusterMap is the map of the cluster, with what is promised to jobs.
func (p *placer) clusterMap(ctx context.Context) (clustermap.Map, error) {
	snapshot, err := p.state.Snapshot(ctx, planAge)
	if err != nil {
		return clustermap.Map{}, fmt.Errorf("read cluster: %w", err)
	}
	return clustermap.Of(p.spared.Mark(snapshot, "", "", p.now()), p.sets), nil
}

func topologyCommand(env environment) command {
	return command{synopsis: "Show GPUs, how they are connected, and who has them", help: `Usage: governor topology [options] [<node>]

  Shows all nodes with GPUs: which GPUs are free, by NVLink island, and the
  best set of each size that is free now: its ring bandwidth in GB/s, and that
  of the best set of an idle node where that is more. Then for how many
  allocations of each size there is room. With the name or the beginning of
  the id of a node: its GPUs with who has them, and what connects each pair.

      $ governor topology
      $ governor topology gpu-node-1

  -json            Print the agent's answer as JSON.` + clientHelp,
		run: func(args []string) int {
			fs := flags("topology")
			c := clientFlags(env, fs)
			asJSON := fs.Bool("json", false, "")
			if !parse(env, fs, args, 0, 1) {
				return 1
			}
			var m clustermap.Map
			raw, err := fetch(c, "/governor/v1/topology", &m)
			if err != nil {
				return env.fail(err)
			}
			if *asJSON && fs.NArg() == 0 {
				_, _ = env.stdout.Write(append(raw, '\n'))
				return 0
			}
			if fs.NArg() == 0 {
				printTopology(env.stdout, m)
				return 0
			}
			n, err := findNode(m, fs.Arg(0))
			if err != nil {
				return env.fail(err)
			}
			if *asJSON {
				printJSON(env.stdout, n)
				return 0
			}
			printNode(env.stdout, n)
			return 0
		}}
}

// findNode finds a node by its name or the beginning of its id.
func findNode(m clustermap.Map, text string) (clustermap.Node, error) {
	var names []string
	var found []clustermap.Node
	for _, n := range m.Nodes {
		if n.Name == text || n.ID == text {
			return n, nil
		}
		if strings.HasPrefix(n.ID, text) {
			found = append(found, n)
		}
		names = append(names, n.Name)
	}
	switch {
	case len(found) == 1:
		return found[0], nil
	case len(found) > 1:
		return clustermap.Node{}, fmt.Errorf("%q is the beginning of the ids of %d nodes: write more of it", text, len(found))
	case len(names) == 0:
		return clustermap.Node{}, fmt.Errorf("there is no node %q: no node has GPUs", text)
	}
	return clustermap.Node{}, fmt.Errorf("there is no node %q with GPUs: the names are %s", text, strings.Join(names, ", "))
}

// stateMarks are the characters that stand for a GPU.
var stateMarks = map[clustermap.State]string{clustermap.Free: ".", clustermap.Held: "#", clustermap.Freeing: "~", clustermap.Reserved: "+", clustermap.Unhealthy: "x"}

func printTopology(w io.Writer, m clustermap.Map) {
	if len(m.Nodes) == 0 {
		fmt.Fprintln(w, "No node has GPUs.")
		printWarnings(w, m.Warnings)
		return
	}
	t := newTable("NODE", "POOL", "DEVICE", ">FREE", "MAP", "BEST FREE SETS (GB/s)")
	for _, n := range m.Nodes {
		name := n.Name
		if !n.Ready {
			name += " (not ready)"
		}
		for i, g := range n.Groups {
			pool := n.Pool
			if i > 0 {
				name, pool = "", ""
			}
			t.row(name, pool, g.Device, fmt.Sprintf("%d/%d", g.Free, len(g.GPUs)), drawing(g), bestText(g))
		}
	}
	t.write(w)
	fmt.Fprint(w, "\nmap: . free   # held   ~ freeing   + promised   x unhealthy; a gap is between NVLink islands\n\n")
	room := newTable("DEVICE", ">FREE", "ROOM NOW FOR ALLOCATIONS OF")
	for _, r := range m.Room {
		var sizes []string
		for _, f := range r.Fits {
			sizes = append(sizes, fmt.Sprintf("%d GPUs: %d", f.GPUs, f.Allocations))
		}
		room.row(r.Device, fmt.Sprintf("%d/%d", r.Free, r.Total), strings.Replace(strings.Join(sizes, "   "), "1 GPUs:", "1 GPU:", 1))
	}
	room.write(w)
	printWarnings(w, m.Warnings)
}

func printWarnings(w io.Writer, warnings []string) {
	for _, warning := range warnings {
		fmt.Fprintln(w, "warning: "+warning)
	}
}

// drawing is a character for each GPU, island by island.
func drawing(g clustermap.Group) string {
	var b strings.Builder
	alone := false
	draw := func(members []int) {
		for _, i := range members {
			b.WriteString(stateMarks[g.GPUs[i].State])
		}
	}
	if g.Islands == nil {
		for i := range g.GPUs {
			draw([]int{i})
		}
		return b.String()
	}
	for at, island := range g.Islands {
		if at > 0 && (len(island) > 1 || !alone) {
			b.WriteString(" ") // GPUs without NVLink stand together
		}
		alone = len(island) == 1
		draw(island)
	}
	return b.String()
}

// bestText is the best set of each size that is free.
func bestText(g clustermap.Group) string {
	var sizes []string
	for _, s := range g.Sets {
		text := fmt.Sprintf("%d: %s", s.GPUs, gigabytes(s.RingMBps))
		if s.IdealMBps > s.RingMBps {
			text += " of " + gigabytes(s.IdealMBps)
		}
		sizes = append(sizes, text)
	}
	return strings.Join(sizes, "   ")
}

// gigabytes writes MB/s as GB/s.
func gigabytes(mbps int) string { return fmt.Sprintf("%d", (mbps+500)/1000) }

func printNode(w io.Writer, n clustermap.Node) {
	state := "ready"
	if !n.Ready {
		state = "not ready"
	}
	fmt.Fprintf(w, "%s  %s  node pool %s, datacenter %s  %s\n", n.Name, n.ID, n.Pool, n.Datacenter, state)
	for _, g := range n.Groups {
		fmt.Fprintf(w, "\n%s: %d of %d free\n", g.Device, g.Free, len(g.GPUs))
		t := newTable(">GPU", "STATE", "JOB", "ALLOCATION", ">NUMA", "PCI ADDRESS", "ID")
		for _, d := range g.GPUs {
			job, alloc, numa := "", "", ""
			switch {
			case d.Namespace == "": // nobody's, or of a job that may not be read
				job = d.JobID
			case d.Alloc != "":
				job, alloc = fmt.Sprintf("%s/%s.%s", d.Namespace, d.JobID, d.Group), fmt.Sprintf("%.8s", d.Alloc)
			}
			if d.NUMANode >= 0 {
				numa = fmt.Sprint(d.NUMANode)
			}
			t.row(fmt.Sprint(d.Index), string(d.State), job, alloc, numa, d.PCIBusID, d.ID)
		}
		t.write(w)
		printLinks(w, g)
	}
}

// printLinks prints what connects each pair, and the best free sets.
func printLinks(w io.Writer, g clustermap.Group) {
	if g.Links == nil {
		fmt.Fprintln(w, "\n  The node publishes no topology of these.")
		return
	}
	titles := []string{">GPU"}
	for i := range g.Links {
		titles = append(titles, fmt.Sprint(i))
	}
	for nic := range g.NICs {
		titles = append(titles, fmt.Sprintf("NIC%d", nic))
	}
	t := newTable(titles...)
	for i, row := range g.Links {
		row = append([]string{fmt.Sprint(i)}, row...)
		for _, nic := range g.NICs {
			row = append(row, nic.Paths[i])
		}
		t.row(row...)
	}
	fmt.Fprintln(w)
	t.write(w)
	if len(g.Sets) == 0 {
		return
	}
	fmt.Fprintln(w)
	titles = []string{">BEST FREE", "GPUS", ">GB/s", ">OF AN IDLE NODE"}
	if len(g.NICs) > 0 {
		titles = append(titles, ">NETWORK GB/s A GPU", "NICS AT")
	}
	sets := newTable(titles...)
	for _, s := range g.Sets {
		row := []string{fmt.Sprint(s.GPUs), strings.Trim(strings.ReplaceAll(fmt.Sprint(s.Indexes), " ", ","), "[]"), gigabytes(s.RingMBps), gigabytes(s.IdealMBps)}
		if len(g.NICs) > 0 {
			row = append(row, gigabytes(s.NetworkMBps), s.NICPath)
		}
		sets.row(row...)
	}
	sets.write(w)
}
