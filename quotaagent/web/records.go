package web

import (
	"net/http"
	"slices"
	"strconv"
	"strings"

	"github.com/nomad-governor/governor/quotaagent/audit"
)

const (
	// decisionsRead is how many of the latest decisions are looked at.
	decisionsRead = 2000
	decisionRows  = 50
	auditRows     = 50
)

// decisionsData are the latest decisions.
type decisionsData struct {
	Rows                  []Decision
	Paging                paging
	Read                  int
	Q, Outcome, Namespace string
	Budget                string
	Plans                 bool
	Outcomes              []string
	Trouble               string
	Incomplete            []string
}

// decisions lists what was decided last.
func (h *Handler) decisions(v *visit) (view, error) {
	d := decisionsData{Q: v.query("q"), Outcome: v.query("outcome"), Namespace: v.query("namespace"), Budget: strings.Trim(v.query("budget"), "/"), Plans: v.query("plans") != "",
		Outcomes: []string{"admit", "warn", "queue", "deny"}}
	found, err := h.decided.get(v.Context())
	if err != nil {
		d.Trouble = h.told(v, err, "The decisions cannot be read now; the agent's log has the cause.")
	}
	d.Read, d.Incomplete = len(found.List), found.Incomplete
	all := slices.DeleteFunc(slices.Clone(found.List), func(one Decision) bool {
		return !v.viewer.Reads(one.Namespace) || (one.Plan && !d.Plans) || (d.Outcome != "" && one.Outcome != d.Outcome) || (d.Namespace != "" && one.Namespace != d.Namespace) ||
			(d.Budget != "" && one.Budget != d.Budget && !strings.HasPrefix(one.Budget, d.Budget+"/")) ||
			!strings.Contains(strings.ToLower(one.Namespace+"/"+one.ID+" "+one.Reason), strings.ToLower(d.Q))
	})
	d.Rows, d.Paging = pageOf(v, all, decisionRows, "decision")
	return view{template: "decisions", title: "Decisions", section: "decisions", data: d}, nil
}

// decisionData is one decision. InForce says that the policy then is that of now, so that
// its lines are where they were.
type decisionData struct {
	DecisionDetail
	InForce bool
}

// decision shows one, with what its reason means and what to do about it.
func (h *Handler) decision(v *visit) (view, error) {
	id := v.PathValue("id")
	d, err := h.Past.Decision(v.Context(), id)
	if err != nil {
		return view{}, err
	}
	if d == nil || !v.viewer.Reads(d.Namespace) {
		return view{}, problem(http.StatusNotFound, "There is no decision %.60q, or your token may not read it. The oldest are not kept.", id)
	}
	return view{template: "decision", title: "Decision " + d.Number, section: "decisions", crumbs: []crumb{{"Decisions", Prefix + "decisions"}}, data: decisionData{*d, d.Revision == h.Rules.Policy().Revision}, still: true}, nil
}

// auditData is a part of the audit log.
type auditData struct {
	Records         []audit.Record
	Last            uint64
	Older, Newer    uint64
	Denied, Trouble string
}

// audit shows the log, the latest first. It names people and their reasons.
func (h *Handler) audit(v *visit) (view, error) {
	d := auditData{}
	show := func() (view, error) {
		return view{template: "audit", title: "Audit", section: "audit", data: d}, nil
	}
	if !v.viewer.Manages {
		d.Denied = "The audit log names people and their reasons; reading it needs a Nomad management token."
		return show()
	}
	from := uint64(0)
	if text := v.query("to"); text != "" {
		to, err := strconv.ParseUint(text, 10, 64)
		if err != nil || to == 0 {
			return view{}, problem(http.StatusBadRequest, "The number %.30q is not that of an audit record.", text)
		}
		from = 1
		if to > auditRows {
			from = to - auditRows + 1
		}
	}
	records, last, err := h.Audit.Records(v.Context(), from)
	if err != nil {
		return view{}, err
	}
	d.Last = last
	if from == 0 && len(records) > auditRows {
		records = records[len(records)-auditRows:]
	}
	records = slices.Clone(records[:min(auditRows, len(records))])
	slices.Reverse(records)
	d.Records = records
	if n := len(records); n > 0 {
		if first := records[n-1].Seq; first > 1 {
			d.Older = first - 1
		}
		if newest := records[0].Seq; newest < last {
			d.Newer = min(last, newest+auditRows)
		}
	}
	return show()
}
