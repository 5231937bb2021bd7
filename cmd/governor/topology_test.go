package main

import (
	"encoding/json"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/shoenig/test/must"

	"github.com/nomad-governor/governor/scheduler/clustermap"
)

// recordedNomad answers with what is recorded of a real one, whose nodes have GPUs.
func recordedNomad(w http.ResponseWriter, r *http.Request) {
	dir := filepath.Join("..", "..", "scheduler", "nomadstate", "testdata")
	name := map[string]string{"/v1/nodes": "nodes.json", "/v1/allocations": "allocations.json"}[r.URL.Path]
	if id, ok := strings.CutPrefix(r.URL.Path, "/v1/node/"); ok {
		var nodes []struct{ ID, Name string }
		if raw, err := os.ReadFile(filepath.Join(dir, "nodes.json")); err == nil && json.Unmarshal(raw, &nodes) == nil {
			for _, n := range nodes {
				if n.ID == id {
					name = "node-" + n.Name + ".json"
				}
			}
		}
	}
	raw, err := os.ReadFile(filepath.Join(dir, name))
	if name == "" || err != nil {
		stubNomad(w, r)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("X-Nomad-Index", "7")
	_, _ = w.Write(raw)
}

func TestGPUsWithoutNVLinkAreDrawnTogether(t *testing.T) {
	t.Parallel()
	g := clustermap.Group{}
	for _, state := range []clustermap.State{clustermap.Free, clustermap.Held, clustermap.Freeing, clustermap.Reserved, clustermap.Unhealthy} {
		g.GPUs = append(g.GPUs, clustermap.GPU{State: state})
	}
	must.Eq(t, ".#~+x", drawing(g))
	g.Islands = [][]int{{0}, {1}, {2}, {3}, {4}}
	must.Eq(t, ".#~+x", drawing(g))
	g.Islands = [][]int{{0, 2}, {1, 3}, {4}}
	must.Eq(t, ".~ #+ x", drawing(g))
}
