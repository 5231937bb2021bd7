package main

import (
	"strings"
	"testing"
	"time"

	"github.com/shoenig/test/must"

	"github.com/nomad-governor/governor/quotaagent/agent"
)

func TestAlertsArePrinted(t *testing.T) {
	t.Parallel()
	at := time.Date(2026, 3, 10, 12, 0, 0, 0, time.UTC)
	var out strings.Builder
	printAlerts(&out, agent.AlertsView{
		Firing: []agent.AlertView{{Since: at, Severity: "critical", Kind: "budget.overdrawn", Subject: "acme", Text: "budget acme is overdrawn"}},
		Notifiers: []agent.NotifierView{
			{Name: "webhook.finops", Sent: 12, Waiting: 3, Oldest: &at, Signed: true, Error: "the receiver answered 503 Service Unavailable"},
			{Name: "webhook.ops", Sent: 40, GivenUp: 1}},
	})
	must.Eq(t, `  SINCE                 SEVERITY  KIND              SUBJECT  WHAT
  2026-03-10 12:00 UTC  critical  budget.overdrawn  acme     budget acme is overdrawn

Notifiers
  NAME            SENT  WAITING  SINCE                 GIVEN UP  SIGNED  LAST ERROR
  webhook.finops    12        3  2026-03-10 12:00 UTC         0  yes     the receiver answered 503 Service Unavailable
  webhook.ops       40        0  -                            1  no      -
`, out.String())
}
