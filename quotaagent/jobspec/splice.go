package jobspec

import (
	"bytes"
	"encoding/json"
	"slices"
	"strconv"
)

// Place is where the value of a key lies in a JSON object; zero where the object does
// not have the key exactly once at its top.
type Place struct{ begin, end int }

// Known reports whether the object has the key.
func (p Place) Known() bool { return p.end != 0 }

// Locate finds keys of a JSON object, without reading more than where values end.
func Locate(object []byte, keys ...string) []Place {
	s, places := scanner{text: object}, make([]Place, len(keys))
	s.find(keys, places)
	if s.failed {
		clear(places)
	}
	return places
}

// SpliceText changes one text of a JSON object and leaves every other byte as it is,
// without reading more than where values end. It returns false, and nothing, where the
// object does not have the key exactly once at its top, as a text: then Parse must look.
func SpliceText(object []byte, key string, change func(string) string) ([]byte, bool) {
	return SpliceAt(object, Locate(object, key)[0], change)
}

// SpliceAt is SpliceText for a key that was located.
func SpliceAt(object []byte, at Place, change func(string) string) ([]byte, bool) {
	begin, end := at.begin, at.end
	if !at.Known() {
		return nil, false
	}
	var text string
	if object[begin] != '"' || json.Unmarshal(object[begin:end], &text) != nil {
		return nil, false
	}
	var value bytes.Buffer
	encoder := json.NewEncoder(&value)
	encoder.SetEscapeHTML(false)
	if encoder.Encode(change(text)) != nil {
		return nil, false
	}
	changed := bytes.TrimSpace(value.Bytes())
	out := make([]byte, 0, len(object)-(end-begin)+len(changed))
	out = append(out, object[:begin]...)
	out = append(out, changed...)
	return append(out, object[end:]...), true
}

// scanner walks over JSON that is well formed; what is not makes it fail or find
// nothing.
type scanner struct {
	text   []byte
	at     int
	failed bool
}

// find notes where the values of keys of the object lie.
func (s *scanner) find(keys []string, places []Place) {
	s.expect('{')
	for !s.failed {
		s.space()
		name := s.string()
		s.expect(':')
		s.space()
		from := s.at
		s.value()
		if s.failed {
			return
		}
		if bytes.IndexByte(name, '\\') >= 0 {
			s.failed = true // it may be any key
		}
		if at := slices.Index(keys, string(name)); at >= 0 {
			s.failed = s.failed || places[at].Known()
			places[at] = Place{from, s.at}
		}
		s.space()
		switch s.next() {
		case ',':
		case '}':
			s.space()
			s.failed = s.failed || s.at != len(s.text)
			return
		default:
			s.failed = true
		}
	}
}

func (s *scanner) next() byte {
	if s.at >= len(s.text) {
		s.failed = true
		return 0
	}
	s.at++
	return s.text[s.at-1]
}

func (s *scanner) expect(c byte) {
	s.space()
	if s.next() != c {
		s.failed = true
	}
}

func (s *scanner) space() {
	for s.at < len(s.text) && (s.text[s.at] == ' ' || s.text[s.at] == '\n' || s.text[s.at] == '\t' || s.text[s.at] == '\r') {
		s.at++
	}
}

// string returns what stands between the quotes.
func (s *scanner) string() []byte {
	if s.next() != '"' {
		s.failed = true
	}
	begin := s.at
	for !s.failed {
		rest := s.text[s.at:]
		quote := bytes.IndexByte(rest, '"')
		if quote < 0 {
			break
		}
		if escape := bytes.IndexByte(rest[:quote], '\\'); escape >= 0 {
			s.at += escape + 2 // what is escaped is part of the text
			s.failed = s.at > len(s.text)
			continue
		}
		s.at += quote + 1
		return s.text[begin : s.at-1]
	}
	s.failed = true
	return nil
}

// value skips one value.
func (s *scanner) value() {
	if s.at >= len(s.text) {
		s.failed = true
		return
	}
	switch s.text[s.at] {
	case '"':
		s.string()
	case '{', '[':
		s.nested()
	default:
		for s.at < len(s.text) && bytes.IndexByte([]byte(",]} \n\t\r"), s.text[s.at]) < 0 {
			s.at++
		}
	}
}

// Uint is the number that lies there in the object. It returns false where that is no
// whole number, or a negative one.
func (p Place) Uint(object []byte) (uint64, bool) {
	n, err := strconv.ParseUint(string(object[p.begin:p.end]), 10, 64)
	return n, err == nil
}

// nested skips an object or an array.
func (s *scanner) nested() {
	depth := 0
	for at := s.at; at < len(s.text); at++ {
		switch s.text[at] {
		case '"':
			if s.at = at; s.string() == nil && s.failed {
				return
			}
			at = s.at - 1
		case '{', '[':
			depth++
		case '}', ']':
			if depth--; depth == 0 {
				s.at = at + 1
				return
			}
		}
	}
	s.failed = true
}
