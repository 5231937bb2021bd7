package place_test

import (
	"flag"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/nomad-governor/governor/scheduler/cluster"
	"github.com/nomad-governor/governor/scheduler/place"
	"github.com/shoenig/test/must"
)

var update = flag.Bool("update", false, "write the golden files anew")

func TestExplanationsReadWell(t *testing.T) {
	t.Parallel()
	v1, v2, l40s := node("v1", modelV100, dgx1v(), 0, 3), node("v2", modelV100, dgx1v()), node("l40s", "L40S", l40sx4())
	h100 := node("h1", "H100", dgxh100())
	drained := node("v3", modelV100, dgx1v())
	drained.Ready = false
	busy := node("v4", modelV100, dgx1v(), 0, 1, 2, 3, 4, 5, 6)
	reserved := node("v5", modelV100, dgx1v())
	for i := range reserved.Groups[0].Devices {
		reserved.Groups[0].Devices[i].Reserved = true
	}
	many := jobOf(2)
	many.Groups[0].Count = 3
	stateful := jobOf(2)
	stateful.Loading = map[string]cluster.Loading{"id-v1": {Takes: 112 * time.Second, Text: "weights (140 GiB) is fetched in about 1m52s"},
		"id-v2": {Takes: 28 * time.Second, Text: "weights (140 GiB) is read from disk in about 28s"}, "id-l40s": {Text: "weights (140 GiB) is in its GPUs"}}
	cases := map[string]struct {
		s   cluster.Snapshot
		ask cluster.Ask
	}{
		"pair":        {snapshot(v1, v2, l40s, drained, busy), jobOf(2)},
		"quad":        {snapshot(v2), jobOf(4)},
		"later-jobs":  {snapshot(node("v1", modelV100, dgx1v(), 1, 3)), jobOf(2)},
		"as-fast":     {snapshot(node("v1", modelV100, dgx1v(), 2)), jobOf(3)},
		"fuller":      {snapshot(node("box", "A100", pcieBox8()), node("half", "L40S", l40sx4(), 2, 3)), jobOf(2)},
		"switch":      {snapshot(h100, v2), jobOf(4)},
		"one-gpu":     {snapshot(v2, l40s), jobOf(1)},
		"two-tasks":   {snapshot(v2), jobOf(2, 4)},
		"two-groups":  {snapshot(v2, l40s), twoGroups(4, 2)},
		"queued":      {snapshot(busy, drained), jobOf(4)},
		"three-times": {snapshot(v1, v2), many},
		"reserved":    {snapshot(reserved), jobOf(8)},
		"state":       {snapshot(v1, v2, l40s), stateful},
		"infeasible":  {snapshot(v1, l40s), jobOf(9)},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			_, explanation := place.New().Place(c.s, c.ask)
			path := filepath.Join("testdata", name+".golden")
			got := explanation.String() + "\n"
			if *update {
				must.NoError(t, os.MkdirAll("testdata", 0o755))
				must.NoError(t, os.WriteFile(path, []byte(got), 0o644))
			}
			want, err := os.ReadFile(path)
			must.NoError(t, err)
			must.Eq(t, string(want), got)
		})
	}
}
