package gate

import (
	"io"
	"net/http"
)

// keepTunnel lets what Nomad says at the end of an upgraded connection reach the client.
// When Nomad has closed it, a write to it fails; httputil would then close both sides at
// once, and what is still to be read, such as why a task could not be entered, is lost.
func keepTunnel(r *http.Response) error {
	if r.StatusCode != http.StatusSwitchingProtocols {
		return nil
	}
	if conn, ok := r.Body.(io.ReadWriteCloser); ok {
		r.Body = &tunnel{ReadWriteCloser: conn}
	}
	return nil
}

// tunnel is Nomad's side of an upgraded connection. What cannot be written any more is
// dropped: its end is seen when all is read.
type tunnel struct{ io.ReadWriteCloser }

// Write implements io.Writer.
func (t *tunnel) Write(p []byte) (int, error) {
	if _, err := t.ReadWriteCloser.Write(p); err != nil {
		return len(p), nil //nolint:nilerr // see keepTunnel
	}
	return len(p), nil
}

// CloseWrite ends what the client says, where the connection can do that.
func (t *tunnel) CloseWrite() error {
	if half, ok := t.ReadWriteCloser.(interface{ CloseWrite() error }); ok {
		return half.CloseWrite()
	}
	return nil
}
