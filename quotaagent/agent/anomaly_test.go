package agent

import (
	"testing"
	"time"

	"github.com/shoenig/test/must"

	"github.com/nomad-governor/governor/quotaagent/notice"
)

// An hour with more than three times the use of the busiest one before is told, and one
// with less is not.
func TestAnHourLikeNoOtherIsFound(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.keepHistory(t)
	found := func() (out []notice.Condition) {
		must.NoError(t, r.board.look(r.ctx))
		now, fresh := r.board.latest()
		must.True(t, fresh)
		var x anomalies
		for _, c := range x.look(r.ctx, r.Agent, now) {
			if c.Holds {
				out = append(out, c)
			}
		}
		return out
	}
	must.SliceEmpty(t, found(), must.Sprint("the history has no day yet"))
	for i := range 13 { // 26 hours, of which every other one has one GPU in use
		r.work("small-"+string(rune('a'+i)), 1, time.Hour)
		r.clock.advance(time.Hour)
	}
	must.SliceEmpty(t, found())
	r.work("three", 3, time.Hour)
	must.SliceEmpty(t, found(), must.Sprint("three times as much is not more than three times"))
	r.clock.advance(time.Hour)
	r.work("eight", 8, time.Hour)
	must.SliceEmpty(t, found(), must.Sprint("nor is eight more than three times three"))
	r.clock.advance(8 * 24 * time.Hour)
	for i := range 2 {
		r.work("one-"+string(rune('a'+i)), 1, time.Hour)
	}
	r.work("big", 8, time.Hour)
	all := found()
	must.Len(t, 2, all, must.Sprint("acme, and acme/research below it"))
	must.Eq(t, "acme", all[0].Subject)
	must.StrContains(t, all[0].Data.Text, "budget acme used 8 GPU-hours from ")
	must.StrContains(t, all[0].Data.Text, "and 1 in the busiest of the 168 hours before")
}
