package nomadstate

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"hash/maphash"
	"io"
	"runtime"
	"sync"

	"github.com/hashicorp/nomad/api"
)

// elementsAtOnce is how many elements of a list are decoded before others may run: some
// half a millisecond.
const elementsAtOnce = 16

// list reads one list of Nomad's again and again. What an element says is decoded once:
// one whose text was in the list the last time is what it was then. Of a thousand nodes few
// change from one second to the next, and to decode all of them takes as long as to
// answer some thousand requests. Methods may be called from several goroutines.
type list[T any] struct {
	seeds [2]maphash.Seed

	mu   sync.Mutex
	last map[digest]*T
}

// digest tells texts apart: 128 bits that nobody can foresee.
type digest [2]uint64

func newList[T any]() *list[T] {
	return &list[T]{seeds: [2]maphash.Seed{maphash.MakeSeed(), maphash.MakeSeed()}}
}

func (l *list[T]) digest(text []byte) digest {
	return digest{maphash.Bytes(l.seeds[0], text), maphash.Bytes(l.seeds[1], text)}
}

// read is the list as it is now. Its elements are shared with other readings: do not
// change them.
func (l *list[T]) read(ctx context.Context, nomad querier, endpoint string, q *api.QueryOptions) ([]*T, error) {
	body, err := nomad.Response(endpoint, q.WithContext(ctx))
	if err != nil {
		return nil, err
	}
	text, err := io.ReadAll(body)
	if err = errors.Join(err, body.Close()); err != nil {
		return nil, err
	}
	return l.parse(text)
}

// parse decodes what it has not decoded for the last list, and remembers this one.
func (l *list[T]) parse(text []byte) ([]*T, error) {
	l.mu.Lock()
	last := l.last
	l.mu.Unlock()
	seen := make(map[digest]*T, len(last))
	all := make([]*T, 0, len(last))
	decoded := 0
	err := eachElement(text, func(element []byte) error {
		key := l.digest(element)
		v, known := seen[key]
		if !known {
			v, known = last[key]
		}
		if !known {
			if err := json.Unmarshal(element, &v); err != nil {
				return err
			}
			if decoded++; decoded%elementsAtOnce == 0 {
				runtime.Gosched()
			}
		}
		if seen[key] = v; v != nil {
			all = append(all, v)
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	l.mu.Lock()
	l.last = seen
	l.mu.Unlock()
	return all, nil
}

// eachElement calls do with the text of every element of a JSON array, in order; null is
// an array without any. Where the elements end is told by their brackets and quotes:
// whether an element is JSON is for do to say.
func eachElement(text []byte, do func(element []byte) error) error {
	text = bytes.TrimLeft(text, jsonSpace)
	switch {
	case len(text) == 0:
		return io.ErrUnexpectedEOF
	case bytes.HasPrefix(text, []byte("null")):
		return nil
	case text[0] != '[':
		return fmt.Errorf("the answer begins with %.20q and is no list", text)
	}
	text = bytes.TrimLeft(text[1:], jsonSpace)
	if len(text) > 0 && text[0] == ']' {
		return nil
	}
	for {
		end := elementEnd(text)
		if end == len(text) {
			return io.ErrUnexpectedEOF // the list did not end
		}
		if err := do(bytes.TrimRight(text[:end], jsonSpace)); err != nil {
			return err
		}
		if text[end] == ']' {
			return nil
		}
		text = bytes.TrimLeft(text[end+1:], jsonSpace)
	}
}

const jsonSpace = " \t\r\n"

// elementEnd is where the first element of a list's rest ends: the index of the comma or
// bracket behind it, or the length of the text for none.
func elementEnd(text []byte) int {
	depth := 0
	for i := 0; i < len(text); i++ {
		switch text[i] {
		case '"':
			i += stringEnd(text[i+1:]) + 1
		case '{', '[':
			depth++
		case '}', ']':
			if depth == 0 {
				return i
			}
			depth--
		case ',':
			if depth == 0 {
				return i
			}
		}
	}
	return len(text)
}

// stringEnd is the index of the quote that ends a string, or the length of the text.
func stringEnd(text []byte) int {
	for at := 0; ; {
		quote := bytes.IndexByte(text[at:], '"')
		if quote < 0 {
			return len(text)
		}
		at += quote
		escapes := 0
		for at-escapes > 0 && text[at-escapes-1] == '\\' {
			escapes++
		}
		if escapes%2 == 0 {
			return at
		}
		at++
	}
}
