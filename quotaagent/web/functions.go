package web

import (
	"cmp"
	"fmt"
	"html/template"
	"math"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/nomad-governor/governor/internal/quantity"
	"github.com/nomad-governor/governor/quotaagent/budget"
	"github.com/nomad-governor/governor/quotaagent/ledger"
	"github.com/nomad-governor/governor/quotaagent/web/draw"
)

// functions are what templates may call.
func (h *Handler) functions() template.FuncMap {
	return template.FuncMap{
		"money": quantity.FormatMoney, "hours": quantity.FormatHours, "number": number, "noun": noun,
		"when": h.when, "whenMS": func(ms int64) template.HTML { return h.when(time.UnixMilli(ms)) },
		"day": func(at time.Time) string { return at.In(h.Zone()).Format(time.DateOnly) },
		"bar": draw.Share, "period": periodOf, "perGPUHour": quantity.FormatMoney,
		"job": jobPath, "decision": func(id string) template.URL { return address("decisions", id) }, "budget": budgetPath, "source": sourcePath, "node": func(name string) template.URL { return address("topology", name) },
		"plural": pluralOf, "percent": percent, "short": short, "gbps": func(mbps int) string { return quantity.FormatDecimal(quantity.Amount(mbps), 1000, 1) },
		"gpuTime": gpuTime, "total": ledger.Usage.Total, "length": func(ms int64) string { return budget.FormatDuration(time.Duration(ms) * time.Millisecond) },
		"depth": func(path string) int { return min(strings.Count(path, "/"), 6) }, "last": func(path string) string { return path[strings.LastIndex(path, "/")+1:] },
		"join": strings.Join, "add": func(a, b int) int { return a + b }, "field": func(label string, value any) fieldData { return fieldData{label, value} },
		"pill": pillOf, "orDash": func(text string) string { return cmp.Or(text, "–") }, "device": func(name string) string { return name[strings.LastIndex(name, "/")+1:] },
		"limit": func(l limitData, currency string) limitRow { return limitRow{l, currency} }, "sum": quantity.Amount.Add,
		"rev":  func(digest string) string { return digest[:min(12, len(digest))] },
		"file": func(name string) template.URL { return filePath(name, 0) }, "brokenFile": brokenPath,
		"count": func(n int) string { return quantity.FormatDecimal(quantity.Amount(n), 1, 0) },
	}
}

// fieldData is a fact with its name.
type fieldData struct {
	Label string
	Value any
}

func number(dimension string, a quantity.Amount) string { return budget.Dimension(dimension).Number(a) }

func noun(dimension, currency string) string { return budget.Dimension(dimension).Noun(currency) }

func periodOf(l Limit) string { return budget.NamePeriod(l.Window, l.Start) }

// gpuTime is all GPU time of a usage.
func gpuTime(u ledger.Usage) quantity.Amount {
	if all, ok := u.GPUTime[budget.AnyClass]; ok {
		return all
	}
	return u.Total()
}

const timeLayout = "2006-01-02 15:04:05 MST"

// when is a time for people and for programs.
func (h *Handler) when(at time.Time) template.HTML {
	if at.IsZero() {
		return "–"
	}
	at = at.In(h.Zone())
	return template.HTML(`<time datetime="` + at.Format(time.RFC3339) + `">` + template.HTMLEscapeString(at.Format(timeLayout)) + `</time>`) // both are times
}

// address is that of a page. Each part is one segment of it, whatever is in it.
func address(parts ...string) template.URL {
	for i := range parts {
		parts[i] = url.PathEscape(parts[i])
	}
	return template.URL(Prefix + strings.Join(parts, "/")) // every segment is escaped
}

func jobPath(namespace, id string) template.URL { return address("jobs", namespace, id) }

func budgetPath(p string) template.URL {
	return address(append([]string{"budgets"}, strings.Split(p, "/")...)...)
}

// sourcePath is where "file:line" is shown; "" where that is no place in a file.
func sourcePath(source string) template.URL {
	at := strings.LastIndex(source, ":")
	if at < 1 {
		return ""
	}
	line, err := strconv.Atoi(source[at+1:])
	if err != nil || line < 1 {
		return ""
	}
	return filePath(source[:at], line)
}

func filePath(file string, line int) template.URL {
	p := address(append([]string{"policy", "files"}, strings.Split(file, "/")...)...)
	if line > 0 {
		p += template.URL(fmt.Sprintf("?line=%d#L%d", line, line)) // a number
	}
	return p
}

// brokenPath is where a line of an edit that is not in force is shown.
func brokenPath(file string, line int) template.URL {
	return filePath(file, 0) + template.URL(fmt.Sprintf("?edit=broken&line=%d#L%d", line, line)) // a number
}

// limitRow is a limit with the currency that it is told in.
type limitRow struct {
	L        limitData
	Currency string
}

// pluralOf is plural of any number.
func pluralOf(n any, thing string) (string, error) {
	switch n := n.(type) {
	case int:
		return plural(n, thing), nil
	case int64:
		return plural(n, thing), nil
	case uint64:
		return plural(int64(n), thing), nil // a number of records
	}
	return "", fmt.Errorf("%T is no number", n)
}

// plural counts things.
func plural[N int | int64](n N, thing string) string {
	text := quantity.FormatDecimal(quantity.Amount(n), 1, 0) + " " + thing
	if n == 1 {
		return text
	}
	return text + "s"
}

// percent is what part of a whole an amount is, in whole percents.
func percent(part, whole quantity.Amount) string {
	if whole <= 0 {
		return "–"
	}
	return strconv.FormatFloat(math.Floor(100*float64(part)/float64(whole)), 'f', 0, 64) + "%"
}

// short is the beginning of an id.
func short(id string) string {
	if len(id) > 8 {
		return id[:8]
	}
	return id
}

// pill is a state as it is shown: a word, and which colour.
type pill struct{ Text, Tone string }

// pillOf gives a state its colour. The word says the same without it.
func pillOf(state string) pill {
	tone := "plain"
	switch state {
	case "running", "active", "ok", "free", "admit", "ready", "settled", "as offered":
		tone = "good"
	case "waiting", "queue", "soft", "registering", "starting", "freeing", "reserved", "warn", "shadow":
		tone = "warn"
	case "ending", "refused", "overdrawn", "deny", "unhealthy", "stopping", "expired", "full", "not ready", "throttled", "differs":
		tone = "bad"
	case "admitted", "held":
		tone = "info"
	}
	return pill{state, tone}
}
