package showback

import (
	"cmp"
	"slices"
	"strings"
	"time"

	"github.com/nomad-governor/governor/internal/quantity"
	"github.com/nomad-governor/governor/quotaagent/budget"
	"github.com/nomad-governor/governor/quotaagent/forecast"
	"github.com/nomad-governor/governor/quotaagent/ledger"
	"github.com/nomad-governor/governor/quotaagent/report"
)

// Columns are those that Input.Rows must be grouped by.
func Columns() []report.Column {
	return []report.Column{report.Budget, report.Namespace, report.Job, report.User, report.Class, report.RateCard, report.Model, report.Day}
}

// EveryoneColumns are those that Input.Everyone must be grouped by.
func EveryoneColumns() []report.Column { return []report.Column{report.Budget, report.Class} }

// Head says which statement it is.
type Head struct {
	Budget      string `json:"budget"`
	Description string `json:"description,omitempty"`
	Owner       string `json:"owner,omitempty"`
	// [From, To) is the time, in the zone of the policy.
	From     time.Time `json:"from"`
	To       time.Time `json:"to"`
	Zone     string    `json:"zone"`
	Currency string    `json:"currency"`
	// Made is when the statement was made, Revision the policy whose limits it shows.
	Made     time.Time `json:"made"`
	Revision string    `json:"revision"`
	// Open says that the time is not over: what is held and lent now is in it, and more
	// may be used.
	Open bool `json:"open"`
}

// Input is what a statement is made of. All rows must be of one moment.
type Input struct {
	Head
	// Opening are the sums of all time before From, of the budget and what is below it.
	Opening []report.Row
	// Rows are those of the time, by Columns.
	Rows []report.Row
	// Everyone are those of the time of all budgets, by EveryoneColumns.
	Everyone []report.Row
	// Corrections are the entries of that kind, Grants those that counted in the time.
	Corrections []ledger.Entry
	Grants      []ledger.Grant
	// Idle is who bears the capacity that nobody held.
	Idle budget.Idle
	// Limits, Loans and Holds go into the statement as they are.
	Limits []Limit
	Loans  []Loan
	Holds  []Hold
}

// Statement is the account of one budget, what is below it included, for a time.
type Statement struct {
	Head
	Account Account `json:"account"`
	Limits  []Limit `json:"limits"`
	Grants  []Grant `json:"grants"`
	// Groups divide what was used and corrected, each in another way; every one adds up
	// to the same total.
	Groups []Group `json:"groups"`
	// Held is what open holds may still use, by job; nil for a time that is over.
	Held        *Held        `json:"held"`
	Loans       []Loan       `json:"loans"`
	Idle        Idle         `json:"idle"`
	Corrections []Correction `json:"corrections"`
	// CompleteTo is until when all usage is in it, as far as the agent knows;
	// Incomplete says in sentences what may be missing.
	CompleteTo time.Time `json:"complete_to"`
	Incomplete []string  `json:"incomplete"`
}

// Account is the running account of what a budget used, as of a meter:
// Opening + Used + Corrected = Closing.
type Account struct {
	// Opening is what was used before, since there are records.
	Opening report.Amounts `json:"opening"`
	// Used is what was used in the time, Corrected what people took back or added.
	Used      report.Amounts `json:"used"`
	Corrected report.Amounts `json:"corrected"`
	Closing   report.Amounts `json:"closing"`
	// Of what was used: beyond what was held, and not observed but estimated.
	Overdraft report.Amounts `json:"overdraft"`
	Estimated report.Amounts `json:"estimated"`
}

// Group divides what was used and corrected by something.
type Group struct {
	// By is budget, class, user, job, namespace, model, rate_card or day.
	By    string        `json:"by"`
	Lines []report.Line `json:"lines"`
	// Total is the sum of the lines.
	Total report.Line `json:"total"`
}

// Limit is the account of one limit: Ceiling + Carry + Granted + Borrow = Allowance,
// and Allowance = Used + Held + Left. Amounts are in the dimension's base unit.
type Limit struct {
	Window    string     `json:"window"`
	Start     *time.Time `json:"start,omitempty"`
	End       *time.Time `json:"end,omitempty"`
	Dimension string     `json:"dimension"`
	Unlimited bool       `json:"unlimited,omitempty"`
	// Ceiling is what the budget language says, Carry what earlier periods left over,
	// Granted what overrides add, Borrow how many GPUs may be borrowed at most.
	Ceiling   quantity.Amount `json:"ceiling"`
	Carry     quantity.Amount `json:"carry"`
	Granted   quantity.Amount `json:"granted"`
	Borrow    quantity.Amount `json:"borrow"`
	Allowance quantity.Amount `json:"allowance"`
	Used      quantity.Amount `json:"used"`
	Held      quantity.Amount `json:"held"`
	// Left is negative where more is used and held than allowed.
	Left   quantity.Amount `json:"left"`
	Source string          `json:"source,omitempty"`
	// Outlook is when it runs out; nil for a time that is over, and for GPUs at once.
	Outlook *forecast.Outlook `json:"outlook,omitempty"`
}

// LimitOf is the account of a limit in a period.
func LimitOf(l ledger.EffectiveLimit, used, held quantity.Amount) Limit {
	out := Limit{Window: l.Window.String(), Dimension: string(l.Dimension), Used: used, Held: held, Source: l.Source.String()}
	if !l.Period.Start.IsZero() {
		out.Start, out.End = &l.Period.Start, &l.Period.End
	}
	allowance, finite := l.Total().Finite()
	if !finite {
		out.Unlimited = true
		return out
	}
	out.Ceiling, _ = l.Ceiling.Finite()
	out.Carry, out.Granted, out.Borrow = l.Carry, l.Granted, l.Borrow
	out.Allowance, out.Left = allowance, allowance.Sub(used).Sub(held)
	return out
}

// Grant is an override that counted in the time.
type Grant struct {
	ID     string         `json:"id"`
	Budget string         `json:"budget"`
	Rule   string         `json:"rule"`
	By     string         `json:"by"`
	Reason string         `json:"reason"`
	From   time.Time      `json:"from"`
	Until  time.Time      `json:"until"`
	Adds   ledger.Amounts `json:"adds"`
}

// Hold is what one job may still use.
type Hold struct {
	Namespace string          `json:"namespace"`
	JobID     string          `json:"job_id"`
	Budget    string          `json:"budget"`
	GPUTime   quantity.Amount `json:"gpu_ms"`
	Cost      quantity.Amount `json:"cost"`
}

// Held is what open holds may still use.
type Held struct {
	Jobs    []Hold          `json:"jobs"`
	GPUTime quantity.Amount `json:"gpu_ms"`
	Cost    quantity.Amount `json:"cost"`
}

// Loan is how many GPUs of a class the budget has of others now, and others of it, in
// parts of a GPU.
type Loan struct {
	Class    string          `json:"class"`
	Cohort   string          `json:"cohort"`
	Borrowed quantity.Amount `json:"borrowed"`
	Lent     quantity.Amount `json:"lent"`
}

// Idle is what cost something and did nothing.
type Idle struct {
	// Allocated is what jobs of the budget had and did not use, as far as it was
	// measured. It is in what was used.
	Allocated report.Amounts `json:"allocated"`
	// Rule is how the capacity that nobody held is shared out: shared, owner or none.
	Rule string `json:"rule"`
	// Share is the budget's part of that capacity. It is shown, and not charged: it is
	// in no balance.
	Share report.Amounts `json:"share"`
}

// Correction is one entry that a person wrote.
type Correction struct {
	Key       string          `json:"key"`
	At        time.Time       `json:"at"`
	Budget    string          `json:"budget"`
	Namespace string          `json:"namespace,omitempty"`
	JobID     string          `json:"job_id,omitempty"`
	Author    string          `json:"author"`
	Reason    string          `json:"reason"`
	GPUTime   quantity.Amount `json:"gpu_ms"`
	Cost      quantity.Amount `json:"cost"`
	Energy    quantity.Amount `json:"energy_j"`
}

// Make puts a statement together. The order of what is in the input does not matter.
func Make(in Input) Statement {
	s := Statement{Head: in.Head, Limits: in.Limits, Loans: in.Loans, Grants: []Grant{}, Corrections: []Correction{}, Incomplete: []string{}}
	if s.Limits == nil {
		s.Limits = []Limit{}
	}
	if s.Loans == nil {
		s.Loans = []Loan{}
	}
	s.Account = accountOf(in.Opening, in.Rows)
	s.Groups = groups(in.Budget, in.Rows)
	if in.Open {
		s.Held = heldBy(in.Holds)
	}
	s.Idle = idleOf(in)
	for _, g := range in.Grants {
		s.Grants = append(s.Grants, Grant{ID: g.ID, Budget: g.Budget, Rule: g.Rule, By: g.Accessor, Reason: g.Reason,
			From: time.UnixMilli(g.FromMS).UTC(), Until: time.UnixMilli(g.End()).UTC(), Adds: g.Max})
	}
	slices.SortFunc(s.Grants, func(a, b Grant) int { return cmp.Or(a.From.Compare(b.From), strings.Compare(a.ID, b.ID)) })
	for _, e := range in.Corrections {
		s.Corrections = append(s.Corrections, Correction{Key: e.Key, At: time.UnixMilli(e.FromMS).UTC(), Budget: e.Budget, Namespace: e.Namespace, JobID: e.JobID,
			Author: e.Author, Reason: e.Cause, GPUTime: e.GPUTime, Cost: e.Cost, Energy: e.Energy})
	}
	slices.SortFunc(s.Corrections, func(a, b Correction) int { return cmp.Or(a.At.Compare(b.At), strings.Compare(a.Key, b.Key)) })
	return s
}

// In is the statement with its times in a zone: JSON does not keep which one it was.
func (s Statement) In(loc *time.Location) Statement {
	s.From, s.To = s.From.In(loc), s.To.In(loc)
	s.Limits = slices.Clone(s.Limits)
	for i, l := range s.Limits {
		if l.Start != nil && l.End != nil {
			start, end := l.Start.In(loc), l.End.In(loc)
			s.Limits[i].Start, s.Limits[i].End = &start, &end
		}
	}
	return s
}

// Counted reports whether a grant raised the limits of a budget, or of one below it, at
// some time in [from, to).
func Counted(g ledger.Grant, path string, from, to time.Time) bool {
	return Within(g.Budget, path) && g.FromMS != 0 && g.FromMS < to.UnixMilli() && g.End() > max(g.FromMS, from.UnixMilli())
}

// Within reports whether a budget's path is another one or below it.
func Within(path, top string) bool { return path == top || strings.HasPrefix(path, top+"/") }

func accountOf(opening, rows []report.Row) Account {
	var a Account
	for _, r := range opening {
		if ledger.PostedKind(r.Kind) {
			a.Opening = a.Opening.Add(r.Amounts)
		}
	}
	for _, r := range rows {
		switch {
		case r.Kind == ledger.CorrectionEntry:
			a.Corrected = a.Corrected.Add(r.Amounts)
		case ledger.PostedKind(r.Kind):
			a.Used = a.Used.Add(r.Amounts)
			if r.Estimated {
				a.Estimated = a.Estimated.Add(r.Amounts)
			}
		case r.Kind == ledger.OverdraftEntry:
			a.Overdraft = a.Overdraft.Add(r.Amounts)
		}
	}
	a.Closing = a.Opening.Add(a.Used).Add(a.Corrected)
	return a
}

// The places of Columns in the key of a row.
const (
	atBudget = iota
	atNamespace
	atJob
	atUser
	atClass
	atCard
	atModel
	atDay
)

// groups are the divisions of a statement. One without anything to divide by is left
// out: by model where no tokens were counted.
func groups(top string, rows []report.Row) []Group {
	by := []struct {
		name string
		key  func(key []string) []string
	}{
		{"budget", func(key []string) []string { return []string{childOf(top, key[atBudget])} }},
		{"class", func(key []string) []string { return []string{key[atClass]} }},
		{"user", func(key []string) []string { return []string{key[atUser]} }},
		{"namespace", func(key []string) []string { return []string{key[atNamespace]} }},
		{"job", func(key []string) []string { return []string{key[atNamespace], key[atJob]} }},
		{"model", func(key []string) []string { return []string{key[atModel]} }},
		{"rate_card", func(key []string) []string { return []string{key[atCard]} }},
		{"day", func(key []string) []string { return []string{key[atDay]} }},
	}
	out := make([]Group, 0, len(by))
	for _, b := range by {
		regrouped := make([]report.Row, 0, len(rows))
		for _, r := range rows {
			if r.Kind == ledger.UnallocatedEntry || r.Kind == ledger.UngovernedEntry {
				continue
			}
			r.Key = b.key(r.Key)
			regrouped = append(regrouped, r)
		}
		made := report.Make(report.Query{}, "", "", regrouped)
		if b.name == "model" && !slices.ContainsFunc(made.Lines, func(l report.Line) bool { return l.Key[0] != "" }) {
			continue
		}
		out = append(out, Group{By: b.name, Lines: made.Lines, Total: made.Total})
	}
	return out
}

// childOf is the budget directly below top in which path lies; top itself for its own.
func childOf(top, path string) string {
	below, inside := strings.CutPrefix(path, top+"/")
	if !inside {
		return path
	}
	name, _, _ := strings.Cut(below, "/")
	return top + "/" + name
}

func heldBy(holds []Hold) *Held {
	h := &Held{Jobs: slices.Clone(holds)}
	if h.Jobs == nil {
		h.Jobs = []Hold{}
	}
	slices.SortFunc(h.Jobs, func(a, b Hold) int {
		return cmp.Or(strings.Compare(a.Namespace, b.Namespace), strings.Compare(a.JobID, b.JobID), strings.Compare(a.Budget, b.Budget))
	})
	for _, one := range h.Jobs {
		h.GPUTime, h.Cost = h.GPUTime.Add(one.GPUTime), h.Cost.Add(one.Cost)
	}
	return h
}
