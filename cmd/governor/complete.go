package main

import (
	"strings"
	"time"

	"github.com/hashicorp/cli"
	"github.com/posener/complete"

	"github.com/nomad-governor/governor/quotaagent/agent"
)

var _ cli.CommandAutocomplete = command{}

// completeWithin bounds how long a shell waits for the agent when a name is completed.
const completeWithin = 800 * time.Millisecond

// AutocompleteFlags implements cli.CommandAutocomplete: the options are those of the help.
func (c command) AutocompleteFlags() complete.Flags {
	flags := complete.Flags{}
	for _, o := range optionsOf(c.help) {
		flags["-"+o.name] = c.predict(o.name, o.value)
	}
	return flags
}

// AutocompleteArgs implements cli.CommandAutocomplete: what the usage names.
func (c command) AutocompleteArgs() complete.Predictor {
	usage, _, _ := strings.Cut(c.help, "\n")
	_, arguments, _ := strings.Cut(usage, "[options]")
	switch {
	case strings.Contains(arguments, "<budget"):
		return complete.PredictFunc(func(complete.Args) []string { return c.names(budgetNames) })
	case strings.Contains(arguments, "<job file>"):
		return complete.PredictFiles("*")
	case strings.Contains(arguments, "<job"):
		return complete.PredictFunc(func(complete.Args) []string { return c.names(jobNames) })
	case strings.Contains(arguments, "file"), strings.Contains(arguments, "dir"), strings.Contains(arguments, "trace"):
		return complete.PredictFiles("*")
	}
	return complete.PredictNothing
}

// predict is what may follow an option.
func (c command) predict(name, value string) complete.Predictor {
	switch {
	case value == "":
		return complete.PredictNothing // a switch
	case name == "budget":
		return complete.PredictFunc(func(complete.Args) []string { return c.names(budgetNames) })
	case name == "job":
		return complete.PredictFunc(func(complete.Args) []string { return c.names(jobNames) })
	case strings.Contains(value, "file"), strings.Contains(value, "dir"):
		return complete.PredictFiles("*")
	}
	return complete.PredictAnything
}

// names asks the agent that the environment names. Without an answer there are none: a
// shell that completes has nowhere to show an error.
func (c command) names(pick func(agent.Status) []string) []string {
	client := clientFlags(c.env, flags("complete"))
	var status agent.Status
	if err := client.quick("/governor/v1/status", &status, completeWithin); err != nil {
		return nil
	}
	return pick(status)
}

func budgetNames(s agent.Status) []string {
	names := make([]string, 0, len(s.Budgets))
	for _, b := range s.Budgets {
		names = append(names, b.Path)
	}
	return names
}

func jobNames(s agent.Status) []string {
	names := make([]string, 0, len(s.Holds))
	for _, h := range s.Holds {
		names = append(names, h.JobID)
	}
	return names
}
