package budgetspec

import (
	"github.com/hashicorp/hcl/v2"
	"github.com/nomad-governor/governor/quotaagent/budget"
)

// What rules mean together. Each constructor belongs to a check in check_rules.go.

func nestedCohort(at hcl.Range, cohort string, a *budget.Budget) *hcl.Diagnostic {
	return problem(at, "Cohort inside itself", "You put this budget into the cohort %q, and %s above it (%s) is in it too. Its GPUs would be lent twice. Take one of them out.", cohort, a.Path, a.Source)
}

func loneCohort(at hcl.Range, path, cohort string) *hcl.Diagnostic {
	return warning(at, "Cohort with one member", "Only %s is in the cohort %q, so nobody lends to it and it lends to nobody. Put other budgets into it, or remove the line.", path, cohort)
}

func borrowWithoutCohort(at hcl.Range) *hcl.Diagnostic {
	return problem(at, "Borrowing without a cohort", "You let this budget borrow, but it is in no cohort, so there is nobody to borrow from. Write cohort = \"...\" in it and in the budgets that lend, or raise gpus.")
}

func borrowWithoutLimit(at hcl.Range, class string) *hcl.Diagnostic {
	return warning(at, "Borrowing without a limit", "You let this budget borrow GPUs of %s, but it has no limit on them that it could go beyond. Add %s to gpus, or remove this.", quotedClass(class), class)
}

func nobodyLends(at hcl.Range, class, cohort string) *hcl.Diagnostic {
	return warning(at, "Nobody lends", "You let this budget borrow GPUs of %s, but no other budget of the cohort %q has any to lend. Add them to gpus of one that has, or remove this.", quotedClass(class), cohort)
}

func lendWithoutCohort(at hcl.Range) *hcl.Diagnostic {
	return warning(at, "Lending without a cohort", "You say how much this budget lends, but it is in no cohort, so it lends nothing. Write cohort = \"...\", or remove this.")
}

func lendWithoutLimit(at hcl.Range, class string) *hcl.Diagnostic {
	return warning(at, "Lending without a limit", "You say how many GPUs of %s this budget lends, but it has no limit on them: none are its own. Add %s to gpus, or remove this.", quotedClass(class), class)
}

func lendBeyondOwn(at hcl.Range, class, lend, own string) *hcl.Diagnostic {
	return warning(at, "Lending more than there is", "You let %s GPUs of %s be lent, but only %s are this budget's own. Lower this one, or write \"unlimited\" for all.", lend, quotedClass(class), own)
}

// quotedClass is the name of a class for people.
func quotedClass(class string) string {
	if class == anyClass {
		return "all classes together"
	}
	return class
}

func idleOverride(at hcl.Range, path string) *hcl.Diagnostic {
	return warning(at, "Override without a limit", "A grant adds to the limits of %s itself, and it has none on what max names. So a grant changes nothing. Name what is limited here, or move the block to the budget with the limit.", path)
}

func moneyWithoutApproval(at hcl.Range, currency, most string) *hcl.Diagnostic {
	return warning(at, "Money without approval", "Everybody whom this override names can take up to %s %s more without anybody else. Write approval = 1, so that a second person must agree.", most, currency)
}

func softWithoutOverride(at hcl.Range, path string) *hcl.Diagnostic {
	return warning(at, "Soft-mandatory without an override", "The limits of %s may be overridden, but neither it nor a budget below has an override block that says by whom. So nobody can. Add one, or write \"hard-mandatory\".", path)
}

func stopWithoutGrace(at hcl.Range, signal string) *hcl.Diagnostic {
	return warning(at, "Signal without grace", "Tasks get %s and are stopped at once: there is no time to write a checkpoint. Write grace = \"5m\", for example, or signal = \"none\".", signal)
}

func idleThrottle(at hcl.Range, path string) *hcl.Diagnostic {
	return warning(at, "Throttle that is never used", "Neither %s nor a budget below it has running = \"throttle\". Write that, or remove the block.", path)
}

func advisoryEnd(at hcl.Range) *hcl.Diagnostic {
	return warning(at, "Rule without effect", "This budget is advisory: it never blocks and never ends running work. Change enforcement, or remove the line.")
}

func throttledBatch(at hcl.Range, path string) *hcl.Diagnostic {
	return warning(at, "Throttling batch work", "Only batch jobs match %s, and throttling lowers the count of service jobs. So nothing happens once a limit is overdrawn. Write running = \"stop\" or \"let_finish\".", path)
}

func idleQueue(at hcl.Range, path string) *hcl.Diagnostic {
	return warning(at, "Queue that is never used", "No budget above, at or below %s has admit = \"queue\", so no job waits here. Write that, or remove the block.", path)
}

func idleFairShare(at hcl.Range, path string) *hcl.Diagnostic {
	return warning(at, "Fair share that is never used", "No queue has order = \"fair_share\", so the share of %s counts nowhere. Write that, or remove the block.", path)
}

func alertWithoutLimit(at hcl.Range, path string) *hcl.Diagnostic {
	return warning(at, "Alert without a limit", "This alert is about the limits of %s, and it has none of its own. So it never becomes true. Move it to the budget with the limit.", path)
}

func noWattsForLimit(at hcl.Range, class string, limit budget.Source) *hcl.Diagnostic {
	return warning(at, "Energy without a bound", "Class %q does not say watts, but %s limits energy. Where that limit applies, jobs with these GPUs are refused, because nothing bounds what they draw. Add watts = ..., the most that one draws.", class, limit)
}

func noWattsForPrice(at hcl.Range, class string, price budget.Source) *hcl.Diagnostic {
	return warning(at, "Energy without a bound", "Class %q does not say watts, but %s prices energy. What it draws is charged, but cannot be held ahead. Add watts = ..., the most that one draws.", class, price)
}

func shadowed(at hcl.Range, path string, by *budget.Budget) *hcl.Diagnostic {
	return warning(at, "Match that never applies", "Whatever matches %s also matches %s (%s) or a budget below that, and the deepest one wins. So no job draws from %s itself. Narrow the match below, or remove this one.", path, by.Path, by.Source, path)
}

func nobodyIsCalled(at hcl.Range, identities string) *hcl.Diagnostic {
	return warning(at, "Match that never applies", "You match only %s, and nobody is ever called so: the only type that counts is management. Name a role, policy, user or token.", abridge(identities))
}
