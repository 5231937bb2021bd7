package jobspec

import (
	"encoding/json"
	"fmt"
	"strconv"
	"strings"
)

// Operation is one operation of a JSON patch (RFC 6902). Only "add" is used: on a member
// that is there it replaces the value.
type Operation struct {
	Op    string          `json:"op"`
	Path  string          `json:"path"`
	Value json.RawMessage `json:"value"`
}

// Operations is a patch as a JSON patch of the job. A list that gets longer is written
// as a whole: in the JSON of Nomad's library an empty one is null.
func (s Stored) Operations(patch Patch) ([]Operation, error) {
	raw, err := s.job()
	if err != nil {
		return nil, err
	}
	next, err := ParseStored(raw)
	if err != nil {
		return nil, err
	}
	if err := Apply(next.doc, patch); err != nil {
		return nil, err
	}
	before, after := s.doc.root.field("Job"), next.doc.root.field("Job")
	if before == nil || after == nil {
		return nil, fmt.Errorf("patch job: the document has no Job object")
	}
	return operations(nil, "", before, after), nil
}

// operations appends what makes before the same as after, which has all of its members.
func operations(out []Operation, path string, before, after *node) []Operation {
	switch {
	case before.kind == '{' && after.kind == '{':
		for _, m := range after.members {
			at := path + "/" + pointer.Replace(m.key)
			if old := before.field(m.key); old != nil {
				out = operations(out, at, old, m.value)
			} else {
				out = append(out, Operation{"add", at, appendNode(nil, m.value)})
			}
		}
		return out
	case before.kind == '[' && after.kind == '[' && len(before.items) == len(after.items):
		for i := range after.items {
			out = operations(out, path+"/"+strconv.Itoa(i), before.items[i], after.items[i])
		}
		return out
	}
	if value := appendNode(nil, after); string(value) != string(appendNode(nil, before)) {
		out = append(out, Operation{"add", path, value})
	}
	return out
}

// pointer escapes a name for a JSON pointer (RFC 6901).
var pointer = strings.NewReplacer("~", "~0", "/", "~1")
