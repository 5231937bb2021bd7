package worker

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"os"
	"sync"
	"time"

	"github.com/nomad-governor/governor/device/inventory"
)

// Argument is the hidden first argument that makes the program a worker.
const Argument = "nvml-worker"

// The worker's files. They are not its standard streams, on which a library
// may print, and programs that a library starts do not inherit them.
const (
	requestsFD = 3
	answersFD  = 4
)

// inFlightMost bounds the requests under way. The plugin has four kinds of
// call and at most one of each.
const inFlightMost = 16

// reader is what reads the GPUs in the worker; nvml.Reader is one. It must be
// safe for concurrent use.
type reader interface {
	Read() (inventory.Readings, error)
	Probe() (string, error)
	Sample() ([]inventory.Sample, error)
	Wait(timeout time.Duration) (events []inventory.Event, eventless bool, err error)
	// Outdated says why only a fresh process can go on, given the error of
	// the call before, if any; empty when this one can.
	Outdated(err error) string
}

// Pipes are the pipes that a supervisor gave to this process. An error means
// that no supervisor started it.
func Pipes() (requests, answers *os.File, err error) {
	var files []*os.File
	for fd, name := range map[uintptr]string{requestsFD: "requests", answersFD: "answers"} {
		file := os.NewFile(fd, name)
		info, err := file.Stat()
		if err != nil || info.Mode()&os.ModeNamedPipe == 0 {
			return nil, nil, fmt.Errorf("file descriptor %d is not a pipe: %s is for the plugin's own use", fd, Argument)
		}
		closeOnExec(fd)
		files = append(files, file)
	}
	if files[0].Name() != "requests" {
		files[0], files[1] = files[1], files[0]
	}
	return files[0], files[1], nil
}

// Serve answers requests until there are no more, which is how a supervisor
// ends its worker. It returns while calls may still be under way: one that hangs
// must not keep the process.
func Serve(r reader, requests io.Reader, answers io.Writer) error {
	in := bufio.NewReader(requests)
	var mu sync.Mutex // one frame at a time
	failed := make(chan error, 1)
	slots := make(chan struct{}, inFlightMost)
	for {
		var q request
		if err := readFrame(in, &q, requestBytesMost); err != nil {
			if errors.Is(err, io.EOF) {
				return nil
			}
			return err
		}
		select {
		case err := <-failed:
			return err
		case slots <- struct{}{}:
		}
		go func() {
			defer func() { <-slots }()
			a := handle(r, q)
			mu.Lock()
			defer mu.Unlock()
			if err := writeFrame(answers, a, answerBytesMost); err != nil {
				select {
				case failed <- err:
				default: // one is enough
				}
			}
		}()
	}
}

// handle answers one request.
func handle(r reader, q request) answer {
	a := answer{ID: q.ID}
	if a.Outdated = r.Outdated(nil); a.Outdated != "" {
		return a
	}
	var err error
	switch q.Kind {
	case kindRead:
		var readings inventory.Readings
		readings, err = r.Read()
		a.Readings = &readings
	case kindSample:
		a.Samples, err = r.Sample()
	case kindWatch:
		a.Watched, err = watch(r, time.Duration(q.Milliseconds)*time.Millisecond)
	default:
		err = fmt.Errorf("the worker knows no request %q", q.Kind)
	}
	if err != nil {
		a.Readings, a.Watched = nil, nil
		a.Error = err.Error()
		a.Outdated = r.Outdated(err)
	}
	return a
}

// watch waits for events and then asks how the GPUs are: one request for both,
// because it is made each second for as long as the plugin runs.
func watch(r reader, timeout time.Duration) (*inventory.Watched, error) {
	events, eventless, err := r.Wait(timeout)
	if err != nil {
		return nil, err
	}
	digest, err := r.Probe()
	return &inventory.Watched{Events: events, Digest: digest, Eventless: eventless}, err
}
