package agent

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"
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

// DecisionView is one decision with what its reason means.
type DecisionView struct {
	history.Decision
	// Meaning is what the reason says, Author what the author of the job does about it, and
	// Operator what who runs Governor does: those of docs/reasons.md.
	Meaning  string `json:"meaning"`
	Author   string `json:"author_does"`
	Operator string `json:"operator_does"`
	// Agent is the name of the agent that answers and has decided. Others are the other
	// agents, each with its address: they keep their own decisions and were not asked.
	Agent  string   `json:"agent"`
	Others []string `json:"others"`
}

func (a *Agent) viewOf(d history.Decision) DecisionView {
	e := admission.Reason(d.Reason).Explain()
	return DecisionView{Decision: d, Meaning: e.Meaning, Author: e.Author, Operator: e.Operator, Agent: a.name, Others: a.peers.others()}
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
	if err := h.flush(ctx); err != nil {
		return nil, err
	}
	return s.decisions(ctx, h.store, q)
}

// decisions finds those that the caller may know, as many as are asked for.
func (s clearance) decisions(ctx context.Context, store *history.Store, q history.DecisionQuery) ([]history.Decision, error) {
	most := q.Limit
	for out := []history.Decision{}; ; q.Skip += q.Limit {
		found, err := store.FindDecisions(ctx, q)
		if err != nil {
			return nil, err
		}
		out = append(out, keep(s, found, func(d *history.Decision) string { return d.Namespace })...)
		if len(found) < q.Limit || len(out) >= most {
			return out[:min(len(out), most)], nil
		}
	}
}

// serveDecision answers the one with an ID.
func (a *Agent) serveDecision(ctx context.Context, c api.Call) (any, error) {
	s, err := a.clearanceOf(c)
	if err != nil {
		return nil, err
	}
	d, err := a.Decision(ctx, c.Var("id"))
	if err == nil && !s.reads(d.Namespace) {
		return nil, a.noDecision(d.ID) // as if there was none
	}
	return d, err
}

func (a *Agent) noDecision(id string) error {
	return refusal(http.StatusNotFound, "agent %s has no decision %s: it is another agent's, or older than the last %d that are kept%s", a.name, id, decisionsKept, a.othersToAsk())
}

// Decision is the one with an ID, with what its reason means.
func (a *Agent) Decision(ctx context.Context, id string) (DecisionView, error) {
	var none DecisionView
	h, err := a.historyOf()
	if err != nil {
		return none, err
	}
	if !history.IsDecisionID(id) {
		return none, refusal(http.StatusBadRequest, "%.80q is not the ID of a decision, such as d-3f9c1a0b-812; `governor decision list` shows them", id)
	}
	if err := h.flush(ctx); err != nil {
		return none, err
	}
	d, err := h.store.Decision(ctx, id)
	if errors.Is(err, history.ErrNoDecision) {
		return none, a.noDecision(id)
	}
	if err != nil {
		return none, err
	}
	return a.viewOf(d), nil
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
	if err := h.flush(ctx); err != nil {
		return nil, err
	}
	q.Skip, q.Limit = n-1, 1
	found, err := h.store.FindDecisions(ctx, q)
	if err != nil {
		return nil, err
	}
	if len(found) == 0 {
		return nil, refusal(http.StatusNotFound, "agent %s remembers no %sdecision about job %q in namespace %q%s%s", a.name, ordinal(n), q.Job, q.Namespace, untilText(q.Until), a.othersToAsk())
	}
	return a.viewOf(found[0]), nil
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

// othersToAsk is a sentence about the other agents, "" where there are none.
func (a *Agent) othersToAsk() string {
	others := a.peers.others()
	if len(others) == 0 {
		return ""
	}
	return ". Each agent keeps its own decisions: ask the others with -address: " + strings.Join(others, ", ")
}

// others are the other agents that keep a history, as "name at address", in the order
// of their names.
func (p *peers) others() []string {
	if p == nil {
		return []string{}
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	out := []string{}
	for _, other := range p.known {
		out = append(out, other.Name+" at "+other.Address)
	}
	slices.Sort(out)
	return out
}
