package notice

import (
	"slices"
	"strings"
	"time"
)

const (
	// outboxMost is how many events wait for one notifier at most; then the oldest is
	// given up for each new one.
	outboxMost = 500
	// giveUpAfter is how long an event is tried.
	giveUpAfter = 24 * time.Hour
	// retryFirst is the pause after the first failure; it doubles up to retryMost. A
	// pause is shortened by up to a half, at random, so that what failed together is not
	// tried together.
	retryFirst = 2 * time.Second
	retryMost  = 10 * time.Minute
	errorMost  = 200
)

// Outbox are the events that wait for one notifier.
type Outbox struct {
	Waiting []Waiting `json:"waiting"`
	// Sent and GivenUp count events since the outbox was made.
	Sent    uint64 `json:"sent,omitempty"`
	GivenUp uint64 `json:"given_up,omitempty"`
	// Error is why the last attempt failed, "" if it did not.
	Error string `json:"error,omitempty"`
}

// Waiting is one event that was not delivered yet.
type Waiting struct {
	Event
	Attempts int `json:"attempts,omitempty"`
	// NextMS is when it is tried again.
	NextMS int64 `json:"next_ms,omitempty"`
}

// With is the outbox with further events.
func (o Outbox) With(events ...Event) Outbox {
	o.Waiting = slices.Clone(o.Waiting)
	for _, e := range events {
		o.Waiting = append(o.Waiting, Waiting{Event: e})
	}
	if n := len(o.Waiting) - outboxMost; n > 0 {
		o.GivenUp += uint64(n)
		o.Waiting = o.Waiting[n:]
	}
	return o
}

// Due are the events to try now: of each subject the first, unless its pause is not
// over. next is when there will be others; zero if nothing waits for a time.
func (o Outbox) Due(now time.Time) (due []Waiting, next time.Time) {
	seen := make(map[string]bool)
	for _, w := range o.Waiting {
		if seen[w.Subject] {
			continue
		}
		seen[w.Subject] = true
		if at := time.UnixMilli(w.NextMS); !at.After(now) {
			due = append(due, w)
		} else if next.IsZero() || at.Before(next) {
			next = at
		}
	}
	return due, next
}

// Delivered is the outbox without an event that was delivered.
func (o Outbox) Delivered(id string) Outbox {
	if i := o.index(id); i >= 0 {
		o.Waiting = slices.Delete(slices.Clone(o.Waiting), i, i+1)
		o.Sent++
		o.Error = ""
	}
	return o
}

// Failed is the outbox after an attempt that failed. random is from 0 to 1. An event
// that was tried for a day is given up.
func (o Outbox) Failed(id, why string, now time.Time, random float64) Outbox {
	i := o.index(id)
	if i < 0 {
		return o
	}
	if len(why) > errorMost {
		why = strings.ToValidUTF8(why[:errorMost], "") + "…"
	}
	o.Error = why
	o.Waiting = slices.Clone(o.Waiting)
	w := &o.Waiting[i]
	if now.Sub(time.UnixMilli(w.AtMS)) >= giveUpAfter {
		o.Waiting = slices.Delete(o.Waiting, i, i+1)
		o.GivenUp++
		return o
	}
	pause := retryMost
	if w.Attempts < 10 {
		pause = min(retryFirst<<w.Attempts, retryMost)
	}
	w.Attempts++
	w.NextMS = now.Add(pause - time.Duration(random*float64(pause)/2)).UnixMilli()
	return o
}

func (o Outbox) index(id string) int {
	return slices.IndexFunc(o.Waiting, func(w Waiting) bool { return w.ID == id })
}
