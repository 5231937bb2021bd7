package ledger

import (
	"errors"
	"fmt"
	"slices"
	"time"
)

// GrantState is where a grant stands.
//
//	                    enough approvals            time is up
//	request ► Waiting ───────────────────► Active ─────────────► Ended
//	             │  ├── refused ► Refused     └── revoked ► Revoked
//	             └─ nobody cares ► Lapsed
type GrantState string

// The states of a grant.
const (
	GrantWaiting GrantState = "waiting"
	GrantActive  GrantState = "active"
	GrantEnded   GrantState = "ended"
	GrantRefused GrantState = "refused"
	GrantRevoked GrantState = "revoked"
	GrantLapsed  GrantState = "lapsed"
)

// GrantWaits is how long a request waits for approval before it lapses.
const GrantWaits = 72 * time.Hour

// State of the grant at an instant.
func (g Grant) State(nowMS int64) GrantState {
	switch {
	case g.RevokedMS != 0 && g.FromMS == 0:
		return GrantRefused
	case g.RevokedMS != 0:
		return GrantRevoked
	case g.FromMS == 0 && nowMS >= g.RequestedMS+GrantWaits.Milliseconds():
		return GrantLapsed
	case g.FromMS == 0:
		return GrantWaiting
	case nowMS >= g.UntilMS:
		return GrantEnded
	}
	return GrantActive
}

// Live reports whether the grant counts or may yet count.
func (g Grant) Live(nowMS int64) bool {
	s := g.State(nowMS)
	return s == GrantWaiting || s == GrantActive
}

// The reasons why an approval does not count, for errors.Is.
var (
	ErrOwnRequest   = errors.New("who asked for an override cannot approve it")
	ErrApprovedOnce = errors.New("you have approved this override already; it takes somebody else's approval too")
	ErrNotWaiting   = errors.New("the override does not wait for approval any more")
	ErrNotLive      = errors.New("the override is over already")
)

// End is when the grant stops counting, in Unix milliseconds; 0 if it never counted.
func (g Grant) End() int64 {
	if g.RevokedMS != 0 {
		return min(g.UntilMS, g.RevokedMS)
	}
	return g.UntilMS
}

// GrantOf is the entry that keeps a grant which is over. It has no amounts: a grant
// raises limits.
func GrantOf(g Grant) Entry {
	return Entry{Key: "grant/" + g.ID, Kind: GrantEntry, Budget: g.Budget, Submitter: g.Accessor, FromMS: g.FromMS, ToMS: max(g.FromMS, g.End()), Grant: &g}
}

// Approve counts one yes. The grant becomes active, for lasts, with the last
// approval that it needs.
func (g Grant) Approve(a Approval, lasts time.Duration) (Grant, error) {
	switch {
	case g.State(a.AtMS) != GrantWaiting:
		return g, fmt.Errorf("%w: it is %s", ErrNotWaiting, g.State(a.AtMS))
	case a.By == g.Accessor:
		return g, ErrOwnRequest
	case slices.ContainsFunc(g.Approvals, func(other Approval) bool { return other.By == a.By }):
		return g, ErrApprovedOnce
	}
	g.Approvals = append(slices.Clone(g.Approvals), a)
	if len(g.Approvals) >= g.Needed {
		g = g.Activate(a.AtMS, lasts)
	}
	return g, nil
}

// Activate lets the grant count from an instant on.
func (g Grant) Activate(nowMS int64, lasts time.Duration) Grant {
	g.FromMS, g.UntilMS = nowMS, nowMS+lasts.Milliseconds()
	return g
}

// Revoke refuses a grant that waits, or takes back one that is active.
func (g Grant) Revoke(by string, nowMS int64) (Grant, error) {
	if !g.Live(nowMS) {
		return g, fmt.Errorf("%w: it is %s", ErrNotLive, g.State(nowMS))
	}
	g.RevokedMS, g.RevokedBy = nowMS, by
	return g, nil
}
