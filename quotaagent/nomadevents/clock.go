package nomadevents

import (
	"net/http"
	"sync/atomic"
	"time"
)

// Clock compares this machine's clock with Nomad's, by the Date of its answers.
// Allocations begin and end by Nomad's clock, and ours may be wrong.
type Clock struct {
	now   func() time.Time
	ahead atomic.Int64
}

// NewClock returns a comparison of now, which has heard of no answer yet.
func NewClock(now func() time.Time) *Clock { return &Clock{now: now} }

// Watch wraps the transport by which Nomad is asked.
func (c *Clock) Watch(next http.RoundTripper) http.RoundTripper { return watched{c, next} }

// Ahead is by how much this clock was ahead of Nomad's at the last answer, at least;
// 0 when it was not, or when nothing is known. A Date has no fractions of a second,
// so that up to one second more is possible.
func (c *Clock) Ahead() time.Duration {
	if c == nil {
		return 0
	}
	return time.Duration(c.ahead.Load())
}

type watched struct {
	clock *Clock
	next  http.RoundTripper
}

// RoundTrip implements http.RoundTripper.
func (w watched) RoundTrip(r *http.Request) (*http.Response, error) {
	response, err := w.next.RoundTrip(r)
	if err != nil {
		return response, err
	}
	if date, unreadable := http.ParseTime(response.Header.Get("Date")); unreadable == nil {
		w.clock.ahead.Store(int64(max(0, w.clock.now().Sub(date.Add(time.Second)))))
	}
	return response, nil
}
