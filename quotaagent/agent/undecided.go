package agent

import (
	"errors"
	"fmt"

	"github.com/nomad-governor/governor/quotaagent/admission"
	"github.com/nomad-governor/governor/quotaagent/ledger"
)

// undecided is why no decision is possible, worded for the author of a job. The
// cause may hold addresses and keys: it goes to the log only.
type undecided struct{ cause error }

// Error says what failed, and the stable reason.
func (u *undecided) Error() string {
	text := "an internal error, which the agent's log explains"
	switch {
	case errors.Is(u.cause, errNotLoaded):
		text = errNotLoaded.Error()
	case errors.Is(u.cause, ledger.ErrUnavailable):
		text = "the ledger cannot be reached"
	case errors.Is(u.cause, ledger.ErrConflict):
		text = "too many changes of the same budgets at once"
	case errors.Is(u.cause, errUnsettled):
		text = errUnsettled.Error()
	}
	return fmt.Sprintf("%s (%s)", text, admission.LedgerUnavailable)
}

// Unwrap is the cause.
func (u *undecided) Unwrap() error { return u.cause }
