package ledger_test

import (
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/shoenig/test/must"

	"github.com/nomad-governor/governor/internal/promtooltest"
)

// A soft mark that is crossed reaches a webhook, and Prometheus: what the agent
// shows passes promtool.
func TestASoftMarkIsTold(t *testing.T) {
	s := play(t, "told", 1)
	type message struct {
		header http.Header
		body   string
	}
	got := make(chan message, 16)
	receiver := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		got <- message{r.Header, string(body)}
	}))
	t.Cleanup(receiver.Close)
	s.apply(strings.ReplaceAll(`
notify "webhook" "told" {
  url     = "RECEIVER/hook"
  events  = ["budget.soft"]
  budgets = ["told"]
}

budget "told" {
  soft = "50%"
  match {
    namespaces = ["told"]
  }
  limit "total" {
    gpu_hours = 10
  }
}
`, "RECEIVER", receiver.URL))
	s.run(job{id: "train", gpus: 1, meta: map[string]string{"governor_max_runtime": "8h"}})
	var m message
	select {
	case m = <-got:
	case <-time.After(2 * time.Minute):
		t.Fatal("nobody was told")
	}
	var event struct {
		SpecVersion, ID, Type, Subject string
		Data                           struct{ Status, Budget, Window, Text string }
	}
	must.NoError(t, json.Unmarshal([]byte(m.body), &event))
	must.Eq(t, "1.0", event.SpecVersion)
	must.Eq(t, "dev.governor.budget.soft", event.Type)
	must.Eq(t, "told", event.Subject)
	must.Eq(t, "firing", event.Data.Status)
	must.Eq(t, "total", event.Data.Window)
	s.says(event.Data.Text, "budget told is past its soft mark", "of 10 GPU-hours in the window total")
	must.Eq(t, event.ID, m.header.Get("Webhook-Id"))
	listed := s.governor("alert", "list")
	s.says(listed.Output(), "budget.soft", "webhook.told")

	s.eventually("the metrics show it", func() error {
		page := s.metrics()
		if !strings.Contains(page, `governor_budget_state{budget="told",state="soft"} 1`) {
			return errors.New("governor_budget_state is another one")
		}
		return nil
	})
	promtooltest.Run(t, s.metrics(), "check", "metrics")
}

// metrics is what the agent shows to Prometheus, through the gate's address.
func (s *scene) metrics() string {
	s.t.Helper()
	response, err := http.Get(s.GovernorAddr + "/governor/v1/metrics")
	must.NoError(s.t, err)
	defer response.Body.Close()
	must.Eq(s.t, http.StatusOK, response.StatusCode)
	body, err := io.ReadAll(response.Body)
	must.NoError(s.t, err)
	return string(body)
}
