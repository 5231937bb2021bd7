package budgetspec_test

import (
	"fmt"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/nomad-governor/governor/internal/quantity"
	"github.com/nomad-governor/governor/quotaagent/budget"
)

// dump prints everything in a policy but its revision, field by field and in base
// units. It leaves out what is zero.
func dump(p *budget.Policy) string {
	bare := *p
	bare.Revision = ""
	var out strings.Builder
	write(&out, "", reflect.ValueOf(bare))
	return out.String()
}

// dumpBare is dump without the places at which things are written.
func dumpBare(p *budget.Policy) string {
	return source.ReplaceAllString(dump(p), "")
}

var source = regexp.MustCompile(`(?m)^.*Source = .*\n`)

// write prints one value behind the path that leads to it. Limits are printed even
// where they are zero, and of what is optional that it is there.
func write(out *strings.Builder, path string, v reflect.Value) {
	text, isLeaf := leaf(v)
	_, isLimit := v.Interface().(quantity.Limit)
	switch {
	case isLeaf && (isLimit || !v.IsZero()):
		fmt.Fprintf(out, "%s = %s\n", strings.TrimPrefix(path, "."), text)
		return
	case isLeaf:
		return
	}
	switch v.Kind() {
	case reflect.Pointer:
		if v.IsNil() {
			return
		}
		before := out.Len()
		write(out, path, v.Elem())
		if v.Elem().Kind() == reflect.Struct || out.Len() == before {
			fmt.Fprintf(out, "%s is set\n", strings.TrimPrefix(path, "."))
		}
	case reflect.Interface:
	case reflect.Struct:
		for i := range v.NumField() {
			if v.Type().Field(i).Name != "Parent" {
				write(out, path+"."+v.Type().Field(i).Name, v.Field(i))
			}
		}
	case reflect.Slice, reflect.Array:
		for i := range v.Len() {
			write(out, fmt.Sprintf("%s[%d]", path, i), v.Index(i))
		}
	case reflect.Map:
		keys := v.MapKeys()
		slices.SortFunc(keys, func(a, b reflect.Value) int { return strings.Compare(a.String(), b.String()) })
		for _, key := range keys {
			at := fmt.Sprintf("%s[%q]", path, key)
			before := out.Len()
			write(out, at, v.MapIndex(key))
			if out.Len() == before {
				fmt.Fprintf(out, "%s = %v\n", strings.TrimPrefix(at, "."), v.MapIndex(key))
			}
		}
	default:
		panic("budgetspec: cannot print " + path + " of " + v.Type().String())
	}
}

// leaf is the text of a value that is not taken apart.
func leaf(v reflect.Value) (string, bool) {
	switch x := v.Interface().(type) {
	case time.Time:
		return x.Format(time.RFC3339), true
	case time.Duration:
		return x.String(), true
	case *time.Location:
		return x.String(), true
	case budget.Source:
		return x.String(), true
	case quantity.Limit:
		return x.String(), true
	case budget.Window:
		return x.String(), true
	case budget.Condition:
		return x.String(), true
	}
	switch v.Kind() {
	case reflect.String:
		return fmt.Sprintf("%q", v.String()), true
	case reflect.Bool:
		return fmt.Sprint(v.Bool()), true
	case reflect.Int, reflect.Int64:
		return fmt.Sprint(v.Int()), true
	case reflect.Uint8:
		return fmt.Sprint(v.Uint()), true
	}
	return "", false
}
