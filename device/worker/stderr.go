package worker

import (
	"bytes"
	"strings"
	"time"

	"github.com/hashicorp/go-hclog"
)

// Bounds of what a worker may write to the log.
const (
	lineBytesMost  = 1 << 10
	linesPerPeriod = 60
	linesPeriod    = time.Minute
)

// lines is a writer that logs the worker's lines: long ones cut, and of many
// only the first of each minute. One goroutine writes to it.
type lines struct {
	logger  hclog.Logger
	now     func() time.Time
	partial []byte
	since   time.Time
	count   int
	dropped int
}

// Write implements io.Writer and never fails: a worker must not block on its log.
func (l *lines) Write(p []byte) (int, error) {
	size := len(p)
	for len(p) > 0 {
		line, rest, found := bytes.Cut(p, []byte{'\n'})
		room := lineBytesMost - len(l.partial)
		l.partial = append(l.partial, line[:min(room, len(line))]...)
		if found {
			l.flush()
		}
		p = rest
	}
	return size, nil
}

// flush logs the line so far.
func (l *lines) flush() {
	text := strings.TrimSpace(strings.ToValidUTF8(string(l.partial), "?"))
	l.partial = l.partial[:0]
	if text == "" {
		return
	}
	if now := l.now(); now.Sub(l.since) >= linesPeriod {
		l.drain()
		l.since, l.count = now, 0
	}
	if l.count++; l.count > linesPerPeriod {
		l.dropped++
		return
	}
	l.logger.Warn("the NVML worker says", "output", text)
}

// drain says how many lines were left out.
func (l *lines) drain() {
	if l.dropped > 0 {
		l.logger.Warn("the NVML worker said more than is logged", "lines_left_out", l.dropped)
		l.dropped = 0
	}
}
