package agent

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/nomad-governor/governor/quotaagent/history"
)

// Each agent keeps the decisions that it made. Whoever is asked asks the others too, so
// that it does not matter which agent a load balancer leads to.

const (
	// onlyOwn is the parameter by which agents ask each other for their own decisions.
	onlyOwn = "own"
	// decisionSize is a bound for one decision as JSON, in bytes; decisionsBytes bounds
	// the answer of an agent.
	decisionSize   = 16 << 10
	decisionsBytes = 64 << 20
	// filtered is how many are read at once for somebody who may not know all of them.
	filtered = 1000
)

// ownDecisions are those of this agent that the caller may know, the latest first.
func (a *Agent) ownDecisions(ctx context.Context, q history.DecisionQuery, s clearance) ([]DecisionRow, error) {
	h, err := a.historyOf()
	if err != nil {
		return nil, err
	}
	if err := h.flush(ctx); err != nil {
		return nil, err
	}
	rows, skip, most := []DecisionRow{}, q.Skip, q.Limit
	if s != nil {
		q.Limit = max(q.Limit, filtered)
	}
	for q.Skip = 0; ; q.Skip += q.Limit {
		found, err := h.store.FindDecisions(ctx, q)
		if err != nil {
			return nil, err
		}
		for _, d := range found {
			switch {
			case !s.reads(d.Namespace):
			case skip > 0:
				skip--
			case len(rows) < most:
				rows = append(rows, DecisionRow{d, a.name})
			}
		}
		if len(found) < q.Limit || len(rows) == most {
			return rows, nil
		}
	}
}

// allDecisions are those of all agents that the caller may know, the latest first. The
// others are asked with the caller's headers, or with this agent's token for nil.
func (a *Agent) allDecisions(ctx context.Context, q history.DecisionQuery, s clearance, as http.Header) (DecisionList, error) {
	each := q
	each.Skip, each.Limit = 0, q.Skip+q.Limit
	own, err := a.ownDecisions(ctx, each, s)
	if err != nil {
		return DecisionList{}, err
	}
	whom, incomplete := a.othersToAsk()
	lists := [][]DecisionRow{own}
	bound := min(int64(each.Limit+1)*decisionSize, decisionsBytes)
	for _, other := range askOthers[DecisionList](ctx, a.peers, whom, "/governor/v1/decisions?"+decisionsAsked(each).Encode(), as, bound) {
		if other.err != nil {
			incomplete = append(incomplete, a.silent(other.replica, other.err))
			continue
		}
		lists = append(lists, other.said.Decisions)
	}
	all := merge(lists)
	all = all[min(q.Skip, len(all)):]
	return DecisionList{Decisions: all[:min(q.Limit, len(all))], Incomplete: incomplete}, nil
}

// decisionsAsked is a query as the parameters by which another agent is asked.
func decisionsAsked(q history.DecisionQuery) url.Values {
	v := url.Values{onlyOwn: {"true"}, "limit": {strconv.Itoa(min(q.Limit, decisionsMost))}}
	if q.Job != "" {
		v.Set("namespace", q.Namespace)
		v.Set("job", q.Job)
	}
	if !q.Until.IsZero() {
		v.Set("at", q.Until.UTC().Format(time.RFC3339Nano))
	}
	return v
}

// merge puts lists together, the latest first; those of one agent keep their order,
// whatever its clock did.
func merge(lists [][]DecisionRow) []DecisionRow {
	out := []DecisionRow{}
	for {
		latest := -1
		for i, l := range lists {
			if len(l) > 0 && (latest < 0 || l[0].AtMS > lists[latest][0].AtMS) {
				latest = i
			}
		}
		if latest < 0 {
			return out
		}
		out = append(out, lists[latest][0])
		lists[latest] = lists[latest][1:]
	}
}

// Decision is the one with an ID, of whichever agent.
func (a *Agent) Decision(ctx context.Context, id string) (DecisionView, error) {
	return a.decision(ctx, id, nil, nil, false)
}

func (a *Agent) decision(ctx context.Context, id string, s clearance, as http.Header, own bool) (DecisionView, error) {
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
	switch {
	case err == nil && s.reads(d.Namespace):
		return viewOf(DecisionRow{d, a.name}, []string{}), nil
	case err != nil && !errors.Is(err, history.ErrNoDecision):
		return none, err
	}
	incomplete := []string{}
	if !own {
		var whom []replica
		whom, incomplete = a.othersToAsk()
		for _, other := range askOthers[DecisionView](ctx, a.peers, whom, "/governor/v1/decisions/"+url.PathEscape(id)+"?"+onlyOwn+"=true", as, decisionSize) {
			var status *statusError
			switch {
			case other.err == nil:
				return other.said, nil
			case !errors.As(other.err, &status) || status.status != http.StatusNotFound:
				incomplete = append(incomplete, a.silent(other.replica, other.err))
			}
		}
	}
	return none, refusal(http.StatusNotFound, "no agent has a decision %s: there is none, or it is older than the last %d that each keeps%s", id, decisionsKept, sentences(incomplete))
}

// othersToAsk are the other agents, and sentences about those that are not asked.
func (a *Agent) othersToAsk() (whom []replica, incomplete []string) {
	incomplete = []string{}
	if a.peers == nil {
		return nil, incomplete
	}
	if text := a.peers.trouble(); text != "" {
		incomplete = append(incomplete, text)
	}
	whom, lost := a.peers.others(false)
	for _, other := range lost {
		incomplete = append(incomplete, fmt.Sprintf("agent %s at %s does not answer: its decisions are missing", other.Name, other.Address))
	}
	return whom, incomplete
}

// silent says that an agent did not answer.
func (a *Agent) silent(other replica, err error) string {
	a.logger.Warn("decisions of another agent are missing", "agent", other.Name, "address", other.Address, "error", err)
	return fmt.Sprintf("agent %s at %s does not answer: its decisions are missing", other.Name, other.Address)
}

// sentences puts what is missing behind a refusal.
func sentences(incomplete []string) string {
	if len(incomplete) == 0 {
		return ""
	}
	out := slices.Clone(incomplete)
	slices.Sort(out)
	return "; " + strings.Join(out, "; ")
}
