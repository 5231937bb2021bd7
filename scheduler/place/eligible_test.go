package place_test

import (
	"testing"

	"github.com/shoenig/test/must"

	"github.com/nomad-governor/governor/scheduler/place"
)

func TestASystemJobRunsOnEveryReadyNodeThatHasEnough(t *testing.T) {
	t.Parallel()
	idle, busy := node("idle", "Tesla V100", dgx1v()), node("busy", "Tesla V100", dgx1v(), 0, 1, 2, 3, 4, 5, 6, 7)
	small, down, elsewhere := node("small", "Tesla V100", l40sx4()), node("down", "Tesla V100", dgx1v()), node("elsewhere", "Tesla V100", dgx1v())
	down.Ready = false
	elsewhere.Datacenter = "far"
	ask := jobOf(6)
	ask.Type = "system"
	ask.Datacenters = []string{idle.Datacenter}
	nodes, known := place.New().Eligible(snapshot(idle, busy, small, down, elsewhere), ask, ask.Groups[0].Name)
	must.True(t, known)
	must.Eq(t, 2, nodes)
	_, known = place.New().Eligible(snapshot(idle), ask, "other")
	must.False(t, known)
}
