package agent

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/http"
	"regexp"
	"strings"
	"time"

	"github.com/nomad-governor/governor/internal/quantity"
	"github.com/nomad-governor/governor/quotaagent/api"
	"github.com/nomad-governor/governor/quotaagent/budget"
	"github.com/nomad-governor/governor/quotaagent/ledger"
)

// CorrectionRequest changes what was posted to a budget by a new entry.
type CorrectionRequest struct {
	// ID makes a request that is sent twice count once; 8 to 40 letters, digits and
	// hyphens.
	ID string `json:"id"`
	// Budget is the path, Namespace and JobID of the job that is corrected, if it is
	// about one.
	Budget    string `json:"budget"`
	Namespace string `json:"namespace,omitempty"`
	JobID     string `json:"job_id,omitempty"`
	// Amounts by the names of the language ("cost", "gpu_hours.h100"), in its units:
	// "-12.50" takes back.
	Amounts map[string]string `json:"amounts"`
	// At is when what is corrected was used: "" is now, else as ParseTime reads it.
	At     string `json:"at,omitempty"`
	Reason string `json:"reason"`
}

var correctionID = regexp.MustCompile(`^[A-Za-z0-9-]{8,40}$`)

func (a *Agent) serveCorrection(ctx context.Context, c api.Call) (any, error) {
	r, err := api.Decode[CorrectionRequest](c)
	if err != nil {
		return nil, err
	}
	return a.correct(ctx, c.Caller, r)
}

// correct posts a correction and returns its entry. One with an id that was posted
// before is not posted again.
func (a *Agent) correct(ctx context.Context, who api.Caller, r CorrectionRequest) (ledger.Entry, error) {
	h, err := a.historyOf()
	if err != nil {
		return ledger.Entry{}, err
	}
	p := a.Keeper.State().Policy
	e, err := correctionOf(p, who, r, a.Engine.now())
	if err != nil {
		return e, err
	}
	if missing, err := h.store.Missing(ctx, []ledger.Entry{e}); err != nil || len(missing) == 0 {
		return e, err
	}
	event := AuditEvent{At: a.Engine.now(), Kind: "usage.corrected", Actor: who.Accessor, Names: who.Names, Budget: e.Budget, Subject: r.ID,
		Text: fmt.Sprintf("%s corrected the usage of %s by %s: %s", who.Accessor, e.Budget, strings.Join(changes(p, e), ", "), e.Cause)}
	return e, a.Engine.postAside(ctx, e, ledger.CalendarOf(p), event)
}

// changes are the amounts of a correction for people.
func changes(p *budget.Policy, e ledger.Entry) []string {
	var texts []string
	for c := range e.PostedVector(time.UTC, []budget.Window{budget.Total}).All() {
		texts = append(texts, c.Dimension.Format(c.Amount, p.Currency))
	}
	return texts
}

// correctionOf is the entry of a request.
func correctionOf(p *budget.Policy, who api.Caller, r CorrectionRequest, now time.Time) (ledger.Entry, error) {
	e := ledger.Entry{Key: "correction/" + r.ID, Kind: ledger.CorrectionEntry, Budget: r.Budget, Namespace: r.Namespace, JobID: r.JobID,
		HoldID: "c-" + r.ID, Author: who.Accessor, Cause: strings.TrimSpace(r.Reason), FromMS: now.UnixMilli(), WrittenMS: now.UnixMilli()}
	switch {
	case !correctionID.MatchString(r.ID):
		return e, refusal(http.StatusBadRequest, "id is %.60q; it must be 8 to 40 letters, digits and hyphens", r.ID)
	case p.Find(r.Budget) == nil:
		return e, refusal(http.StatusNotFound, "there is no budget %.200q; `governor budget status` lists all", r.Budget)
	case e.Cause == "" || len(e.Cause) > reasonMax:
		return e, refusal(http.StatusBadRequest, "a correction needs a reason of at most %d bytes: give -reason", reasonMax)
	}
	if r.At != "" {
		begin, _, err := parseAt(r.At, now, p.Location)
		if err != nil {
			return e, err
		}
		e.FromMS = begin.UnixMilli()
	}
	e.ToMS = e.FromMS
	card, _ := p.RateAt(time.UnixMilli(e.FromMS))
	e.RateCard = card.Name
	if err := setAmounts(p, &e, r.Amounts); err != nil {
		return e, err
	}
	if err := e.Validate(); err != nil {
		return e, refusal(http.StatusBadRequest, "%v", err)
	}
	return e, nil
}

// setAmounts reads the amounts of a correction, which may be negative.
func setAmounts(p *budget.Policy, e *ledger.Entry, texts map[string]string) error {
	if len(texts) == 0 {
		return refusal(http.StatusBadRequest, "a correction needs an amount, such as cost = \"-12.50\"")
	}
	for _, name := range sortedKeys(texts) {
		text, negative := strings.CutPrefix(texts[name], "-")
		amounts, err := budget.ParseAmounts(map[string]string{name: text})
		if err != nil {
			return refusal(http.StatusBadRequest, "amounts: %v", err)
		}
		for d, a := range amounts {
			if negative {
				a = -a
			}
			switch {
			case d == budget.Cost:
				e.Cost = a
			case d == budget.Energy:
				e.Energy = a
			case d.IsTokens():
				if e.Tokens == nil {
					e.Tokens = make(map[budget.TokenKind]quantity.Amount)
				}
				e.Tokens[budget.TokenKind(d.Class())] = a
			case d.IsGPUTime() && d.Class() != budget.AnyClass && e.Class == "":
				e.Class, e.GPUTime = d.Class(), a
			default:
				return refusal(http.StatusBadRequest, "a correction is of cost, energy, tokens, and the hours of one class (gpu_hours.<class>), not of %s", name)
			}
		}
	}
	if e.Class != "" {
		e.Shares = make(map[string]quantity.Amount)
		for _, c := range p.Counts(e.Class) {
			part := quantity.MulDiv(max(e.GPUTime, -e.GPUTime), int64(c.Parts), int64(quantity.GPU))
			if e.GPUTime < 0 {
				part = -part
			}
			e.Shares[c.Class] = part
		}
	}
	return nil
}

// errTakesMore means that a correction would leave less than nothing.
var errTakesMore = errors.New("it takes back more than was posted")

// postAside posts an entry that belongs to no open hold, in one commit with an
// outbox of its own and the audit record. One that was posted already is nothing.
func (e *Engine) postAside(ctx context.Context, entry ledger.Entry, cal ledger.Calendar, event AuditEvent) error {
	var writes []ledger.Write
	var err error
	for attempt := 0; ; attempt++ {
		if writes, err = e.books.aside(ctx, entry, cal); err == nil && len(writes) > 0 {
			err = e.chain.commit(ctx, ledger.Fence{}, writes, event)
		}
		if !errors.Is(err, ledger.ErrConflict) || attempt == commitAttempts {
			break
		}
		pause(ctx, time.Duration(rand.Int64N(int64(min(attempt+1, 10))*int64(5*time.Millisecond))))
	}
	switch {
	case errors.Is(err, errTakesMore):
		return refusal(http.StatusBadRequest, "%v", err)
	case err != nil:
		return fmt.Errorf("correct the usage of %s: %w", entry.Budget, err)
	case len(writes) == 0:
		return nil
	}
	if err := e.books.recorder.Record(ctx, []ledger.Entry{entry}); err != nil {
		e.books.unrecorded(fmt.Errorf("record history: %w", err)) // it is in its outbox
	}
	return nil
}

// aside are the writes that post an entry which belongs to no open hold; none if it
// was posted already.
func (b *books) aside(ctx context.Context, e ledger.Entry, cal ledger.Calendar) ([]ledger.Write, error) {
	key := settledPrefix + e.HoldID
	records, err := b.store.Read(ctx, key)
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", key, err)
	}
	if records[0].Version != 0 {
		return nil, nil
	}
	paths := ledger.Ancestors(e.Budget)
	balances, versions, err := b.readBalances(ctx, paths)
	if err != nil {
		return nil, err
	}
	now := b.now()
	h := ledger.Hold{ID: e.HoldID, Namespace: e.Namespace, JobID: e.JobID, Budget: e.Budget, State: ledger.Active, CreatedMS: now.UnixMilli()}
	value, err := ledger.Encode(ledger.Remains{Hold: h.PutOut([]ledger.Entry{e}), EndedMS: now.UnixMilli()})
	if err != nil {
		return nil, fmt.Errorf("encode %s: %w", key, err)
	}
	writes := []ledger.Write{{Key: key, Value: value}}
	posted := e.PostedVector(cal.Location, allWindows())
	for _, path := range paths {
		next := balances[path].Clone().Begun(now.UnixMilli())
		next.Post(posted, now, cal.HalfLife(path))
		for _, c := range posted.Row(budget.Total.String()) {
			if d := c.Dimension; next.Posted.At(budget.Total.String(), d) < 0 {
				return nil, fmt.Errorf("%w to %s: only %s", errTakesMore, path, d.Format(balances[path].Posted.At(budget.Total.String(), d), ""))
			}
		}
		next.Prune(now, keepPosted, cal)
		value, err := next.Encode()
		if err != nil {
			return nil, fmt.Errorf("encode balance of %s: %w", path, err)
		}
		writes = append(writes, ledger.Write{Key: balancePrefix + path, Value: value, Version: versions[path]})
	}
	return writes, nil
}

// allWindows are those that usage is posted to.
func allWindows() []budget.Window {
	return []budget.Window{budget.Hour, budget.Day, budget.Week, budget.Month, budget.Quarter, budget.Year, budget.Total}
}

func parseAt(text string, now time.Time, loc *time.Location) (begin, end time.Time, err error) {
	begin, end, err = reportTime(text, now, loc)
	switch {
	case err != nil:
		return begin, end, refusal(http.StatusBadRequest, "at: %v", err)
	case begin.After(now):
		return begin, end, refusal(http.StatusBadRequest, "at is %s, which is still to come", text)
	}
	return begin, end, nil
}
