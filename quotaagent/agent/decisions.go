package agent

import (
	"context"
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/nomad-governor/governor/quotaagent/admission"
	"github.com/nomad-governor/governor/quotaagent/api"
	"github.com/nomad-governor/governor/quotaagent/history"
)

// decisionsMost bounds how many decisions are answered at once, and how far back one
// is looked for.
const decisionsMost = 10_000

// DecisionRow is a decision with the agent that made it.
type DecisionRow struct {
	history.Decision
	// Agent is the name of the agent that decided and keeps it.
	Agent string `json:"agent"`
}

// DecisionList are decisions of all agents, the latest first.
type DecisionList struct {
	Decisions []DecisionRow `json:"decisions"`
	// Incomplete says in sentences whose decisions are missing.
	Incomplete []string `json:"incomplete"`
}

// DecisionView is one decision with what its reason means.
type DecisionView struct {
	DecisionRow
	// Meaning is what the reason says, Author what the author of the job does about it, and
	// Operator what who runs Governor does: those of docs/reasons.md.
	Meaning  string `json:"meaning"`
	Author   string `json:"author_does"`
	Operator string `json:"operator_does"`
	// Incomplete says in sentences which agents could not be asked for a later one.
	Incomplete []string `json:"incomplete"`
}

func viewOf(d DecisionRow, incomplete []string) DecisionView {
	e := admission.Reason(d.Reason).Explain()
	return DecisionView{DecisionRow: d, Meaning: e.Meaning, Author: e.Author, Operator: e.Operator, Incomplete: incomplete}
}

func (a *Agent) serveDecisions(ctx context.Context, c api.Call) (any, error) {
	h, err := a.historyOf()
	if err != nil {
		return nil, err
	}
	q, err := decisionsMeant(c, h)
	if err != nil {
		return nil, err
	}
	if q.Limit, err = limitOf(c, 100, decisionsMost); err != nil {
		return nil, err
	}
	s, err := a.clearanceOf(c)
	if err != nil {
		return nil, err
	}
	if c.Query(onlyOwn) == "true" {
		rows, err := a.ownDecisions(ctx, q, s)
		return DecisionList{Decisions: rows, Incomplete: []string{}}, err
	}
	return a.allDecisions(ctx, q, s, c.Request().Header)
}

// serveDecision answers the one with an ID.
func (a *Agent) serveDecision(ctx context.Context, c api.Call) (any, error) {
	s, err := a.clearanceOf(c)
	if err != nil {
		return nil, err
	}
	return a.decision(ctx, c.Var("id"), s, c.Request().Header, c.Query(onlyOwn) == "true")
}

// serveJobDecision answers the latest decision about a job, or the n-th latest.
func (a *Agent) serveJobDecision(ctx context.Context, c api.Call) (any, error) {
	h, err := a.historyOf()
	if err != nil {
		return nil, err
	}
	q, err := decisionsMeant(c, h)
	if err != nil {
		return nil, err
	}
	if q.Job == "" {
		return nil, refusal(http.StatusBadRequest, "job is missing: give the id of a job, and its namespace if that is not default")
	}
	if err := a.mustRead(c, q.Namespace); err != nil {
		return nil, err
	}
	n := 1
	if text := c.Query("n"); text != "" {
		if n, err = strconv.Atoi(text); err != nil || n < 1 || n > decisionsMost {
			return nil, refusal(http.StatusBadRequest, "n is %.40q; it must be a number from 1, for the latest decision, to %d", text, decisionsMost)
		}
	}
	q.Skip, q.Limit = n-1, 1
	found, err := a.allDecisions(ctx, q, nil, c.Request().Header)
	if err != nil {
		return nil, err
	}
	if len(found.Decisions) == 0 {
		return nil, refusal(http.StatusNotFound, "no agent remembers a %sdecision about job %q in namespace %q%s%s", ordinal(n), q.Job, q.Namespace, untilText(q.Until), sentences(found.Incomplete))
	}
	return viewOf(found.Decisions[0], found.Incomplete), nil
}

// ordinal is "2nd latest " for 2, and nothing for the latest.
func ordinal(n int) string {
	if n == 1 {
		return ""
	}
	ending := "th"
	if tens := n % 100 / 10; tens != 1 {
		switch n % 10 {
		case 1:
			ending = "st"
		case 2:
			ending = "nd"
		case 3:
			ending = "rd"
		}
	}
	return fmt.Sprintf("%d%s latest ", n, ending)
}

func untilText(at time.Time) string {
	if at.IsZero() {
		return ""
	}
	return " made until " + at.UTC().Format(time.RFC3339)
}

// decisionsMeant reads which decisions a call is about. A day, month or year in "at"
// counts to its end.
func decisionsMeant(c api.Call, h *historian) (history.DecisionQuery, error) {
	var q history.DecisionQuery
	q.Namespace, q.Job = jobOf(c)
	text := c.Query("at")
	if text == "" {
		return q, nil
	}
	ever := h.now().AddDate(100, 0, 0) // a time to come is as good as now
	begin, end, err := reportTime(text, ever, h.store.Location())
	if err != nil {
		return q, refusal(http.StatusBadRequest, "at %s", strings.TrimPrefix(err.Error(), "from "))
	}
	q.Until = begin
	if !strings.Contains(text, "T") { // a unit of the calendar, without the next one
		q.Until = end.Add(-time.Millisecond)
	}
	return q, nil
}
