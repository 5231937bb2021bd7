package consultest

import (
	"os"
	"os/exec"
	"runtime"
)

// process is a running command; one goroutine waits for its end.
type process struct {
	handle *os.Process
	done   chan struct{} // closed when the command has ended
	err    error         // why it ended; read it after done
}

// launch starts the command from a goroutine that keeps its thread until the
// command ends: where the kernel can end a child with its parent, it watches
// the thread that started it, and Go ends threads at will.
func launch(cmd *exec.Cmd) (*process, error) {
	endWithParent(cmd)
	p := &process{done: make(chan struct{})}
	started := make(chan error, 1)
	go func() {
		defer close(p.done)
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		err := cmd.Start()
		p.handle = cmd.Process
		started <- err
		if err == nil {
			p.err = cmd.Wait()
		}
	}()
	if err := <-started; err != nil {
		return nil, err
	}
	return p, nil
}

// signal sends a signal; a command that has ended already needs none.
func (p *process) signal(s os.Signal) { _ = p.handle.Signal(s) }
