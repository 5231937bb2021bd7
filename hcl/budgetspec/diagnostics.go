package budgetspec

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/hashicorp/hcl/v2"
)

// Each diagnostic has one constructor, so that its text is found in one place.
// A detail says what was written, then the rule, then what to do.

func problem(at hcl.Range, summary, format string, args ...any) *hcl.Diagnostic {
	return &hcl.Diagnostic{Severity: hcl.DiagError, Summary: summary, Detail: fmt.Sprintf(format, args...), Subject: &at}
}

func warning(at hcl.Range, summary, format string, args ...any) *hcl.Diagnostic {
	d := problem(at, summary, format, args...)
	d.Severity = hcl.DiagWarning
	return d
}

// place is "file:line" of a range.
func place(at hcl.Range) string { return sourceOf(at).String() }

// Files.

func startOf(file string) hcl.Range {
	return hcl.Range{Filename: file, Start: hcl.InitialPos, End: hcl.InitialPos}
}

func duplicateFile(name string) *hcl.Diagnostic {
	return problem(startOf(name), "Duplicate file", "Two files are called %q. Diagnostics and decisions refer to files by name, so each needs its own. Rename one.", name)
}

func fileTooLarge(name string, bytes int) *hcl.Diagnostic {
	return problem(startOf(name), "File too large", "This file has %d bytes. A file may have at most %d, the limit of Consul for one value. Split it: all files of a directory belong together.", bytes, fileBytesMax)
}

func lineTooLong(at hcl.Range, bytes int) *hcl.Diagnostic {
	return problem(at, "Line too long", "This line has %d bytes. A line may have at most %d. Break it up: a list may stand on several lines.", bytes, lineBytesMax)
}

func tooDeep(at hcl.Range) *hcl.Diagnostic {
	return problem(at, "Too deeply nested", "Up to here the file nests brackets more than %d levels deep or uses more than %d operators. A policy has few of either. Write the values out.", nestingMax, operatorsMax)
}

func moreDiagnostics(count int, withErrors bool) *hcl.Diagnostic {
	d := &hcl.Diagnostic{Severity: hcl.DiagWarning, Summary: "More diagnostics", Detail: fmt.Sprintf("%d more are not shown. Correct those above first.", count)}
	if withErrors {
		d.Severity = hcl.DiagError
	}
	return d
}

// Names and shape.

func unknownName(at hcl.Range, sort, name string, spec blockSpec) *hcl.Diagnostic {
	where := "A " + spec.kind + " block"
	if spec.kind == "file" {
		where = "A budget file"
	}
	known := spec.attributes
	if sort == "block" {
		known = spec.blocks
	}
	rule := "has no such " + sort
	if len(known) > 0 {
		rule += "; it may have " + strings.Join(slices.Sorted(slices.Values(known)), ", ")
	}
	everything := slices.Concat(spec.attributes, spec.blocks)
	return problem(at, "Unknown "+sort, "You wrote %s. %s %s.%s", abridge(name), where, rule, suggestion(name, everything))
}

func isBlock(at hcl.Range, name string) *hcl.Diagnostic {
	return problem(at, "Block written as an attribute", "You wrote %s with an equals sign. It is a block. Write %s { ... } without the equals sign.", name, name)
}

func isAttribute(at hcl.Range, name string) *hcl.Diagnostic {
	return problem(at, "Attribute written as a block", "You wrote %s as a block. It is an attribute. Write %s = ... with an equals sign.", name, name)
}

func repeatedBlock(at hcl.Range, kind string, first hcl.Range) *hcl.Diagnostic {
	return problem(at, "Repeated block", "You wrote a second %s block; the first is at %s. There may be only one here. Merge the two.", kind, place(first))
}

func wrongLabels(at hcl.Range, kind, label string, count int) *hcl.Diagnostic {
	if label == "" {
		return problem(at, "Unexpected label", "You wrote %s with a label. This block has none. Write %s { ... }.", kind, kind)
	}
	return problem(at, "Wrong number of labels", "You wrote %s with %d labels. It has exactly one, the %s. Write %s \"...\" { ... }.", kind, count, label, kind)
}

func badName(at hcl.Range, kind, name string) *hcl.Diagnostic {
	return problem(at, "Invalid name", "You called this %s %q. A name has 1 to %d lower-case letters, digits, dashes and underscores, and begins with a letter or digit. Choose such a name.", kind, abridge(name), nameMax)
}

func duplicateName(at hcl.Range, kind, name string, first hcl.Range) *hcl.Diagnostic {
	return problem(at, "Duplicate name", "There are two blocks %s %q; the first is at %s. Names must differ. Rename one or merge the two.", kind, abridge(name), place(first))
}

func missing(at hcl.Range, kind, what, example string) *hcl.Diagnostic {
	return problem(at, "Something is missing", "This %s block does not say %s, and has no effect without. Write, for example: %s", kind, what, example)
}

// Values.

func noValue(at hcl.Range) *hcl.Diagnostic {
	return problem(at, "No value", "You wrote null. Every attribute that is written needs a value. Remove the line to get the default.")
}

func wrongType(at hcl.Range, what, written, want string) *hcl.Diagnostic {
	return problem(at, "Wrong type of value", "You wrote %s. The value of %s must be %s. Write it so.", written, what, want)
}

func emptyText(at hcl.Range, what string) *hcl.Diagnostic {
	return problem(at, "Empty text", "You wrote \"\". The value of %s must not be empty. Write one or remove it.", what)
}

func wrongWord(at hcl.Range, what, word string, words []string) *hcl.Diagnostic {
	return problem(at, "Unknown word", "You wrote %s = %q. The value must be %s.%s", what, abridge(word), either(words), suggestion(word, words))
}

func emptyList(at hcl.Range, what string) *hcl.Diagnostic {
	return problem(at, "Empty list", "You wrote %s = []. A list needs at least one element. Write one or remove the line.", what)
}

func longList(at hcl.Range, what string, count int) *hcl.Diagnostic {
	return problem(at, "List too long", "This %s list has %d elements. It may have at most %d. Write fewer: a pattern with * or the key any may replace many.", what, count, elementsMax)
}

func repeatedElement(at hcl.Range, what, text string) *hcl.Diagnostic {
	return problem(at, "Repeated element", "You wrote %q twice in %s. Each may be there once. Remove one.", abridge(text), what)
}

func durationWithoutUnit(at hcl.Range, what, written string) *hcl.Diagnostic {
	return problem(at, "Duration without a unit", "You wrote %s = %s. A duration is text with a unit. Write, for example, \"90m\", \"72h\", \"30d\" or \"2w\".", what, written)
}

func badDuration(at hcl.Range, what, text string, why error) *hcl.Diagnostic {
	if errors.Is(why, errDurationPositive) && (what == "max_runtime" || what == "default_runtime") {
		return problem(at, "Invalid duration", "You wrote %s = %q. Zero never means \"no bound\". Remove the line to set none here.", what, abridge(text))
	}
	return problem(at, "Invalid duration", "You wrote %s = %q, but %v. A duration is a positive number with a unit. Write, for example, \"90m\", \"72h\", \"30d\" or \"2w\".", what, abridge(text), why)
}

func notANumber(at hcl.Range, what, written string, u unit) *hcl.Diagnostic {
	words := ""
	if u.words != "" {
		words = ", or a word: " + u.words
	}
	return problem(at, "Not a number", "You wrote %s for %s. It must be a positive number of %s without quotes%s. Write it so.", written, what, u.name, words)
}

func badNumber(at hcl.Range, what, written string, u unit, why numberProblem) *hcl.Diagnostic {
	instead, or := u.words, ", or a word"
	if instead == "" {
		instead, or = "such a number", ""
	}
	switch why {
	case numberZero:
		if or == "" {
			return problem(at, "Zero", "You wrote %s for %s. It must be a positive number of %s. Write such a number, or remove the line.", written, what, u.name)
		}
		return problem(at, "Zero is ambiguous", "You wrote %s for %s. Zero means \"no limit\" in some systems and \"nothing\" in others. Write %s.", written, what, instead)
	case numberNegative:
		return problem(at, "Negative number", "You wrote %s for %s. It must be a positive number of %s%s. Write %s.", written, what, u.name, or, instead)
	case numberTooLarge:
		return problem(at, "Number too large", "You wrote %s for %s. The number does not fit into 64 bits when counted in steps of %s. Write a smaller one, or %s.", written, what, u.finest, instead)
	case numberTooFine, numberFine:
	}
	return problem(at, "Number too fine", "You wrote %s for %s. It is not a whole multiple of %s, the smallest step that is counted. Round it.", written, what, u.finest)
}

func badCount(at hcl.Range, what, written string, c countRange) *hcl.Diagnostic {
	why := ""
	if c.why != "" {
		why = ": " + c.why
	}
	return problem(at, "Invalid count", "You wrote %s = %s. It must be a whole number from %d to %d%s. Write such a number.", what, written, c.least, c.most, why)
}

func outOfRange(at hcl.Range, what, written, span string) *hcl.Diagnostic {
	return problem(at, "Value out of range", "You wrote %s = %s. It must be %s. Write such a value.", what, written, span)
}

func badPercent(at hcl.Range, what, written string) *hcl.Diagnostic {
	return problem(at, "Not a percentage", "You wrote %s = %s. It must be text with a percentage above 0%% and up to 100%%, with at most %d decimals. Write, for example, \"80%%\".", what, written, percentPlaces)
}

func emptyMap(at hcl.Range, what, example string) *hcl.Diagnostic {
	return problem(at, "Empty map", "You wrote %s = {}. It must have at least one element. Write, for example: %s = %s", what, what, example)
}
