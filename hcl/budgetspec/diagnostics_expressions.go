package budgetspec

import (
	"fmt"
	"slices"
	"strings"

	"github.com/hashicorp/hcl/v2"
	"github.com/hashicorp/hcl/v2/ext/typeexpr"
	"github.com/zclconf/go-cty/cty"
	"github.com/zclconf/go-cty/cty/function"

	"github.com/nomad-governor/governor/quotaagent/budget"
)

// References.

func reference(at hcl.Range, root string) *hcl.Diagnostic {
	roots := append(lateRoots(), "local", "notify", "var")
	return problem(at, "Unknown reference", "You wrote %s without quotes, which refers to a value of that name. There is none. If you mean the word, write it in quotes: %q.%s",
		abridge(root), abridge(root), suggestion(root, roots))
}

func undeclared(at hcl.Range, root, name string, declared []string) *hcl.Diagnostic {
	block := map[string]string{"var": `variable "` + abridge(name) + `" { ... }`, "local": `locals { ` + abridge(name) + ` = ... }`}[root]
	return problem(at, "Undeclared name", "You wrote %s.%s. No file declares it. Add %s, or use a name that is declared.%s", root, abridge(name), block, suggestion(name, declared))
}

func incompleteReference(at hcl.Range, root string, names []string) *hcl.Diagnostic {
	example := "<name>"
	if root == "notify" {
		example = "<kind>.<name>"
	}
	known := ""
	if len(names) > 0 && len(names) <= 12 {
		known = " There are " + strings.Join(names, ", ") + "."
	}
	return problem(at, "Incomplete reference", "You wrote %s without saying which of its values you mean. Write %s.%s.%s", root, root, example, known)
}

func tooEarly(at hcl.Range, root string) *hcl.Diagnostic {
	return problem(at, "Value is not known yet", "You wrote %s here. What it stands for is known only when a job comes; this value is needed when the policy is read. Only conditions (when, and condition of assert) may refer to %s.", root, root)
}

func rootNotHere(at hcl.Range, root string, allowed []string) *hcl.Diagnostic {
	var names []string
	for _, name := range slices.Sorted(slices.Values(allowed)) {
		if name == burnRate {
			name += `("1h")`
		}
		names = append(names, name)
	}
	return problem(at, "Value is not known here", "You wrote %s. This condition may refer to %s, and to var and local. Write it with these.", root, strings.Join(names, ", "))
}

func rateNotHere(at hcl.Range) *hcl.Diagnostic {
	return problem(at, "Value is not known here", "You called burn_rate. How fast a budget is used is known only in the condition (when) of an alert. Call it there.")
}

func badRateSpan(at hcl.Range, written string) *hcl.Diagnostic {
	return problem(at, "Invalid duration", "You wrote %s. burn_rate takes one span of time, which must be constant. Write, for example, burn_rate(\"1h\").", written)
}

func notConstant(at hcl.Range, written string) *hcl.Diagnostic {
	return problem(at, "Value of a variable is not constant", "You wrote %s. The value of a variable stands for itself, so that it can be replaced. Write the value, or make a local that refers to others.", written)
}

func circular(at hcl.Range, path string) *hcl.Diagnostic {
	return problem(at, "Circular reference", "This value depends on itself: %s. A value must be computable from others. Break the circle.", path)
}

func unknownFact(at hcl.Range, root, name string, names []string) *hcl.Diagnostic {
	if root == "schedule" {
		return problem(at, "Unknown schedule", "You wrote schedule.%s. No file has a schedule block of this name. Declare it, or use one that is declared.%s", abridge(name), suggestion(name, names))
	}
	return problem(at, "Unknown attribute", "You wrote %s.%s. %s has %s. Use one of these.%s", root, abridge(name), root, strings.Join(names, ", "), suggestion(name, names))
}

// attributeNames are the attributes of an object, in order.
func attributeNames(t cty.Type) []string {
	var names []string
	for name := range t.AttributeTypes() {
		names = append(names, name)
	}
	slices.Sort(names)
	return names
}

func unknownAttribute(at hcl.Range, name string, names []string) *hcl.Diagnostic {
	if len(names) == 0 {
		return problem(at, "Unknown attribute", "You wrote .%s of a value that has no attributes. Remove it.", abridge(name))
	}
	return problem(at, "Unknown attribute", "You wrote .%s. This value has %s. Use one of these.%s", abridge(name), abridge(strings.Join(names, ", ")), suggestion(name, names))
}

func noSuchKey(at hcl.Range, key string) *hcl.Diagnostic {
	return problem(at, "Missing key", "You asked for %q. The map does not have it. Write lookup(map, %q, default) where it may be missing.", abridge(key), abridge(key))
}

func noSuchElement(at hcl.Range, key string) *hcl.Diagnostic {
	return problem(at, "Missing element", "You asked for the element %s. The value does not have it. Elements of a list are counted from 0; try(..., otherwise) stands in where one may be missing.", abridge(key))
}

func nothingInText(at hcl.Range, written string) *hcl.Diagnostic {
	return problem(at, "Nothing there", "You wrote %s in a text. It is null, which has no text. Write coalesce(%s, \"none\") where it may be missing.", written, written)
}

func ofNothing(at hcl.Range, name string) *hcl.Diagnostic {
	return problem(at, "Nothing there", "You wrote .%s of null, which has no attributes. Test for null first: x != null && x.%s ...", abridge(name), abridge(name))
}

func ambiguousKey(at hcl.Range, written string) *hcl.Diagnostic {
	return problem(at, "Ambiguous key", "You wrote the key %s. It could be the text or the value that it refers to. Write \"%s\" or (%s).", written, written, written)
}

func repeatedKey(at hcl.Range, key string) *hcl.Diagnostic {
	return problem(at, "Repeated key", "Two elements make the key %q. A key may be there once. Make another, or write ... after the value to get lists.", abridge(key))
}

func badIdentifier(at hcl.Range, kind, name string) *hcl.Diagnostic {
	return problem(at, "Invalid name", "You called this %s %q. Expressions refer to it, so its name has at most %d letters, digits, dashes and underscores, and begins with a letter or underscore. Choose such a name.", kind, abridge(name), nameMax)
}

// Operators and functions.

func wrongOperand(at hcl.Range, written, symbol, is string, want cty.Type) *hcl.Diagnostic {
	remedy := "Compare it with something."
	if want == cty.Number {
		remedy = "Convert it: tonumber(...)."
	}
	if is != "text" {
		remedy = "Use another value."
	}
	return problem(at, "Wrong type of value", "You wrote %s beside %s. It is %s; %s needs %s. %s", written, symbol, is, symbol, typeName(want), remedy)
}

func nothingToCompute(at hcl.Range, written, symbol string) *hcl.Diagnostic {
	if written == "null" {
		return problem(at, "Nothing there", "You wrote null beside %s, which needs a value. Write one.", symbol)
	}
	return problem(at, "Nothing there", "%s is null here, and %s needs a value. Test for null first: %s != null && ...", written, symbol, written)
}

func neverEqual(at hcl.Range, written, left, right string) *hcl.Diagnostic {
	remedy := "Compare values of one type."
	if (left == "text") != (right == "text") {
		remedy = "Convert one of them with tostring(...) or tonumber(...)."
	}
	return problem(at, "Never equal", "You wrote %s. The left side is %s and the right side is %s, which are never equal. %s", written, left, right, remedy)
}

func neverThatWord(at hcl.Range, fact, word string, words []string) *hcl.Diagnostic {
	return problem(at, "Unknown word", "You compare %s with %q. It is always %s. Use one of these.%s", fact, abridge(word), either(words), suggestion(word, words))
}

func notComputable(at hcl.Range, written string, err error) *hcl.Diagnostic {
	return problem(at, "Cannot be computed", "You wrote %s: %v. Write something that has a value.", written, err)
}

func numberOutOfBounds(at hcl.Range, written string) *hcl.Diagnostic {
	return problem(at, "Number out of bounds", "The value of %s has more than about %d digits, or is infinite. Numbers of a policy are smaller. Write another.", written, exponentMax*3/10)
}

func notACondition(at hcl.Range, written string) *hcl.Diagnostic {
	return problem(at, "Not a condition", "You wrote %s. A condition must be true or false. Compare it with something, as in job.type == \"batch\".", written)
}

func notACollection(at hcl.Range, written string) *hcl.Diagnostic {
	return problem(at, "Not a list", "You wrote %s where the elements of a list or map are needed. It has none. Write [%s] for a list of one.", written, written)
}

func notAnExpression(at hcl.Range) *hcl.Diagnostic {
	return problem(at, "Not an expression", "The language does not have this kind of expression. Write the value in another way.")
}

func unknownFunction(at hcl.Range, name string) *hcl.Diagnostic {
	if hermetic(name) {
		return problem(at, "Unknown function", "You called %s. A policy depends on nothing but its files and variables, so that every agent reads the same one: there are no functions of files, environments, clocks or chance. Write the value, or use a variable.", name)
	}
	return problem(at, "Unknown function", "You called %s. There is no such function. The list is in the documentation of the budget language.%s", abridge(name), suggestion(name, Functions()))
}

func signature(name string, f function.Function) string {
	var params []string
	for _, p := range f.Params() {
		params = append(params, p.Name)
	}
	if p := f.VarParam(); p != nil {
		params = append(params, p.Name+"...")
	}
	return name + "(" + strings.Join(params, ", ") + ")"
}

func wrongArgumentCount(at hcl.Range, name string, count int, f function.Function) *hcl.Diagnostic {
	return problem(at, "Wrong number of arguments", "You called %s with %d arguments. It takes others. Write %s.", name, count, signature(name, f))
}

func wrongAttempt(at hcl.Range, name string) *hcl.Diagnostic {
	return problem(at, "Wrong number of arguments", "You called %s with other arguments than it takes. Write try(expression, otherwise) or can(expression).", name)
}

func wrongArgument(at hcl.Range, written, name, param string, want cty.Type) *hcl.Diagnostic {
	return problem(at, "Wrong type of value", "You wrote %s as the %s of %s. It must be %s. Use another value or convert it.", written, param, name, typeName(want))
}

func callFailed(at hcl.Range, written string, err error) *hcl.Diagnostic {
	return problem(at, "Cannot be computed", "You wrote %s, which has no value: %v. Use other arguments.", written, err)
}

// Bounds.

func tooMuchWork(at hcl.Range) *hcl.Diagnostic {
	return problem(at, "Too much work", "Up to here the expression takes more steps than any may, so that no policy can stop an agent. Use shorter lists, or write the value out.")
}

func valueTooLarge(at hcl.Range) *hcl.Diagnostic {
	return problem(at, "Value too large", "This value has more than %d parts. It may be used many times, so it has to be smaller. Write it in several values.", valueSizeMax)
}

func tooManyValues(at hcl.Range, what string) *hcl.Diagnostic {
	return problem(at, "Too many "+what, "These are more than %d %s, the most a policy may have. Remove some.", valuesMax, what)
}

func conditionTooLarge(at hcl.Range) *hcl.Diagnostic {
	at.End = at.Start // not all of it
	return problem(at, "Condition too large", "This condition has more than %d parts. It is evaluated for every job, and people have to understand it. Write what is constant as a local, or say it in several rules.", conditionPartsMax)
}

// When a condition is evaluated.

func notKnown(at hcl.Range, written string) *hcl.Diagnostic {
	return problem(at, "Not known", "%s is not known here", written)
}

func noRate(at hcl.Range, written string, err error) *hcl.Diagnostic {
	if err == nil {
		return problem(at, "Not known", "%s is not a number", written)
	}
	return problem(at, "Not known", "%s: %v", written, err)
}

// Variables and locals.

func badType(at hcl.Range, written string) *hcl.Diagnostic {
	return problem(at, "Unknown type", "You wrote %s. A type is string, number, bool, any, list(...), set(...), map(...), tuple([...]) or object({...}), without quotes. Write such a type.%s",
		written, suggestion(strings.Trim(written, `"`), []string{"string", "number", "bool", "any", "list", "set", "map", "tuple", "object"}))
}

func sensitiveVariable(at hcl.Range, name string) *hcl.Diagnostic {
	return problem(at, "No secrets in a policy", "You wrote sensitive for variable %q. A policy and its variables are kept in Consul, where whoever may read budgets sees them. Keep secrets in the agent's environment (secret_env of notify) and remove this line.", name)
}

func noVariableValue(at hcl.Range, name string) *hcl.Diagnostic {
	return problem(at, "Variable without a value", "Variable %q has no default, and no file gives it a value. Add default = ..., a line %s = ... in a file that ends in .vars.hcl, or use -var=%s=...", name, name, name)
}

func wrongVariableType(at hcl.Range, name, written string, want cty.Type, err error) *hcl.Diagnostic {
	return problem(at, "Wrong type of value", "You wrote %s for variable %q. Its type is %s: %v. Write such a value.", written, name, typeexpr.TypeString(want), err)
}

func invalidVariable(at hcl.Range, name, message string, rule hcl.Range) *hcl.Diagnostic {
	return problem(at, "Invalid value of a variable", "The value of variable %q is refused by its validation (%s): %s", name, place(rule), message)
}

func aboutSomethingElse(at hcl.Range, name string) *hcl.Diagnostic {
	return problem(at, "Not about the variable", "This validation of variable %q does not refer to var.%s. It decides whether the variable's value is right. Use var.%s in it.", name, name, name)
}

func unknownVariableValue(at hcl.Range, name string, declared []string) *hcl.Diagnostic {
	return problem(at, "Unknown variable", "You give %s a value. No file declares a variable of this name. Declare it, or remove the line.%s", abridge(name), suggestion(name, declared))
}

func twoValues(at hcl.Range, name string, first hcl.Range) *hcl.Diagnostic {
	return problem(at, "Two values for a variable", "You give %s a value here and at %s. The order of files means nothing, so a variable has one value. Remove one of the two.", abridge(name), place(first))
}

func blockInVarsFile(at hcl.Range, kind string) *hcl.Diagnostic {
	return problem(at, "Block in a file of values", "You wrote a %s block in a file that ends in .vars.hcl. Such a file has only lines name = value. Move the block to another file.", abridge(kind))
}

func duplicateLocal(at hcl.Range, name string, first hcl.Range) *hcl.Diagnostic {
	return problem(at, "Duplicate name", "There are two locals %s; the first is at %s. Names must differ. Rename one.", abridge(name), place(first))
}

// Values that are set on the command line; they stand in no file.

func setProblem(summary, format string, args ...any) *hcl.Diagnostic {
	return &hcl.Diagnostic{Severity: hcl.DiagError, Summary: summary, Detail: fmt.Sprintf(format, args...)}
}

func unknownSetVariable(name string, declared []string) *hcl.Diagnostic {
	return setProblem("Unknown variable", "You set %q. No file declares a variable of this name. Set one that is declared.%s", abridge(name), suggestion(name, declared))
}

func badSetValue(name, text string, want cty.Type) *hcl.Diagnostic {
	return setProblem("Not a value", "You set %s to %s. The value must be an expression of the language for the type %s, on one line. Write, for example, -var='%s=[\"a\", \"b\"]'; text of a variable that is not of type string stands in quotes.", name, abridge(text), typeexpr.TypeString(want), name)
}

// Schedules, notifiers, moves.

func unknownDay(at hcl.Range, day string, days []string) *hcl.Diagnostic {
	hint := suggestion(day, days)
	if hint == "" && len(day) > 3 && slices.Contains(days, strings.ToLower(day[:3])) {
		hint = fmt.Sprintf(" Did you mean %q?", strings.ToLower(day[:3]))
	}
	return problem(at, "Unknown day", "You wrote %q. A day is %s. Write one of these.%s", abridge(day), either(days), hint)
}

func badTimeOfDay(at hcl.Range, what, text string) *hcl.Diagnostic {
	hint := ""
	if text == "24:00" {
		hint = ` Midnight is "00:00".`
	}
	return problem(at, "Invalid time of day", "You wrote %s = %q. It must be hours and minutes on a clock of 24 hours. Write, for example, \"06:30\".%s", what, abridge(text), hint)
}

func wrongNotifyLabels(at hcl.Range, count int) *hcl.Diagnostic {
	return problem(at, "Wrong number of labels", "You wrote notify with %d labels. It has two, the kind and the name. Write notify \"webhook\" \"name\" { ... }.", count)
}

func unknownNotifierKind(at hcl.Range, kind string, kinds []string) *hcl.Diagnostic {
	return problem(at, "Unknown kind of notifier", "You wrote notify %q. The kind must be %s.%s", abridge(kind), either(kinds), suggestion(kind, kinds))
}

func badURL(at hcl.Range, text string) *hcl.Diagnostic {
	return problem(at, "Invalid URL", "You wrote url = %q. It must be the address of an HTTP server, without a user, password or fragment. Write, for example, \"https://hooks.example.com/gpu\".", abridge(text))
}

func badEnvironmentName(at hcl.Range, text string) *hcl.Diagnostic {
	return problem(at, "Invalid name", "You wrote secret_env = %q. It names a variable in the agent's environment that has the key; it is not the key. Write, for example, \"GOVERNOR_WEBHOOK_SECRET\".", abridge(text))
}

func badPath(at hcl.Range, what, text string) *hcl.Diagnostic {
	return problem(at, "Invalid path of a budget", "You wrote %s = %q. A path is the names of budgets from the root, joined by slashes. Write, for example, \"acme/research/nlp\".", what, abridge(text))
}

func movedTwice(at hcl.Range, from string, first hcl.Range) *hcl.Diagnostic {
	return problem(at, "Moved twice", "You moved %s here and at %s. A budget can go to one place. Remove one of the two.", from, place(first))
}

func movedButThere(at hcl.Range, from string, source budget.Source) *hcl.Diagnostic {
	return problem(at, "Moved but still there", "You moved %s, but it is declared at %s. Its history can only follow when it is gone. Remove the budget or the moved block.", from, source)
}

func movedNowhere(at hcl.Range, from, to string, paths []string) *hcl.Diagnostic {
	return warning(at, "Moved to no budget", "You moved %s to %s, which no file declares, so its history stays where it is. Correct the path, or remove the block when the budget is gone for good.%s", from, to, suggestion(to, paths))
}
