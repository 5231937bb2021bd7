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
		var one [1]byte
		_, _, failed := syscall.Recvfrom(int(fd), one[:], syscall.MSG_PEEK|syscall.MSG_DONTWAIT)
		nothing = errors.Is(failed, syscall.EAGAIN)
		return true
	})
	return err == nil && nothing
}
