package main

import (
	"regexp"
	"strings"

	"github.com/agext/levenshtein"
)

// option is one option of a command, as its help tells.
type option struct {
	// name is without the hyphen; value is what it takes ("<path>"), "" for a switch.
	name, value string
}

// optionLine is how help names an option.
var optionLine = regexp.MustCompile(`(?m)^  -([a-z][a-z-]*)(?:=(\S+))?(?:\s|$)`)

// optionsOf are the options that a help text has, in its order.
func optionsOf(help string) []option {
	var out []option
	for _, m := range optionLine.FindAllStringSubmatch(help, -1) {
		out = append(out, option{m[1], m[2]})
	}
	return out
}

// jsonLine is how help names the option for JSON, with how far its text is indented.
var jsonLine = regexp.MustCompile(`(?m)^(  -json +)\S.*$`)

// templateHelp adds the option for templates where there is one for JSON.
func templateHelp(help string) string {
	at := jsonLine.FindStringSubmatchIndex(help)
	if at == nil {
		return help
	}
	name := "  -t=<template>"
	indent := at[3] - at[2]
	return help[:at[1]] + "\n" + name + strings.Repeat(" ", max(1, indent-len(name))) + "Print a Go template of what -json prints." + help[at[1]:]
}

// nearest is the name that was probably meant; "" where none is near.
func nearest(name string, names []string) string {
	most := 1 + len(name)/4
	best, distance := "", most+1
	for _, candidate := range names {
		if d := levenshtein.Distance(name, candidate, nil); d < distance && d < len(candidate) {
			best, distance = candidate, d
		}
	}
	return best
}

// didYouMean is a sentence that proposes a name, "" for none.
func didYouMean(name string) string {
	if name == "" {
		return ""
	}
	return "; did you mean \"" + name + "\"?"
}
