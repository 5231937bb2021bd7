package cluster

import (
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"path/filepath"
	"syscall"
)

// Ports are handed out from blocks below Nomad's dynamic range (from 20000)
// and the kernel's ephemeral range (from 32768), so that neither a task nor an
// outgoing connection takes a port between our choosing it and its binding.
const (
	portFirst     = 12000
	portBlock     = 32
	portBlocks    = 240 // 12000..19679
	portsLockName = "governor-e2e-ports"
)

// ports hands out free loopback ports of blocks. Each block is locked with
// a file lock that dies with this process, so two harnesses never share one.
type ports struct {
	locks     []*os.File
	next, end int // what is left of the latest block
}

// reservePorts locks a random block.
func reservePorts() (*ports, error) {
	p := &ports{}
	return p, p.reserve()
}

// reserve locks another random block, in place of the latest.
func (p *ports) reserve() error {
	dir := filepath.Join(os.TempDir(), portsLockName)
	if err := os.MkdirAll(dir, 0o1777); err != nil {
		return fmt.Errorf("make the directory of port locks: %w", err)
	}
	for _, block := range rand.Perm(portBlocks) {
		path := filepath.Join(dir, fmt.Sprintf("%d.lock", block))
		file, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR, 0o666)
		if err != nil {
			return fmt.Errorf("open a port lock: %w", err)
		}
		if syscall.Flock(int(file.Fd()), syscall.LOCK_EX|syscall.LOCK_NB) != nil {
			file.Close()
			continue
		}
		p.locks = append(p.locks, file)
		p.next = portFirst + block*portBlock
		p.end = p.next + portBlock
		return nil
	}
	return fmt.Errorf("all %d blocks of ports are in use by other clusters: stop one", portBlocks)
}

// take returns the next port of a block that nothing is bound to.
func (p *ports) take() (int, error) {
	for {
		if p.next == p.end {
			if err := p.reserve(); err != nil {
				return 0, err
			}
		}
		port := p.next
		p.next++
		if free(port) {
			return port, nil
		}
	}
}

// release gives the blocks back.
func (p *ports) release() {
	for _, lock := range p.locks {
		lock.Close()
	}
}

// free reports whether a port can be bound, for TCP and for UDP (gossip uses both).
func free(port int) bool {
	address := fmt.Sprintf("127.0.0.1:%d", port)
	tcp, err := net.Listen("tcp", address)
	if err != nil {
		return false
	}
	defer tcp.Close()
	udp, err := net.ListenPacket("udp", address)
	if err != nil {
		return false
	}
	udp.Close()
	return true
}
