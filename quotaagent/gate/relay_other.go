//go:build !linux

package gate

import "net"

// silent takes every connection as it is: agents run on Linux.
func silent(net.Conn) bool { return true }
