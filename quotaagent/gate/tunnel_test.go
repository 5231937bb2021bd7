package gate

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"net/http"
	"testing"
	"time"

	"github.com/shoenig/test/must"
)

// closedSide is Nomad's side of a tunnel that it has closed, with words on their way.
type closedSide struct {
	refused chan struct{}
	said    string
}

func (c *closedSide) Write([]byte) (int, error) {
	select {
	case <-c.refused:
	default:
		close(c.refused)
	}
	return 0, errors.New("write: broken pipe")
}

// Read gives the words a little after a write has failed.
func (c *closedSide) Read(p []byte) (int, error) {
	if c.said == "" {
		return 0, io.EOF
	}
	<-c.refused
	time.Sleep(20 * time.Millisecond)
	n := copy(p, c.said)
	c.said = c.said[n:]
	return n, nil
}

func (c *closedSide) Close() error { return nil }

type upgrading struct{ side *closedSide }

func (u upgrading) RoundTrip(r *http.Request) (*http.Response, error) {
	return &http.Response{StatusCode: http.StatusSwitchingProtocols, ProtoMajor: 1, ProtoMinor: 1, Request: r, Body: u.side,
		Header: http.Header{"Connection": {"Upgrade"}, "Upgrade": {"websocket"}}}, nil
}

// Nomad closes the connection of `alloc exec` as soon as it has said why a task cannot
// be entered, while the client still speaks. What it has said reaches the client.
func TestGate_theLastWordsOfATunnelReachTheClient(t *testing.T) {
	t.Parallel()
	const last = "action nope not found in task t"
	r := newRig(t, func(c *Config) { c.Transport = upgrading{&closedSide{refused: make(chan struct{}), said: last}} })
	c := r.dial(t)
	_, err := fmt.Fprintf(c, "GET /v1/client/allocation/x/exec HTTP/1.1\r\nHost: nomad\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n")
	must.NoError(t, err)
	reader := bufio.NewReader(c)
	response, err := http.ReadResponse(reader, nil) //nolint:bodyclose // the connection is, below
	must.NoError(t, err)
	must.EqOp(t, http.StatusSwitchingProtocols, response.StatusCode)
	_, err = io.WriteString(c, "keystrokes")
	must.NoError(t, err)
	said, err := io.ReadAll(reader)
	must.NoError(t, err)
	must.EqOp(t, last, string(said))
	must.NoError(t, c.Close())
}
