package budgetspec

import (
	"fmt"
	"strings"

	"github.com/hashicorp/hcl/v2"
	"github.com/nomad-governor/governor/quotaagent/budget"
)

// Governor block.

func unknownZone(at hcl.Range, name string) *hcl.Diagnostic {
	hint := ""
	if guess := zoneWithCapitals(name); guess != "" {
		hint = fmt.Sprintf(" Did you mean %q?", guess)
	}
	return problem(at, "Unknown time zone", "You wrote timezone = %q. It must be the name of a zone in the IANA database. Write, for example, \"UTC\" or \"Europe/Berlin\".%s", abridge(name), hint)
}

func unknownCurrency(at hcl.Range, code string) *hcl.Diagnostic {
	return problem(at, "Unknown currency", "You wrote currency = %q. It must be a code of ISO 4217, three capital letters. Write, for example, \"USD\", or a code beginning with X for credits of your own.%s",
		abridge(code), suggestion(code, strings.Fields(currencies)))
}

// Classes and prices.

func reservedClass(at hcl.Range) *hcl.Diagnostic {
	return problem(at, "Reserved name", "You called a GPU class \"any\". The word stands for all classes together. Choose another name.")
}

func badDevice(at hcl.Range, name string) *hcl.Diagnostic {
	return problem(at, "Invalid device name", "You wrote %q. A device name has three parts, vendor/type/model, exactly as `nomad node status -verbose` shows it, without patterns. Write, for example, \"nvidia/gpu/NVIDIA L40S\".", abridge(name))
}

func deviceInTwoClasses(at hcl.Range, device, class string, first deviceUse) *hcl.Diagnostic {
	return problem(at, "Device in two classes", "You put %q into class %q; it is in class %q at %s already. A device counts and costs in exactly one class. Remove it from one.", abridge(device), class, first.class, place(first.at))
}

func unknownClass(at hcl.Range, class string, declared []string) *hcl.Diagnostic {
	return problem(at, "Unknown GPU class", "You wrote %q. There is no gpu_class block of this name. Declare it or use one that is.%s", abridge(class), suggestion(class, declared))
}

func noClass() *hcl.Diagnostic {
	return &hcl.Diagnostic{
		Severity: hcl.DiagWarning, Summary: "No GPU class",
		Detail: "No file has a gpu_class block, so no GPU can be counted by class or priced. Declare one: gpu_class \"l40s\" { devices = [\"nvidia/gpu/NVIDIA L40S\"] }",
	}
}

func badTime(at hcl.Range, text string) *hcl.Diagnostic {
	return problem(at, "Invalid time", "You wrote effective_from = %q. It must be a date and time with its zone as in RFC 3339. Write, for example, \"2026-07-01T00:00:00+02:00\".", abridge(text))
}

func simultaneousCards(at hcl.Range, text, card, other string, otherAt hcl.Range) *hcl.Diagnostic {
	return problem(at, "Two rate cards at one time", "You wrote effective_from = %q for %q; rate card %q at %s takes effect at the same moment. Exactly one card is in force at a time. Change one of the times.", abridge(text), card, other, place(otherAt))
}

func priceOfAny(at hcl.Range) *hcl.Diagnostic {
	return problem(at, "Price without a class", "You wrote gpu \"any\". Each class has a price of its own. Write one gpu block for each class.")
}

func badModel(at hcl.Range, model string) *hcl.Diagnostic {
	return problem(at, "Invalid model name", "You wrote tokens %q. The label is the name of a language model as the server calls it: 1 to %d characters without blanks at the ends. Write it so.", abridge(model), modelMax)
}

func badShare(at hcl.Range, class, of string) *hcl.Diagnostic {
	return problem(at, "Share of the wrong class", "You wrote a share of %q in gpu_class %q. A share says as how much of another class one device counts; \"any\" follows from it. Name the class of the whole GPU.", abridge(of), class)
}

func largeShare(at hcl.Range, of, written string) *hcl.Diagnostic {
	return problem(at, "Share too large", "You wrote a share of %s of %q. A share is a part of one GPU, at most 1. Write, for example, 1 / 7.", written, abridge(of))
}

func shareOfShare(at hcl.Range, of string, first budget.Source) *hcl.Diagnostic {
	return problem(at, "Share of a part", "You wrote a share of %q, which is itself a part of other classes (%s). Shares do not add up over several steps. Name the class of the whole GPU.", of, first)
}

func noRateCard(cost hcl.Range) *hcl.Diagnostic {
	return problem(cost, "No prices", "This limits a cost, but no file has a rate_card block, so nothing has a price. Add a rate card with a price for each class, or limit gpu_hours.")
}

func noPriceForLimit(at hcl.Range, class, card string, cost hcl.Range) *hcl.Diagnostic {
	return problem(at, "No price for a class", "Class %q has no price in the newest rate card, %q, but %s limits a cost. Without a price its GPUs would be free. Add gpu %q { per_hour = ... } to the card (\"none\" if they are free).", class, card, place(cost), class)
}

func noPrice(at hcl.Range, class, card string) *hcl.Diagnostic {
	return warning(at, "No price for a class", "Class %q has no price in the newest rate card, %q, so its use will cost nothing. No limit counts cost yet. Add gpu %q { per_hour = ... } to the card (\"none\" if they are free).", class, card, class)
}

// Budgets.

func noBudget() *hcl.Diagnostic {
	return &hcl.Diagnostic{
		Severity: hcl.DiagError, Summary: "No budget",
		Detail: "No file has a budget block, so every GPU job would be refused. Write at least one: budget \"team\" { match { namespaces = [\"default\"] } }",
	}
}

func tooManyLevels(at hcl.Range, path string) *hcl.Diagnostic {
	return problem(at, "Too many levels", "The budget %s lies more than %d levels deep. Every level is checked in one transaction of bounded size. Nest less deeply.", abridge(path), depthMax)
}

func tooManyBudgets(at hcl.Range) *hcl.Diagnostic {
	return problem(at, "Too many budgets", "This is one budget more than %d, the most a policy may have. Remove some.", budgetsMax)
}

func emptyMatch(at hcl.Range) *hcl.Diagnostic {
	return problem(at, "Empty match", "This match block names nothing. It would claim every job. Write namespaces = [\"*\"] if you mean that, or remove the block.")
}

func badNamespace(at hcl.Range, pattern string) *hcl.Diagnostic {
	return problem(at, "Invalid namespace pattern", "You wrote %q. A namespace has at most %d letters, digits and dashes; * stands for any run of them. No namespace can match this. Correct it.", abridge(pattern), patternMax)
}

func badNodePool(at hcl.Range, pattern string) *hcl.Diagnostic {
	return problem(at, "Invalid node pool pattern", "You wrote %q. A node pool has at most %d letters, digits, dashes and underscores; * stands for any run of them. No node pool can match this. Correct it.", abridge(pattern), patternMax)
}

func badIdentity(at hcl.Range, text, kind string) *hcl.Diagnostic {
	kinds := identityKinds()
	return problem(at, "Invalid identity pattern", "You wrote %q. A pattern is kind:name, as in \"role:nlp-*\", with the kind %s, and has at most %d characters; or it is one of the words %s. Write it so.%s",
		abridge(text), either(kinds), patternMax, either(identityWords()), suggestion(kind, kinds))
}

func unknownWindow(at hcl.Range, name string) *hcl.Diagnostic {
	var windows []string
	for w := budget.Hour; w <= budget.Total; w++ {
		windows = append(windows, w.String())
	}
	if name == budget.Concurrent.String() {
		return problem(at, "Unknown window", "You wrote limit \"concurrent\". What is held at once is not a window. Write concurrent { gpus = { ... } } instead.")
	}
	return problem(at, "Unknown window", "You wrote limit %q. The window must be %s.%s", abridge(name), either(windows), suggestion(name, windows))
}

func unknownKey(at hcl.Range, what, key string, known []string) *hcl.Diagnostic {
	return problem(at, "Unknown key", "You wrote %q in %s. The keys are %s.%s", abridge(key), what, either(known), suggestion(key, known))
}

func endlessRollover(at hcl.Range) *hcl.Diagnostic {
	return problem(at, "Rollover of a window without end", "The window total never ends, so nothing is ever left over. Remove the block.")
}

func rolloverWithoutLimit(at hcl.Range, key string) *hcl.Diagnostic {
	return problem(at, "Rollover without a limit", "You let %s be carried over, but this block has no limit on it. Add the limit or remove this.", key)
}

func badSpan(at hcl.Range, text string, window budget.Window) *hcl.Diagnostic {
	return problem(at, "Invalid time in the calendar", "You wrote expires = %q. It must be a whole number of periods of the window %s, at most %d of them. Write, for example, \"1 %s\" or \"3 %ss\".", abridge(text), window, periodsMax, window, window)
}

func badNotifier(at hcl.Range, written string) *hcl.Diagnostic {
	return problem(at, "Not a notifier", "You wrote %s. An element of notify refers to a notify block by its two labels. Write, for example, notify.webhook.finops without quotes.", written)
}

func unknownNotifier(at hcl.Range, name string, known []string) *hcl.Diagnostic {
	return problem(at, "Unknown notifier", "There is no notify block with the labels of notify.%s. Declare it, or use one that is.%s", abridge(name), suggestion(name, known))
}

func badEventKind(at hcl.Range, text string, kinds []string) *hcl.Diagnostic {
	return problem(at, "Unknown kind of events", "You wrote %q. An element of events is a kind of events, or all that begin alike, such as \"budget.*\".%s", abridge(text), suggestion(text, kinds))
}

func unknownWatched(at hcl.Range, path string, known []string) *hcl.Diagnostic {
	return warning(at, "Notifier for no budget", "There is no budget %s, so nobody is told of it. Write the path of a budget: its events and those of all below are told.%s", abridge(path), suggestion(path, known))
}

func unreachable(at hcl.Range, path string) *hcl.Diagnostic {
	return warning(at, "Budget can never be used", "The budget %s has neither a match block nor budgets below it, so no job can draw from it. Add match { namespaces = [...] } or remove it.", path)
}

func defaultBeyondMax(at hcl.Range, r runtimes, of *budget.Budget) *hcl.Diagnostic {
	return problem(at, "Default runtime beyond the maximum", "The default runtime is %s, but max_runtime of %s at %s is %s. A job that states no runtime would always be refused. Lower the default or raise the maximum.",
		formatDuration(r.standard), of.Path, of.PerJob.MaxRuntimeSource, formatDuration(r.most))
}

func classBeyondAny(at hcl.Range, limit, lower string) *hcl.Diagnostic {
	return warning(at, "Limit can never bind", "You allow %s, but only %s in the same budget. The lower one always binds first. Lower this one or raise the other.", limit, lower)
}

func childBeyondParent(at hcl.Range, limit, lower, parent string, source budget.Source) *hcl.Diagnostic {
	return warning(at, "Limit above its parent's", "You allow %s, but %s above it allows only %s (%s). The lower one always binds first. Lower this one or raise the other.", limit, parent, lower, source)
}

func oversubscribed(at hcl.Range, limit, sum, children string) *hcl.Diagnostic {
	return warning(at, "Budgets below exceed this limit", "You allow %s, but the budgets below it, %s, together allow %s. They cannot all use their share. If that is intended, ignore this; otherwise raise this limit or lower theirs.", limit, children, sum)
}

func overlap(at hcl.Range, path, other string, source budget.Source) *hcl.Diagnostic {
	return warning(at, "Two budgets claim the same job", "A job can match both %s and %s (%s). It would be refused as ambiguous unless its meta governor_budget names one of them. Make the two match blocks differ.", path, other, source)
}
