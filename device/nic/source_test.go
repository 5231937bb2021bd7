package nic

import (
	"testing"
	"time"

	"github.com/shoenig/test/must"

	"github.com/nomad-governor/governor/device/inventory"
)

// A driver that hangs costs a moment, and what was known stays known.
func TestASourceThatHangsIsNotWaitedFor(t *testing.T) {
	t.Parallel()
	answers, calls := make(chan []inventory.NIC), make(chan []string, 10)
	s := &Source{within: 20 * time.Millisecond, read: func(gpus []string) []inventory.NIC {
		calls <- gpus
		return <-answers
	}}
	must.SliceEmpty(t, s.Read([]string{"a"}))
	must.Eq(t, []string{"a"}, <-calls)
	must.SliceEmpty(t, s.Read([]string{"b"}))
	must.EqOp(t, 0, len(calls), must.Sprint("the first is still under way"))
	one := []inventory.NIC{{Name: "mlx5_0"}}
	running := s.begin(nil)
	answers <- one
	<-running
	must.Eq(t, one, s.Read(nil), must.Sprint("the next one hangs again"))
	close(answers)
}
