package gate

import (
	"fmt"
	"net"
	"net/http"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/shoenig/test/must"
)

// A client that sends slowly, or that says it will send much, holds what it has
// sent and no more, and not longer than the gate waits for a body.
func TestGate_slowClientsHoldNoMoreThanTheySent(t *testing.T) {
	r := newRig(t, func(c *Config) { c.BodyTimeout = 2 * time.Second })
	heap := func() uint64 {
		runtime.GC()
		var m runtime.MemStats
		runtime.ReadMemStats(&m)
		return m.HeapAlloc
	}
	before := heap()
	const clients, sent = 200, 8 << 10
	conns := make([]net.Conn, clients)
	for i := range conns {
		conns[i] = r.dial(t)
		_, err := fmt.Fprintf(conns[i], "PUT /v1/jobs HTTP/1.1\r\nHost: nomad\r\nContent-Length: %d\r\n\r\n%s", 31<<20, strings.Repeat(" ", sent))
		must.NoError(t, err)
	}
	time.Sleep(500 * time.Millisecond) // all bodies are being read
	// 31 MiB for each would be 6 GB. What each may hold is a few buffers.
	must.Less(t, before+clients*(4*sent+32<<10), heap())
	for _, c := range conns {
		must.EqOp(t, http.StatusBadRequest, answerOn(t, c).status)
	}
	must.Len(t, 0, r.nomad.writes())
}

// A body over the cap is given up at the cap, whatever its length is said to be.
func TestGate_aBodyOverTheCapIsNotReadToItsEnd(t *testing.T) {
	t.Parallel()
	const limit = 64 << 10
	for _, path := range []string{"/v1/jobs", "/v1/job/a/plan", "/v1/job/a/dispatch/payload", "/v1/job/a/scale", "/v1/job/a/stable"} {
		r := newRig(t, func(c *Config) { c.BodyMax = limit })
		c := r.dial(t)
		_, err := fmt.Fprintf(c, "PUT %s HTTP/1.1\r\nHost: nomad\r\nTransfer-Encoding: chunked\r\n\r\n", path)
		must.NoError(t, err)
		done := make(chan int64)
		go func() { // endless
			chunk := []byte("1000\r\n" + strings.Repeat(" ", 0x1000) + "\r\n")
			var sent int64
			for {
				n, err := c.Write(chunk)
				sent += int64(n)
				if err != nil || sent > 1<<30 {
					break
				}
			}
			done <- sent
		}()
		a := answerOn(t, c)
		must.EqOp(t, http.StatusRequestEntityTooLarge, a.status)
		must.EqOp(t, ReasonBodyTooLarge, a.reason)
		must.NoError(t, c.Close())
		must.Less(t, 64<<20, <-done) // the rest is in the sockets' buffers
		must.Len(t, 0, r.nomad.writes())
	}
}
