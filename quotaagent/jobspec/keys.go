package jobspec

import (
	"encoding"
	"encoding/json"
	"reflect"
	"strings"
	"sync"
	"unicode"
	"unicode/utf8"
)

// CheckKeys reports the first object in which two keys mean the same field of
// target, because encoding/json ignores case when it fills a struct. Objects
// that fill maps (Env, Meta, a task's Config) may have such keys: there
// http_proxy and HTTP_PROXY are two entries. Objects under a key that target
// does not know are not checked.
//
// Two such keys are allowed where one of them says nothing: Nomad's own UI adds
// "meta": {} to every job, beside "Meta". Then that one is removed.
func (d *Document) CheckKeys(target reflect.Type) error {
	_, err := d.checkKeys(target)
	return err
}

// checkKeys is CheckKeys, and reports whether it has removed any.
func (d *Document) checkKeys(target reflect.Type) (removed bool, err error) {
	c := keyChecker{}
	err = c.check(d.root, target)
	return c.removed, err
}

type keyChecker struct {
	path    []step
	removed bool
}

// fieldsOf remembers the fields of the types that documents are read into, which are
// few: map[reflect.Type]map[string]reflect.Type.
var fieldsOf sync.Map

var (
	jsonUnmarshaler = reflect.TypeFor[json.Unmarshaler]()
	textUnmarshaler = reflect.TypeFor[encoding.TextUnmarshaler]()
)

func (c *keyChecker) check(n *node, t reflect.Type) error {
	for t.Kind() == reflect.Pointer {
		t = t.Elem()
	}
	if p := reflect.PointerTo(t); p.Implements(jsonUnmarshaler) || p.Implements(textUnmarshaler) {
		return nil
	}
	if n.kind == '[' && (t.Kind() == reflect.Slice || t.Kind() == reflect.Array) {
		for i, item := range n.items {
			if err := c.descend(item, t.Elem(), step{index: i, item: true}); err != nil {
				return err
			}
		}
	}
	if n.kind != '{' {
		return nil
	}
	if t.Kind() == reflect.Map {
		for _, m := range n.members {
			if err := c.descend(m.value, t.Elem(), step{key: m.key}); err != nil {
				return err
			}
		}
	}
	if t.Kind() == reflect.Struct {
		return c.checkStruct(n, t)
	}
	return nil
}

func (c *keyChecker) checkStruct(n *node, t reflect.Type) error {
	known := knownFields(t)
	seen := make(map[string]int, len(n.members)) // places in kept
	kept := make([]member, 0, len(n.members))
	names := make([]string, 0, len(n.members)) // of kept, folded
	for _, m := range n.members {
		folded := foldKey(m.key)
		if at, twice := seen[folded]; twice {
			c.removed = true
			first := kept[at]
			one, ok := merged(first, m, known[folded])
			if !ok || first.key == m.key {
				return &KeyError{Path: joinPath(c.path), First: first.key, Second: m.key}
			}
			kept[at] = one
			continue
		}
		seen[folded] = len(kept)
		kept, names = append(kept, m), append(names, folded)
	}
	n.members = kept
	for i, m := range kept {
		if ft, ok := known[names[i]]; ok {
			if err := c.descend(m.value, ft, step{key: m.key}); err != nil {
				return err
			}
		}
	}
	return nil
}

// merged is the one of two members that encoding/json makes of both in a field that is
// a map or a struct, where one of them adds nothing: an empty object changes only what
// was null before, and null takes away what was before.
func merged(first, second member, field reflect.Type) (member, bool) {
	for field != nil && field.Kind() == reflect.Pointer {
		field = field.Elem()
	}
	if field == nil || field.Kind() != reflect.Map && field.Kind() != reflect.Struct {
		return member{}, false
	}
	empty := func(m member) bool { return m.value.kind == '{' && len(m.value.members) == 0 }
	switch {
	case second.value.isNull() && (empty(first) || first.value.isNull()):
		return second, true
	case empty(second) && first.value.kind == '{':
		return first, true
	case empty(first) && second.value.kind == '{', first.value.isNull() && empty(second):
		return second, true
	}
	return member{}, false
}

func (c *keyChecker) descend(n *node, t reflect.Type, to step) error {
	if n.kind != '{' && n.kind != '[' {
		return nil
	}
	c.path = append(c.path, to)
	err := c.check(n, t)
	c.path = c.path[:len(c.path)-1]
	return err
}

// knownFields maps the folded JSON names of t's fields to their types.
func knownFields(t reflect.Type) map[string]reflect.Type {
	if f, ok := fieldsOf.Load(t); ok {
		return f.(map[string]reflect.Type)
	}
	fields := map[string]reflect.Type{}
	for i := range t.NumField() {
		f := t.Field(i)
		name, _, _ := strings.Cut(f.Tag.Get("json"), ",")
		ft := f.Type
		for ft.Kind() == reflect.Pointer {
			ft = ft.Elem()
		}
		switch {
		case name == "-":
		case f.Anonymous && name == "" && ft.Kind() == reflect.Struct:
			for k, v := range knownFields(ft) {
				if _, shadowed := fields[k]; !shadowed {
					fields[k] = v
				}
			}
		case !f.IsExported():
		case name == "":
			fields[foldKey(f.Name)] = f.Type
		default:
			fields[foldKey(name)] = f.Type
		}
	}
	fieldsOf.Store(t, fields)
	return fields
}

// foldKey maps all keys that encoding/json takes for the same field to one
// string: each letter becomes the smallest letter of its case-folding set, so
// that U+017F is an S and the Kelvin sign U+212A a K.
func foldKey(key string) string {
	ascii := true
	for i := range len(key) {
		ascii = ascii && key[i] < utf8.RuneSelf
	}
	if ascii {
		return strings.ToUpper(key) // capitals are the smallest of their sets
	}
	return strings.Map(func(r rune) rune {
		smallest := r
		for next := unicode.SimpleFold(r); next != r; next = unicode.SimpleFold(next) {
			smallest = min(smallest, next)
		}
		return smallest
	}, key)
}
