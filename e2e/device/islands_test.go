package device_test

import (
	"errors"
	"fmt"
	"maps"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/shoenig/test/must"

	"github.com/nomad-governor/governor/e2e/cluster"
	"github.com/nomad-governor/governor/internal/gpu"
)

// islandsGPU is the beginning of the names of the groups of the client whose
// GPUs are grouped.
const islandsGPU = "nvidia/gpu/NVIDIA A40"

// numaIslands: with topology_groups = "numa" one ask is served from one NUMA
// node, and a GPU keeps its group whatever the configuration says later.
func numaIslands(t *testing.T, n *nodes) {
	client := n.Client(islandsClient)
	f := fixtureOf(t, client)
	islands := map[string][]string{}
	for i, g := range f.GPUs {
		name := fmt.Sprintf("%s-numa%d", islandsGPU, g.Numbers["numa_node"])
		islands[name] = append(islands[name], f.UUID(islandsClient, i))
	}
	grouped := n.wait(t, islandsClient, "has its groups", exactly(map[string]int{islandsGPU + "-numa0": 4, islandsGPU + "-numa1": 4}))
	must.Eq(t, islands, grouped.members())
	for name := range islands {
		must.Eq(t, name, islandsGPU+"-"+grouped.attributes(name)[gpu.AttrTopologyGroup])
	}

	for i := range 4 {
		a := n.run(t, job{id: fmt.Sprintf("four-%d", i), client: islandsClient, devices: gpus(4)})
		must.NotEq(t, "", islandOf(islands, cluster.Devices(a)), must.Sprint("of two NUMA nodes: ", cluster.Devices(a)))
		must.NoError(t, n.StopJob(t.Context(), a.JobID))
	}
	n.register(t, job{id: "five", client: islandsClient, devices: gpus(5)})
	why := n.blocked(t, "five")
	must.SliceContains(t, reasons(why), noneFree, must.Sprintf("%+v", why))
	must.NoError(t, n.StopJob(t.Context(), "five"))

	first := n.run(t, job{id: "first-island", client: islandsClient, devices: gpus(4)})
	groupsStay(t, n, grouped)
	n.untouched(t, first)
	second := n.run(t, job{id: "second-island", client: islandsClient, devices: gpus(4)})
	held := []string{islandOf(islands, cluster.Devices(first)), islandOf(islands, cluster.Devices(second))}
	slices.Sort(held)
	must.Eq(t, []string{islandsGPU + "-numa0", islandsGPU + "-numa1"}, held, must.Sprint("no GPU is handed out twice"))
}

// islandOf is the island that all devices are of, or "".
func islandOf(islands map[string][]string, ids []string) string {
	for name, members := range islands {
		if !slices.ContainsFunc(ids, func(id string) bool { return !slices.Contains(members, id) }) {
			return name
		}
	}
	return ""
}

// groupsStay starts the client with the groups switched off.
func groupsStay(t *testing.T, n *nodes, before state) {
	t.Helper()
	client := n.Client(islandsClient)
	must.NoError(t, client.ConfigurePlugin("topology_groups = \"off\"\n"))
	restartAgent(t, n, client)
	n.logged(t, client, "topology_groups is not in force", "in_force=numa", "topology_groups=off", "drain the node, remove the file and restart the client")
	// What Nomad is told next comes from the new plugin.
	must.NoError(t, client.Control.RowRemap(0, true, false))
	n.wait(t, islandsClient, "shows what is new", degraded("row_remap_pending", before.ids()[0]))
	for _, s := range n.history(islandsClient, 0) {
		must.True(t, len(s.devices) == 0 || maps.EqualFunc(before.members(), s.members(), slices.Equal), must.Sprint(s.members()))
	}
}

// logged waits until a line of a client's log contains all of the parts.
func (n *nodes) logged(t *testing.T, client *cluster.Client, parts ...string) {
	t.Helper()
	must.NoError(t, cluster.Poll(t.Context(), fmt.Sprintf("wait until %s logs %q", client.Name, parts), func() error {
		if lines := logLines(client, parts...); len(lines) == 0 {
			return errors.New("it has not")
		}
		return nil
	}))
}

// logLines are the lines of a client's log that contain all of the parts.
func logLines(client *cluster.Client, parts ...string) []string {
	text, err := os.ReadFile(client.LogPath)
	if err != nil {
		return nil
	}
	var found []string
	for line := range strings.Lines(string(text)) {
		if !slices.ContainsFunc(parts, func(part string) bool { return !strings.Contains(line, part) }) {
			found = append(found, line)
		}
	}
	return found
}
