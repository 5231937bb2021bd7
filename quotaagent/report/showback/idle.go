package showback

import (
	"maps"
	"slices"
	"strings"

	"github.com/nomad-governor/governor/internal/quantity"
	"github.com/nomad-governor/governor/quotaagent/budget"
	"github.com/nomad-governor/governor/quotaagent/ledger"
	"github.com/nomad-governor/governor/quotaagent/report"
)

// The rules for the capacity that nobody held, by the words of the budget language.
var idleRules = map[budget.Idle]string{budget.IdleShared: "shared", budget.IdleOwner: "owner", budget.IdleNone: "none"}

func idleOf(in Input) Idle {
	out := Idle{Rule: idleRules[in.Idle]}
	for _, r := range in.Rows {
		if r.Kind == ledger.IdleEntry {
			out.Allocated = out.Allocated.Add(r.Amounts)
		}
	}
	switch in.Idle {
	case budget.IdleShared:
		out.Share = sharedIdle(in.Budget, in.Everyone)
	case budget.IdleOwner:
		for _, r := range in.Everyone {
			if r.Kind == ledger.UnallocatedEntry && r.Key[0] != "" && Within(r.Key[0], in.Budget) {
				out.Share = out.Share.Add(r.Amounts)
			}
		}
	case budget.IdleNone:
	}
	return out
}

// sharedIdle is a budget's part of the capacity that nobody held: of each class in
// proportion to what it used of the class. The parts of all budgets that do not lie
// within one another add up to all of it, to the millisecond. Of a class that nobody
// used, nobody has a part.
func sharedIdle(top string, everyone []report.Row) report.Amounts {
	used := make(map[string]map[string]quantity.Amount) // by class and budget
	free := make(map[string]report.Amounts)
	for _, r := range everyone {
		path, class := r.Key[0], r.Key[1]
		switch {
		case r.Kind == ledger.UnallocatedEntry:
			free[class] = free[class].Add(r.Amounts)
		case ledger.PostedKind(r.Kind) && path != "":
			if used[class] == nil {
				used[class] = make(map[string]quantity.Amount)
			}
			used[class][path] = used[class][path].Add(r.GPUTime)
		}
	}
	var share report.Amounts
	for _, class := range slices.Sorted(maps.Keys(free)) {
		before, mine, all := weights(top, used[class])
		if all <= 0 {
			continue
		}
		part := func(a quantity.Amount) quantity.Amount {
			return quantity.MulDiv(a, int64(before.Add(mine)), int64(all)).Sub(quantity.MulDiv(a, int64(before), int64(all)))
		}
		share.GPUTime, share.Cost = share.GPUTime.Add(part(free[class].GPUTime)), share.Cost.Add(part(free[class].Cost))
	}
	return share
}

// weights are what the budgets before one used, that one with all below it, and all, in
// the order of the tree, so that what is below a budget lies together.
func weights(top string, used map[string]quantity.Amount) (before, mine, all quantity.Amount) {
	paths := slices.SortedFunc(maps.Keys(used), func(a, b string) int {
		return slices.Compare(strings.Split(a, "/"), strings.Split(b, "/"))
	})
	for _, path := range paths {
		weight := max(0, used[path]) // a correction may have taken back more than was used
		all = all.Add(weight)
		switch {
		case Within(path, top):
			mine = mine.Add(weight)
		case slices.Compare(strings.Split(path, "/"), strings.Split(top, "/")) < 0:
			before = before.Add(weight)
		}
	}
	return before, mine, all
}
