package gate

import (
	"crypto/tls"
	"errors"
	"net"
	"syscall"
)

// silent reports whether nothing has come on a connection that was kept: neither its end
// nor bytes that no request has asked for, which would be taken for the next answer.
func silent(c net.Conn) bool {
	if over, ok := c.(*tls.Conn); ok {
		c = over.NetConn()
	}
	socket, ok := c.(syscall.Conn)
	if !ok {
		return true
	}
	raw, err := socket.SyscallConn()
	if err != nil {
		return false
	}
	nothing := false
	err = raw.Read(func(fd uintptr) bool {
		nothing = quiet(fd)
		return true
	})
	return err == nil && nothing
}

// socket sends requests over TCP with fewer system calls than net.Conn has for it: it looks
// that nothing came unasked, writes, and waits, without trying first to read what cannot
// be there yet. It is for one goroutine.
type socket struct {
	raw  syscall.RawConn
	step func(fd uintptr) (done bool) // turn, made once
	// text is what is to be sent, and look whether it is looked before.
	text []byte
	look bool

	sent   int
	waits  bool // all is sent, and the answer is waited for
	failed error
}

// errUnasked is a connection that was kept and on which something came, or its end.
var errUnasked = errors.New("nomad has closed a connection that was kept, or sent something on it that nobody has asked for")

func newSocket(c net.Conn) *socket {
	tcp, ok := c.(*net.TCPConn)
	if !ok {
		return nil
	}
	raw, err := tcp.SyscallConn()
	if err != nil {
		return nil
	}
	s := &socket{raw: raw}
	s.step = s.turn
	return s
}

// send returns how much of a text was sent, and whether it was waited until there is
// something to read. What was not sent is to be written to the connection, as ever.
func (s *socket) send(text []byte, look bool) (sent int, waited bool, err error) {
	s.text, s.look, s.sent, s.waits, s.failed = text, look, 0, false, nil
	err = s.raw.Read(s.step)
	s.text = nil
	if s.failed != nil {
		err = s.failed
	}
	return s.sent, s.waits, err
}

// turn is called with nothing known of what can be read, and again when something can be
// that has come since.
func (s *socket) turn(fd uintptr) (done bool) {
	if s.waits {
		return true
	}
	if s.look && !quiet(fd) {
		s.failed = errUnasked
		return true
	}
	n, err := syscall.Write(int(fd), s.text)
	for errors.Is(err, syscall.EINTR) {
		n, err = syscall.Write(int(fd), s.text)
	}
	if err != nil && !errors.Is(err, syscall.EAGAIN) {
		s.failed = err
		return true
	}
	s.sent = max(0, n)
	// On a new connection something may have come already: its edge is gone.
	s.waits = s.sent == len(s.text) && (s.look || quiet(fd))
	return !s.waits
}

// quiet reports whether there is nothing to read, nor an end.
func quiet(fd uintptr) bool {
	var one [1]byte
	_, _, err := syscall.Recvfrom(int(fd), one[:], syscall.MSG_PEEK|syscall.MSG_DONTWAIT)
	return errors.Is(err, syscall.EAGAIN)
}
