package metrics_test

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	dto "github.com/prometheus/client_model/go"
	"github.com/shoenig/test/must"

	"github.com/nomad-governor/governor/internal/promtooltest"
)

const docs = "../../docs"

func read(t *testing.T, parts ...string) string {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(append([]string{docs}, parts...)...))
	must.NoError(t, err)
	return string(text)
}

// labelsOf are the names of a metric's labels, without those of the format.
func labelsOf(f *dto.MetricFamily) []string {
	out := []string{}
	for _, l := range f.GetMetric()[0].GetLabel() {
		out = append(out, l.GetName())
	}
	slices.Sort(out)
	return out
}

var row = regexp.MustCompile("(?m)^\\| `(governor_[a-z_]+)` \\| ([a-z]+) \\|([^|]*)\\| (process|ledger|leader|agent) \\| ([^|]+) \\|$")

func TestThePageListsEveryMetricAndNoOther(t *testing.T) {
	t.Parallel()
	listed := map[string]bool{}
	have := families(t, full())
	last := ""
	for _, m := range row.FindAllStringSubmatch(read(t, "metrics.md"), -1) {
		name := m[1]
		listed[name] = true
		must.Less(t, name, last, must.Sprint("in the order of their names"))
		last = name
		f := have[name]
		must.NotNil(t, f, must.Sprintf("%s is on the page, and no agent shows it", name))
		must.Eq(t, strings.ToLower(f.GetType().String()), m[2], must.Sprint(name))
		labels := strings.Fields(strings.ReplaceAll(m[3], "`", ""))
		slices.Sort(labels)
		must.Eq(t, labelsOf(f), labels, must.Sprint(name))
	}
	for name := range have {
		if strings.HasPrefix(name, "governor_") {
			must.True(t, listed[name], must.Sprintf("%s is not on the page", name))
		}
	}
}

var named = regexp.MustCompile(`\b(?:governor|process|go)_[a-z0-9_]+`)

// stem is the metric that a series belongs to.
func stem(series string, have map[string]*dto.MetricFamily) string {
	for _, suffix := range []string{"_bucket", "_sum", "_count"} {
		if base, cut := strings.CutSuffix(series, suffix); cut && have[base] != nil {
			return base
		}
	}
	return series
}

// expressions are those of the dashboard's panels, as Grafana sends them for all
// budgets.
func expressions(t *testing.T) []string {
	t.Helper()
	var dashboard struct {
		UID    string
		Panels []struct {
			Title   string
			Type    string
			GridPos struct{ X, Y, W, H int }
			Targets []struct{ Expr string }
		}
	}
	must.NoError(t, json.Unmarshal([]byte(read(t, "monitoring", "dashboard.json")), &dashboard))
	must.Eq(t, "governor", dashboard.UID)
	var out []string
	for _, p := range dashboard.Panels {
		must.True(t, p.Type == "row" || len(p.Targets) > 0, must.Sprint(p.Title))
		must.LessEq(t, 24, p.GridPos.X+p.GridPos.W, must.Sprint(p.Title))
		for _, target := range p.Targets {
			out = append(out, strings.ReplaceAll(target.Expr, "$budget", ".*"))
		}
	}
	must.Greater(t, 20, len(out))
	return out
}

func TestRulesAndDashboardNameMetricsThatThereAre(t *testing.T) {
	t.Parallel()
	have := families(t, full())
	texts := append(expressions(t), read(t, "monitoring", "alerts.yaml"), read(t, "monitoring", "alerts_test.yaml"))
	used := map[string]bool{}
	for _, text := range texts {
		for _, series := range named.FindAllString(text, -1) {
			used[stem(series, have)] = true
			must.NotNil(t, have[stem(series, have)], must.Sprintf("%s is named, and no agent shows it", series))
		}
	}
	for _, name := range []string{"governor_budget_burn_rate", "governor_meter_lag_seconds", "governor_gpu_seconds_total"} {
		must.True(t, used[name], must.Sprint(name))
	}
}

func TestPromtool(t *testing.T) {
	t.Parallel()
	monitoring := filepath.Join(docs, "monitoring")
	t.Run("the metrics", func(t *testing.T) {
		t.Parallel()
		promtooltest.Run(t, own(scrape(t, full().Handler(), "text/plain")), "check", "metrics")
	})
	t.Run("the rules", func(t *testing.T) {
		t.Parallel()
		promtooltest.Run(t, "", "check", "rules", "--lint-fatal", filepath.Join(monitoring, "alerts.yaml"))
	})
	t.Run("what the rules say", func(t *testing.T) {
		t.Parallel()
		promtooltest.Run(t, "", "test", "rules", filepath.Join(monitoring, "alerts_test.yaml"))
	})
	t.Run("the dashboard's expressions", func(t *testing.T) {
		t.Parallel()
		var rules strings.Builder
		rules.WriteString("groups:\n- name: dashboard\n  rules:\n")
		for i, expr := range expressions(t) {
			fmt.Fprintf(&rules, "  - {record: 'panel:%d', expr: %q}\n", i, expr)
		}
		file := filepath.Join(t.TempDir(), "dashboard.yaml")
		must.NoError(t, os.WriteFile(file, []byte(rules.String()), 0o600))
		promtooltest.Run(t, "", "check", "rules", file)
	})
}
