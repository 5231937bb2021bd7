package main

import (
	"bytes"
	"testing"
	"time"

	"github.com/shoenig/test/must"

	"github.com/nomad-governor/governor/quotaagent/agent"
	"github.com/nomad-governor/governor/quotaagent/ledger"
)

func TestJobStatusTellsHowAJobIsEnded(t *testing.T) {
	at := func(minute int) *time.Time {
		when := time.Date(2026, 3, 10, 12, minute, 0, 0, time.Local)
		return &when
	}
	zone := at(0).Format("MST")
	cases := map[string]struct {
		ending agent.EndingStatus
		want   string
	}{
		"signalled": {agent.EndingStatus{Action: "stop", Cause: "max_runtime", Why: "it has run as long as it was admitted for",
			Allocations: []string{"a", "b"}, Signal: "SIGUSR1", Signalled: at(5), Stop: at(10)},
			"Ending      max_runtime: 2 allocations, SIGUSR1 sent at 2026-03-10 12:05:00 " + zone + ", stop at 2026-03-10 12:10:00 " + zone + "\n" +
				"Why         it has run as long as it was admitted for\n"},
		"told to stop": {agent.EndingStatus{Action: "stop", Cause: "reclaimed", Why: "x", Stop: at(10), Ordered: at(11)},
			"Ending      reclaimed: told to stop at 2026-03-10 12:11:00 " + zone + "\nWhy         x\n"},
		"throttled": {agent.EndingStatus{Action: "throttle", Cause: "over_budget", Why: "y", Stop: at(1), Ordered: at(3),
			Throttled: map[string]ledger.Throttled{"web": {Was: 8, Is: 3}}},
			"Throttled   over_budget: group web scaled from 8 to 3, last step at 2026-03-10 12:03:00 " + zone + "\nWhy         y\n"},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			var out bytes.Buffer
			printJob(&out, "USD", agent.HoldStatus{Namespace: "default", JobID: "train", Ending: &c.ending})
			must.StrHasSuffix(t, c.want, out.String())
		})
	}
}
