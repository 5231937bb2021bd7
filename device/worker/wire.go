package worker

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"

	"github.com/nomad-governor/governor/device/inventory"
)

// Bounds of a frame. A reading of 64 GPUs with 18 links each and all their
// pairs is well below half a megabyte.
const (
	requestBytesMost = 4 << 10
	answerBytesMost  = 4 << 20
	headerBytes      = 4
)

// kind is what is asked of the worker.
type kind string

const (
	kindRead   kind = "read"
	kindSample kind = "sample"
	kindWatch  kind = "watch"
)

// request asks one thing. Milliseconds is how long kindWatch waits.
type request struct {
	ID           uint64
	Kind         kind
	Milliseconds int64 `json:",omitempty"`
}

// answer is the answer to the request with its ID: an Error, or what its kind
// has. Outdated says why a fresh process is needed; empty when it is not.
type answer struct {
	ID       uint64
	Error    string              `json:",omitempty"`
	Outdated string              `json:",omitempty"`
	Readings *inventory.Readings `json:",omitempty"`
	Samples  []inventory.Sample  `json:",omitempty"`
	Watched  *inventory.Watched  `json:",omitempty"`
}

// writeFrame writes one document with its length before it, in one write.
func writeFrame(w io.Writer, v any, most int) error {
	body, err := json.Marshal(v)
	if err != nil {
		return fmt.Errorf("encode a frame: %w", err)
	}
	if len(body) > most {
		return fmt.Errorf("a frame of %d bytes is larger than %d", len(body), most)
	}
	frame := binary.BigEndian.AppendUint32(make([]byte, 0, headerBytes+len(body)), uint32(len(body)))
	if _, err := w.Write(append(frame, body...)); err != nil {
		return fmt.Errorf("write a frame: %w", err)
	}
	return nil
}

// readFrame reads one document. The error is io.EOF when there is no further
// frame. The length is checked before memory is taken for it.
func readFrame(r io.Reader, v any, most int) error {
	var header [headerBytes]byte
	if _, err := io.ReadFull(r, header[:]); err != nil {
		if errors.Is(err, io.EOF) {
			return io.EOF
		}
		return fmt.Errorf("read a frame's length: %w", err)
	}
	size := binary.BigEndian.Uint32(header[:])
	if int64(size) > int64(most) {
		return fmt.Errorf("a frame of %d bytes is announced, more than %d", size, most)
	}
	body := make([]byte, size)
	if _, err := io.ReadFull(r, body); err != nil {
		return fmt.Errorf("read a frame: %w", err)
	}
	decoder := json.NewDecoder(bytes.NewReader(body))
	decoder.DisallowUnknownFields()
	if err := decoder.Decode(v); err != nil {
		return fmt.Errorf("decode a frame: %w", err)
	}
	if decoder.InputOffset() != int64(len(body)) {
		return errors.New("decode a frame: there is more than one document in it")
	}
	return nil
}
