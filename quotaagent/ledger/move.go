package ledger

import (
	"cmp"
	"maps"
	"slices"
	"strings"
)

// MovePosted moves what was posted to one budget, and with it its share of what
// was posted to its ancestors, to another path. The balances are those of both
// paths and all their ancestors; they are changed copies in the result. What
// holds charge stays: it moves with the holds. An ancestor never becomes
// negative: it may have forgotten an old period before its child did.
func MovePosted(balances map[string]Balance, from, to string) map[string]Balance {
	moving := balances[from].Posted
	out := make(map[string]Balance, len(balances))
	for path, b := range balances {
		b = b.Clone()
		leaves, arrives := slices.Contains(Ancestors(from), path), slices.Contains(Ancestors(to), path)
		switch {
		case leaves && !arrives:
			b.Posted.AddAll(moving, -1)
			b.Posted.dropNegative()
			b.Use = b.Use.plusUse(balances[from].Use, -1)
		case arrives && !leaves:
			b.Posted.AddAll(moving, 1)
			b.SinceMS = earliest(b.SinceMS, balances[from].SinceMS)
			b.Use = b.Use.plusUse(balances[from].Use, 1)
		}
		out[path] = b
	}
	return out
}

// earliest is the earlier of two times, of which 0 is not known.
func earliest(a, b int64) int64 {
	if a == 0 || b == 0 {
		return max(a, b)
	}
	return min(a, b)
}

func (v Vector) dropNegative() {
	v.Drop(func(c Cell) bool { return c.Amount < 0 })
}

// MoveBalances is all balances after the moves, holds included: moved says where
// a path goes. Paths that go nowhere else keep what they have.
func MoveBalances(balances map[string]Balance, moved func(path string) string) map[string]Balance {
	out := maps.Clone(balances)
	for _, from := range deepestFirst(balances) {
		to := moved(from)
		if to == from {
			continue
		}
		held := out[from].Held.Clone()
		for _, path := range slices.Concat(Ancestors(from), Ancestors(to)) {
			if _, ok := out[path]; !ok {
				out[path] = Balance{Posted: NewVector(), Held: NewVector()}
			}
		}
		out = MovePosted(out, from, to)
		for _, path := range Ancestors(from) {
			out[path].Held.AddAll(held, -1)
		}
		for _, path := range Ancestors(to) {
			out[path].Held.AddAll(held, 1)
		}
	}
	return out
}

// deepestFirst are the paths of balances, children before their parents: then
// what is left at a parent is its own.
func deepestFirst(balances map[string]Balance) []string {
	return slices.SortedFunc(maps.Keys(balances), func(a, b string) int {
		return cmp.Or(cmp.Compare(strings.Count(b, "/"), strings.Count(a, "/")), strings.Compare(a, b))
	})
}
