package agent

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/nomad-governor/governor/quotaagent/audit"
	"github.com/nomad-governor/governor/quotaagent/budget"
	"github.com/nomad-governor/governor/quotaagent/ledger"
)

// posting derives from one change all documents that it makes different.
type posting struct {
	b     *books
	s     *sheet
	t     target
	old   *ledger.Hold
	want  change
	delta map[string]any
	// outbox is the name of the outbox that the entries of the change are in.
	outbox string
	// out is all that is in it: also what could not be recorded before.
	out []ledger.Entry
}

// derive fills delta, or returns errNoChange when there is nothing to write.
func (p *posting) derive(ctx context.Context) error {
	if err := p.queue(); err != nil {
		return err
	}
	if p.old == nil && p.want.hold == nil {
		if !p.want.posted.IsZero() || len(p.want.entries) > 0 {
			return fmt.Errorf("usage of a job without a hold")
		}
	} else if err := p.hold(ctx); err != nil {
		return err
	}
	runs, err := p.runs()
	if err != nil {
		return err
	}
	if err := p.balances(runs); err != nil {
		return err
	}
	if err := p.audit(); err != nil {
		return err
	}
	if len(p.delta) == 0 {
		return errNoChange
	}
	return nil
}

// errChainUnread means that the end of the audit chain must be read first.
var errChainUnread = errors.New("the end of the audit chain is not on the sheet")

// audit puts what the change is recorded as behind the end of the audit chain.
func (p *posting) audit() error {
	if len(p.want.audit) == 0 {
		return nil
	}
	d, known := p.s.get(auditHeadKey)
	if !known {
		p.s.audited = true
		return errChainUnread
	}
	if d.err != nil {
		return d.err
	}
	head, _ := d.value.(audit.Head)
	for _, e := range p.want.audit {
		var r audit.Record
		r, head = head.Append(e.record())
		key := auditKey(r.Seq)
		p.s.docs[key] = document{fresh: true} // the end of the chain says that there is none
		p.delta[key] = r
	}
	p.delta[auditHeadKey] = head
	return nil
}

func (p *posting) queue() error {
	if p.want.queued == nil && !p.want.unqueue {
		return nil
	}
	key := queueKey(p.t.key)
	d, known := p.s.get(key)
	if !known {
		return fmt.Errorf("the queue of a target without a budget")
	}
	switch {
	case p.want.queued != nil:
		p.delta[key] = p.want.queued
	case d.value != nil:
		p.delta[key] = nil
	}
	return nil
}

// hold derives the hold's own document, or its remains when it has ended.
func (p *posting) hold(ctx context.Context) error {
	if p.want.hold == nil {
		p.end()
		return nil
	}
	next := *p.want.hold
	next.Charged = ledger.Charges(next, p.t.calendar)
	next.Drawn = nil
	if next.Run != "" {
		next.Drawn = ledger.Draws(next, p.t.calendar)
	}
	if len(p.want.entries) > 0 {
		// What another change of this commit has put out is not in the store yet: it may
		// still come out differently, and nobody must have recorded it.
		if _, unsaved := p.s.next[p.t.key]; !unsaved {
			sent, err := p.b.sent(ctx, p.t.key, next)
			if err != nil {
				return err
			}
			next = sent
		}
		next = next.PutOut(p.want.entries)
		p.outbox, p.out = outboxName(next), next.Entries()
	}
	p.want.hold = &next
	key := p.t.key
	if p.want.moved {
		p.delta[key] = nil
		key = p.t.to
	}
	p.delta[key] = &next
	return nil
}

// end removes the hold and keeps what remains of it, with its receipt.
func (p *posting) end() {
	p.delta[p.t.key] = nil
	last := *p.old
	if p.want.ended != nil {
		last = *p.want.ended
		last.ID, last.Outbox = p.old.ID, p.old.Outbox
	}
	p.want.entries = append(slices.Clone(p.want.entries), ledger.ReceiptOf(last, p.b.now().UnixMilli()))
	last = last.PutOut(p.want.entries)
	p.outbox, p.out = outboxName(last), last.Entries()
	last.Charged, last.Drawn, last.Finished, last.Slots, last.Placement = ledger.Vector{}, nil, nil, nil, nil
	key := settledPrefix + last.ID
	p.s.docs[key] = document{fresh: true} // ids are unique, so that there is none
	p.delta[key] = &ledger.Remains{Hold: last, EndedMS: p.b.now().UnixMilli()}
}

// runDelta is a run before and after the change.
type runDelta struct {
	old, next *ledger.Run
}

// runs derives the envelopes that the change concerns: those of the hold before
// and after it, and the one that the change itself names.
func (p *posting) runs() (map[string]runDelta, error) {
	deltas := make(map[string]runDelta)
	for _, id := range p.runIDs() {
		key := runPrefix + id
		d, known := p.s.get(key)
		if !known {
			return nil, fmt.Errorf("run %q was not named by the target", id)
		}
		old, _ := d.value.(*ledger.Run)
		var next ledger.Run
		switch {
		case p.want.run != nil && p.want.run.ID == id:
			next = *p.want.run
			next.Posted, next.Held, next.Jobs, next.Open, next.Requests = nil, nil, 0, 0, 0
			if old != nil {
				next.Posted, next.Held, next.Jobs, next.Open, next.Requests = old.Posted, old.Held, old.Jobs, old.Open, old.Requests
			}
		case old != nil:
			next = *old
		default:
			continue // it is gone, and nothing is counted for it any more
		}
		p.draw(&next, id)
		next.Charged = ledger.RunCharges(next, p.t.calendar)
		deltas[id] = runDelta{old, &next}
		p.delta[key] = &next
	}
	return deltas, nil
}

func (p *posting) runIDs() []string {
	var ids []string
	for _, h := range []*ledger.Hold{p.old, p.want.hold} {
		if h != nil && h.Run != "" {
			ids = append(ids, h.Run)
		}
	}
	if p.want.run != nil {
		ids = append(ids, p.want.run.ID)
	}
	slices.Sort(ids)
	return slices.Compact(ids)
}

// draw moves what the hold draws from a run, and what of it was used.
func (p *posting) draw(run *ledger.Run, id string) {
	run.Held, run.Posted = maps.Clone(run.Held), maps.Clone(run.Posted)
	was := p.old != nil && p.old.Run == id
	is := p.want.hold != nil && p.want.hold.Run == id
	if was {
		addAmounts(&run.Held, p.old.Drawn, -1)
		countOpen(run, *p.old, -1)
	}
	if is {
		addAmounts(&run.Held, p.want.hold.Drawn, 1)
		countOpen(run, *p.want.hold, 1)
	}
	if is && !was && p.want.hold.Request == nil {
		run.Jobs++
	}
	if is || was && p.want.hold == nil {
		for _, c := range p.want.posted.Row(budget.Total.String()) {
			addAmounts(&run.Posted, ledger.Amounts{c.Dimension: c.Amount}, 1)
		}
	}
}

// countOpen counts a hold of a run, as long as it holds something.
func countOpen(run *ledger.Run, h ledger.Hold, sign int) {
	switch {
	case h.Request == nil:
		run.Open += sign
	case h.Holds():
		run.Requests += sign
	}
}

// addAmounts adds amounts times sign; what becomes nothing is left out, so that
// equal sums are equal documents.
func addAmounts(to *ledger.Amounts, amounts ledger.Amounts, sign int64) {
	for d, a := range amounts {
		if *to == nil {
			*to = ledger.Amounts{}
		}
		if (*to)[d] = (*to)[d].Add(a.Mul(sign)); (*to)[d] == 0 {
			delete(*to, d)
		}
	}
}

// balances derives every balance on the paths of the hold and of the runs: the old
// charge taken out, the new one put in, and the usage posted.
func (p *posting) balances(runs map[string]runDelta) error {
	changes := make(map[string]*ledger.Balance)
	at := func(path string) (*ledger.Balance, error) {
		if b, there := changes[path]; there {
			return b, nil
		}
		d, known := p.s.get(balancePrefix + path)
		if !known {
			return nil, fmt.Errorf("budget %q was not named by the target", path)
		}
		if d.err != nil {
			return nil, d.err
		}
		b := balanceOf(d).Clone().Begun(p.b.now().UnixMilli())
		changes[path] = &b
		return &b, nil
	}
	move := func(leaf string, held ledger.Vector, sign int64, posted ledger.Vector) error {
		for _, path := range ledger.Ancestors(leaf) {
			b, err := at(path)
			if err != nil {
				return err
			}
			b.Held.AddAll(held, sign)
			b.Post(posted, p.b.now(), p.t.calendar.HalfLife(path))
		}
		return nil
	}
	if err := p.moveHold(move); err != nil {
		return err
	}
	for _, id := range sortedKeys(runs) {
		r := runs[id]
		if r.old != nil && !r.old.Charged.IsZero() {
			if err := move(r.old.Budget, r.old.Charged, -1, ledger.Vector{}); err != nil {
				return err
			}
		}
		if !r.next.Charged.IsZero() {
			if err := move(r.next.Budget, r.next.Charged, 1, ledger.Vector{}); err != nil {
				return err
			}
		}
	}
	if p.want.tokenRest != nil {
		b, err := at(p.want.hold.Budget)
		if err != nil {
			return err
		}
		b.TokenRest = *p.want.tokenRest
	}
	for path, b := range changes {
		b.Prune(p.b.now(), keepPosted, p.t.calendar)
		p.delta[balancePrefix+path] = *b
	}
	return nil
}

// moveHold moves the charge of the hold. What is posted is posted to the budget
// that the job draws from now.
func (p *posting) moveHold(move func(leaf string, held ledger.Vector, sign int64, posted ledger.Vector) error) error {
	posted := p.want.posted
	if next := p.want.hold; next != nil {
		if err := move(next.Budget, next.Charged, 1, posted); err != nil {
			return err
		}
		posted = ledger.Vector{}
	}
	if p.old != nil {
		return move(p.old.Budget, p.old.Charged, -1, posted)
	}
	return nil
}

// outboxName tells one filling of an outbox from another.
func outboxName(h ledger.Hold) string {
	if len(h.Outbox) == 0 {
		return ""
	}
	var name strings.Builder
	fmt.Fprintf(&name, "%s %d %s", h.ID, len(h.Outbox), h.Outbox[len(h.Outbox)-1].Key)
	return name.String()
}
