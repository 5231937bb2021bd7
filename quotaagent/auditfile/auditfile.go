package auditfile

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"sync"

	"github.com/nomad-governor/governor/quotaagent/audit"
)

// lineMax bounds one line, in bytes: many times the largest record.
const lineMax = 1 << 20

// markEvery is after how many lines the place in the file is noted, so that
// reading from the middle need not begin at the start.
const markEvery = 1000

// File is an archive in one file. Its methods may be called concurrently; one
// process at a time may have it open.
type File struct {
	mu   sync.Mutex
	file *os.File
	state
}

// state is what is known of the file's content.
type state struct {
	size  int64
	lines int
	last  audit.Head
	marks []mark
}

// mark is where a record begins.
type mark struct {
	seq    uint64
	offset int64
}

// Open opens the archive, or makes an empty one that only its owner can read. It
// reads the whole file: a record that was changed, a line that is none, or records
// out of order are errors. Numbers that are missing are not: this agent did not
// run when they were written. The rest of a line that was cut short by a crash is
// removed; its record is still in the store.
func Open(path string) (*File, error) {
	file, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, fmt.Errorf("open audit archive: %w", err)
	}
	f := &File{file: file}
	if err := f.load(path); err != nil {
		return nil, errors.Join(err, file.Close())
	}
	return f, nil
}

// load reads the file through.
func (f *File) load(path string) error {
	reader := bufio.NewReaderSize(f.file, 64<<10)
	for nr := 1; ; nr++ {
		line, err := reader.ReadBytes('\n')
		switch {
		case errors.Is(err, io.EOF) && len(line) == 0:
			return nil
		case errors.Is(err, io.EOF):
			if err := f.file.Truncate(f.size); err != nil {
				return fmt.Errorf("remove the cut line %d of audit archive %s: %w", nr, path, err)
			}
			return nil
		case err != nil:
			return fmt.Errorf("read audit archive %s: %w", path, err)
		}
		var r audit.Record
		if err := json.Unmarshal(line, &r); err != nil {
			return fmt.Errorf("%s:%d is no audit record: restore the file from a backup, or move it away to begin a new one: %w", path, nr, err)
		}
		if err := f.follows(r); err != nil {
			return fmt.Errorf("%s:%d: %w: restore the file from a backup, or move it away to begin a new one", path, nr, err)
		}
		f.added(r, int64(len(line)))
	}
}

// follows checks that a record is what its hash says, and that it may come next.
func (f *File) follows(r audit.Record) error {
	after := f.last
	if r.Seq > after.Seq+1 {
		after = audit.Before(r) // there is a gap, across which nothing can be said
	}
	_, err := after.Verify([]audit.Record{r})
	return err
}

func (f *File) added(r audit.Record, length int64) {
	if f.lines%markEvery == 0 {
		f.marks = append(f.marks, mark{r.Seq, f.size})
	}
	f.lines++
	f.size += length
	f.last = audit.Head{Seq: r.Seq, Hash: r.Hash}
}

// Last is the number of the last record that is kept; 0 for none.
func (f *File) Last() uint64 {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.last.Seq
}

// Keep adds records, in order, and returns when they are on the disk. Records up
// to the last one that is kept are nothing new. One that does not follow the last
// one, or was changed, is an error, and then nothing is added.
func (f *File) Keep(_ context.Context, records []audit.Record) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	before := f.state
	var text bytes.Buffer
	for _, r := range records {
		if r.Seq <= f.last.Seq {
			continue
		}
		err := f.follows(r)
		line, encodeErr := json.Marshal(r)
		if err = errors.Join(err, encodeErr); err != nil {
			f.state = before
			return err
		}
		text.Write(line)
		text.WriteByte('\n')
		f.added(r, int64(len(line)+1))
	}
	if text.Len() == 0 {
		return nil
	}
	_, err := f.file.WriteAt(text.Bytes(), before.size)
	if err == nil {
		err = f.file.Sync()
	}
	if err != nil {
		f.state = before
		return fmt.Errorf("write audit archive: %w", errors.Join(err, f.file.Truncate(f.size)))
	}
	return nil
}

// Records returns at most so many records from a number on, in order.
func (f *File) Records(ctx context.Context, from uint64, most int) ([]audit.Record, error) {
	f.mu.Lock()
	offset, size := int64(0), f.size
	for _, m := range f.marks {
		if m.seq <= from {
			offset = m.offset
		}
	}
	f.mu.Unlock()
	reader := bufio.NewScanner(io.NewSectionReader(f.file, offset, size-offset))
	reader.Buffer(make([]byte, 0, 64<<10), lineMax)
	out := []audit.Record{}
	for len(out) < most && reader.Scan() {
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		var r audit.Record
		if err := json.Unmarshal(reader.Bytes(), &r); err != nil {
			return nil, fmt.Errorf("read audit archive: %w", err)
		}
		if r.Seq >= from {
			out = append(out, r)
		}
	}
	if err := reader.Err(); err != nil {
		return nil, fmt.Errorf("read audit archive: %w", err)
	}
	return out, nil
}

// Close closes the file.
func (f *File) Close() error {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.file.Close()
}
