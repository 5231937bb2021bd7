package jobspec

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"unicode/utf8"
)

// Limits bound what Parse builds, so that a small hostile document cannot
// take a large amount of memory or stack.
type Limits struct {
	// Depth is the deepest nesting of objects and arrays.
	Depth int
	// Values is the largest number of values, scalars included.
	Values int
}

// SubmissionLimits suit job submissions: the largest real jobs have some ten
// thousand values and nest about fifteen deep.
var SubmissionLimits = Limits{Depth: 200, Values: 1 << 19}

// ResponseLimits suit Nomad's own answers; the diff of a large plan has many
// more values than the job itself.
var ResponseLimits = Limits{Depth: 1000, Values: 1 << 22}

// SyntaxError says where a document stops being one JSON value.
type SyntaxError struct {
	// Line and Column count from 1; Column counts bytes.
	Line, Column int
	Detail       string
}

// Error names the place and the rule.
func (e *SyntaxError) Error() string {
	return fmt.Sprintf("invalid JSON at line %d, column %d: %s", e.Line, e.Column, e.Detail)
}

// KeyError reports two keys of one object that Nomad would take for the same
// field, so that it is unclear which of them counts.
type KeyError struct {
	// Path of the object, for example Job.TaskGroups[0].
	Path string
	// First and Second are the keys as written; equal for an exact duplicate.
	First, Second string
}

// Error names the keys, the place, the reason and the remedy.
func (e *KeyError) Error() string {
	if e.First == e.Second {
		return fmt.Sprintf("duplicate key %q in %s: a key may appear only once in an object, because readers of JSON "+
			"disagree about which one counts; remove one of the two", e.First, place(e.Path))
	}
	return fmt.Sprintf("keys %q and %q in %s differ only in case: Nomad reads both into the same field and merges "+
		"them; remove one of the two", e.First, e.Second, place(e.Path))
}

func place(path string) string {
	if path == "" {
		return "the top-level object"
	}
	return path
}

// Document is one JSON value as an ordered tree. It keeps the exact bytes of
// every key, number and string, so that Encode returns what was parsed, apart
// from white space outside strings. A Document is not safe for concurrent use.
type Document struct {
	root *node
}

// node is one value. For an object members is used, for an array items, and
// raw for everything else.
type node struct {
	kind    byte // '{', '[', '"', or 'v' for number, true, false and null
	raw     []byte
	members []member
	items   []*node
}

type member struct {
	key    string // decoded
	rawKey []byte // as written, with its quotes
	value  *node
}

func (n *node) isNull() bool { return n.kind == 'v' && string(n.raw) == "null" }

// Parse reads exactly one JSON value. It accepts what encoding/json accepts,
// except that an object must not have the same key twice and that the limits
// hold. The Document keeps slices of data, which must not change any more.
func Parse(data []byte, limits Limits) (*Document, error) {
	// The standard library decides what JSON is, so that the gate and Nomad
	// agree; what follows may assume valid input.
	if !json.Valid(data) {
		return nil, syntaxError(data, json.Unmarshal(data, new(json.RawMessage)))
	}
	p := parser{data: data, limits: limits}
	p.space()
	root, err := p.value(0)
	if err != nil {
		return nil, err
	}
	return &Document{root: root}, nil
}

func syntaxError(data []byte, err error) error {
	var syntax *json.SyntaxError
	if !errors.As(err, &syntax) {
		return &SyntaxError{Line: 1, Column: 1, Detail: err.Error()}
	}
	// Offset is the number of bytes read, the offending one included.
	at := max(int(syntax.Offset)-1, 0)
	if at >= len(data) || strings.Contains(syntax.Error(), "unexpected end") {
		at = len(data)
	}
	return newSyntaxError(data, at, syntax.Error())
}

func newSyntaxError(data []byte, at int, detail string) *SyntaxError {
	before := data[:at]
	return &SyntaxError{
		Line:   1 + bytes.Count(before, []byte("\n")),
		Column: at - bytes.LastIndexByte(before, '\n'),
		Detail: detail,
	}
}

// parser walks valid JSON.
type parser struct {
	data   []byte
	at     int
	values int
	limits Limits
	path   []step
}

func (p *parser) space() {
	for p.at < len(p.data) {
		switch p.data[p.at] {
		case ' ', '\t', '\r', '\n':
			p.at++
		default:
			return
		}
	}
}

func (p *parser) value(depth int) (*node, error) {
	p.values++
	if p.values > p.limits.Values {
		return nil, newSyntaxError(p.data, p.at, fmt.Sprintf("the document has more than %d values", p.limits.Values))
	}
	switch c := p.data[p.at]; c {
	case '{', '[':
		if depth >= p.limits.Depth {
			return nil, newSyntaxError(p.data, p.at, fmt.Sprintf("objects and arrays nest deeper than %d levels", p.limits.Depth))
		}
		if c == '{' {
			return p.object(depth)
		}
		return p.array(depth)
	case '"':
		return &node{kind: '"', raw: p.stringToken()}, nil
	default:
		start := p.at
		for p.at < len(p.data) && !endsValue(p.data[p.at]) {
			p.at++
		}
		return &node{kind: 'v', raw: p.data[start:p.at]}, nil
	}
}

// endsValue reports whether a byte cannot be part of a number, true, false or null.
func endsValue(c byte) bool {
	return c == ' ' || c == '\t' || c == '\r' || c == '\n' || c == ',' || c == ']' || c == '}'
}

func (p *parser) stringToken() []byte {
	start := p.at
	for p.at++; p.data[p.at] != '"'; p.at++ {
		if p.data[p.at] == '\\' {
			p.at++
		}
	}
	p.at++
	return p.data[start:p.at]
}

func (p *parser) object(depth int) (*node, error) {
	n := &node{kind: '{'}
	var seen map[string]bool // of objects with many keys
	p.at++
	for {
		p.space()
		if p.data[p.at] == '}' {
			p.at++
			return n, nil
		}
		if p.data[p.at] == ',' {
			p.at++
			p.space()
		}
		rawKey := p.stringToken()
		key := decodeString(rawKey)
		if n.has(key, seen) {
			return nil, &KeyError{Path: joinPath(p.path), First: key, Second: key}
		}
		p.space()
		p.at++ // the colon
		p.space()
		p.path = append(p.path, step{key: key})
		child, err := p.value(depth + 1)
		if err != nil {
			return nil, err
		}
		p.path = p.path[:len(p.path)-1]
		n.members = append(n.members, member{key: key, rawKey: rawKey, value: child})
		switch {
		case seen != nil:
			seen[key] = true
		case len(n.members) == fewKeys:
			seen = make(map[string]bool, 4*fewKeys)
			for i := range n.members {
				seen[n.members[i].key] = true
			}
		}
	}
}

// fewKeys is how many keys are compared one by one.
const fewKeys = 16

// has reports whether an object has a key; seen are its keys where it has fewKeys or more.
func (n *node) has(key string, seen map[string]bool) bool {
	if seen != nil {
		return seen[key]
	}
	for i := range n.members {
		if n.members[i].key == key {
			return true
		}
	}
	return false
}

func (p *parser) array(depth int) (*node, error) {
	n := &node{kind: '['}
	p.at++
	for {
		p.space()
		if p.data[p.at] == ']' {
			p.at++
			return n, nil
		}
		if p.data[p.at] == ',' {
			p.at++
			p.space()
		}
		p.path = append(p.path, step{index: len(n.items), item: true})
		child, err := p.value(depth + 1)
		if err != nil {
			return nil, err
		}
		p.path = p.path[:len(p.path)-1]
		n.items = append(n.items, child)
	}
}

// step is one of the way to a value: a key of an object, or the index of an item.
type step struct {
	key   string
	index int
	item  bool
}

// joinPath renders steps as Job.TaskGroups[0].Name.
func joinPath(steps []step) string {
	var b strings.Builder
	for _, s := range steps {
		if s.item {
			b.WriteString("[" + strconv.Itoa(s.index) + "]")
			continue
		}
		if b.Len() > 0 {
			b.WriteByte('.')
		}
		b.WriteString(s.key)
	}
	return b.String()
}

// decodeString decodes a valid JSON string token as encoding/json does.
func decodeString(raw []byte) string {
	inner := raw[1 : len(raw)-1]
	if bytes.IndexByte(inner, '\\') < 0 && utf8.Valid(inner) {
		return string(inner)
	}
	var s string
	if err := json.Unmarshal(raw, &s); err != nil {
		// Unreachable: the token was found valid by Parse.
		return string(inner)
	}
	return s
}

// Encode returns the document without white space outside strings.
func (d *Document) Encode() []byte {
	return appendNode(nil, d.root)
}

func appendNode(out []byte, n *node) []byte {
	switch n.kind {
	case '{':
		out = append(out, '{')
		for i, m := range n.members {
			if i > 0 {
				out = append(out, ',')
			}
			out = append(append(out, m.rawKey...), ':')
			out = appendNode(out, m.value)
		}
		return append(out, '}')
	case '[':
		out = append(out, '[')
		for i, item := range n.items {
			if i > 0 {
				out = append(out, ',')
			}
			out = appendNode(out, item)
		}
		return append(out, ']')
	default:
		return append(out, n.raw...)
	}
}

// Decode reads the document into v as encoding/json does.
func (d *Document) Decode(v any) error {
	if err := json.Unmarshal(d.Encode(), v); err != nil {
		return fmt.Errorf("decode document: %w", err)
	}
	return nil
}
