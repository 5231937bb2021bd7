package device_test

import (
	"errors"
	"fmt"
	"maps"
	"regexp"
	"testing"

	"github.com/hashicorp/nomad/api"
	"github.com/shoenig/test/must"

	"github.com/nomad-governor/governor/e2e/cluster"
)

// figures are the latest statistics of a client's devices, by id.
func (n *nodes) figures(client string) (map[string]*api.DeviceStats, error) {
	nomad, err := n.API(n.NomadAddr)
	if err != nil {
		return nil, err
	}
	defer nomad.Close()
	stats, err := nomad.Nodes().Stats(n.Client(client).NodeID, nil)
	if err != nil {
		return nil, err
	}
	return byDevice(stats.DeviceStats), nil
}

// taskFigures are the latest statistics of the devices of an allocation's task,
// by id.
func (n *nodes) taskFigures(allocation *api.Allocation) (map[string]*api.DeviceStats, error) {
	nomad, err := n.API(n.NomadAddr)
	if err != nil {
		return nil, err
	}
	defer nomad.Close()
	usage, err := nomad.Allocations().Stats(allocation, nil)
	if err != nil {
		return nil, err
	}
	if usage.Tasks["t"] == nil {
		return nil, errors.New("its task has no statistics")
	}
	return byDevice(usage.Tasks["t"].ResourceUsage.DeviceStats), nil
}

func byDevice(groups []*api.DeviceGroupStats) map[string]*api.DeviceStats {
	all := map[string]*api.DeviceStats{}
	for _, group := range groups {
		maps.Copy(all, group.InstanceStats)
	}
	return all
}

// number is a whole number among a device's statistics, or -1.
func number(s *api.DeviceStats, key string) int64 {
	if s == nil || s.Stats == nil || s.Stats.Attributes[key] == nil || s.Stats.Attributes[key].IntNumeratorVal == nil {
		return -1
	}
	return *s.Stats.Attributes[key].IntNumeratorVal
}

// text is a text among a device's statistics, or "".
func text(s *api.DeviceStats, key string) string {
	if s == nil || s.Stats == nil || s.Stats.Attributes[key] == nil || s.Stats.Attributes[key].StringVal == nil {
		return ""
	}
	return *s.Stats.Attributes[key].StringVal
}

// shown checks that `nomad alloc status -stats` shows the statistics of an
// allocation's devices, in short and in full.
func (n *nodes) shown(t *testing.T, allocation *api.Allocation, ids ...string) {
	t.Helper()
	n.prints(t, ids, "alloc", "status", "-stats", allocation.ID)
}

// shownOf checks that `nomad node status -stats` shows the statistics of all of
// a client's devices, in short and in full. It follows a nil pointer where one
// has none.
func (n *nodes) shownOf(t *testing.T, client string) {
	t.Helper()
	now := n.wait(t, client, "is known", func(state) error { return nil })
	n.prints(t, now.ids(), "node", "status", "-stats", n.Client(client).NodeID)
}

// prints waits until a command of Nomad's prints each device with a summary and
// with its health.
func (n *nodes) prints(t *testing.T, ids []string, command ...string) {
	t.Helper()
	must.NoError(t, cluster.Poll(t.Context(), fmt.Sprintf("wait for statistics of %v by nomad %v", ids, command), func() error {
		result, err := n.Nomad(t.Context(), n.Addr(), command...)
		if err != nil {
			return err
		}
		if result.ExitCode != 0 {
			return fmt.Errorf("it exits with %d:\n%s", result.ExitCode, result.Output())
		}
		for _, id := range ids {
			device := `(?m)^(?:Device *= )?nvidia/[^\[\n]*\[` + regexp.QuoteMeta(id) + `\]`
			if !regexp.MustCompile(device + ` +\S`).MatchString(result.Stdout) {
				return fmt.Errorf("device %s has no summary in:\n%s", id, result.Output())
			}
			if !regexp.MustCompile(`(?m)^Device *= nvidia/[^\[\n]*\[` + regexp.QuoteMeta(id) + `\]\n(?:\S+ *= .*\n)*health *= \S`).MatchString(result.Stdout) {
				return fmt.Errorf("device %s has no health in:\n%s", id, result.Output())
			}
		}
		return nil
	}))
}
