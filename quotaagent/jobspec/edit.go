package jobspec

import (
	"bytes"
	"encoding/json"
	"fmt"
	"slices"
	"strconv"
)

// field finds the member that encoding/json would read into a field called
// name: an exact match first, then one that differs in case.
func (n *node) field(name string) *node {
	if i := n.fieldIndex(name); i >= 0 {
		return n.members[i].value
	}
	return nil
}

func (n *node) fieldIndex(name string) int {
	for i, m := range n.members {
		if m.key == name {
			return i
		}
	}
	folded := foldKey(name)
	for i, m := range n.members {
		if foldKey(m.key) == folded {
			return i
		}
	}
	return -1
}

// setField replaces the field called name, or adds it at the end.
func (n *node) setField(name string, value *node) {
	if i := n.fieldIndex(name); i >= 0 {
		n.members[i].value = value
		return
	}
	n.members = append(n.members, member{key: name, rawKey: encodeString(name), value: value})
}

// removeField removes the field called name, if it is there.
func (n *node) removeField(name string) {
	for i := n.fieldIndex(name); i >= 0; i = n.fieldIndex(name) {
		n.members = slices.Delete(n.members, i, i+1)
	}
}

// list returns the array called name, which is created when it is missing or
// null.
func (n *node) list(name string) (*node, error) {
	l := n.field(name)
	if l == nil || l.isNull() {
		l = &node{kind: '['}
		n.setField(name, l)
	}
	if l.kind != '[' {
		return nil, fmt.Errorf("%s is not a list", name)
	}
	return l, nil
}

func stringNode(s string) *node { return &node{kind: '"', raw: encodeString(s)} }

func intNode(i int) *node { return &node{kind: 'v', raw: strconv.AppendInt(nil, int64(i), 10)} }

func object(members ...member) *node { return &node{kind: '{', members: members} }

func pair(key string, value *node) member {
	return member{key: key, rawKey: encodeString(key), value: value}
}

// encodeString writes s as people would: <, > and & stay as they are.
func encodeString(s string) []byte {
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	if err := e.Encode(s); err != nil {
		panic(err) // a string always encodes
	}
	return bytes.TrimSuffix(b.Bytes(), []byte("\n"))
}

// IsObject reports whether the document is a JSON object.
func (d *Document) IsObject() bool { return d.root.kind == '{' }

// Has reports whether the top-level object has the field, in any case, with a
// value other than null.
func (d *Document) Has(name string) bool {
	f := d.root.field(name)
	return f != nil && !f.isNull()
}

// Text returns the string in a top-level field, or the empty string when the
// field is missing or not a string.
func (d *Document) Text(name string) string {
	if f := d.root.field(name); f != nil && f.kind == '"' {
		return decodeString(f.raw)
	}
	return ""
}

// SetText sets a top-level field to a string. It does nothing unless the
// document is an object.
func (d *Document) SetText(name, value string) {
	if d.IsObject() {
		d.root.setField(name, stringNode(value))
	}
}

// SetBool sets a top-level field to true or false.
func (d *Document) SetBool(name string, value bool) {
	if d.IsObject() {
		d.root.setField(name, &node{kind: 'v', raw: strconv.AppendBool(nil, value)})
	}
}

// SetUint sets a top-level field to a number.
func (d *Document) SetUint(name string, value uint64) {
	if d.IsObject() {
		d.root.setField(name, &node{kind: 'v', raw: strconv.AppendUint(nil, value, 10)})
	}
}

// AppendText adds a string to the end of a top-level list, which is created
// when it is missing or null.
func (d *Document) AppendText(name, value string) error {
	if !d.IsObject() {
		return fmt.Errorf("append to %s: the document is not an object", name)
	}
	l, err := d.root.list(name)
	if err != nil {
		return fmt.Errorf("append to %s: %w", name, err)
	}
	l.items = append(l.items, stringNode(value))
	return nil
}
