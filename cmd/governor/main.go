// Command governor is the quota agent and its command line: one static binary.
package main

import (
	"context"
	"fmt"
	"io"
	"maps"
	"os"
	"os/signal"
	"slices"
	"strings"
	"syscall"

	"github.com/hashicorp/cli"
	"github.com/nomad-governor/governor/internal/version"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	context.AfterFunc(ctx, stop) // a second signal ends the program at once
	os.Exit(run(ctx, os.Args[1:], os.Stdin, os.Stdout, os.Stderr))
}

// run is the whole program with its surroundings as arguments. Exit codes: 0
// done, 1 failed or refused, 127 unknown command; doctor has its own.
func run(ctx context.Context, args []string, stdin io.Reader, stdout, stderr io.Writer) int {
	env := environment{ctx: ctx, stdin: stdin, stdout: stdout, stderr: stderr, getenv: os.Getenv}
	if len(args) > 0 && !strings.HasPrefix(args[0], "-") && commands(env)[args[0]] == nil {
		fmt.Fprintf(stderr, "Error: there is no command %q%s\nTry: governor -help\n", args[0], didYouMean(nearest(args[0], slices.Sorted(maps.Keys(commands(env))))))
		return 127
	}
	c := &cli.CLI{
		Name: "governor", Version: version.String(), Args: args, Autocomplete: true,
		Commands: commands(env), HelpFunc: cli.BasicHelpFunc("governor"), HelpWriter: stdout, ErrorWriter: stderr,
	}
	code, err := c.Run()
	if err != nil {
		fmt.Fprintln(stderr, "governor:", err)
		return 1
	}
	return code
}

// environment is what commands know of the world.
type environment struct {
	ctx            context.Context
	stdin          io.Reader
	stdout, stderr io.Writer
	getenv         func(string) string
}

// fail prints an error and returns the exit code for it.
func (e environment) fail(err error) int {
	fmt.Fprintln(e.stderr, "Error:", err)
	return 1
}

func commands(env environment) map[string]cli.CommandFactory {
	list := withTemplates(env, commandList(env), commandList)
	factories := make(map[string]cli.CommandFactory, len(list))
	for name, c := range list {
		c.env = env
		factories[name] = func() (cli.Command, error) { return c, nil }
	}
	return factories
}

func commandList(env environment) map[string]command {
	list := map[string]command{
		"agent":            agentCommand(env),
		"budget":           groupCommand(env, "budget", "Validate, plan, apply and show budgets"),
		"budget validate":  validateCommand(env),
		"budget fmt":       fmtCommand(env),
		"budget plan":      planCommand(env),
		"budget apply":     applyCommand(env),
		"budget rollback":  rollbackCommand(env),
		"budget show":      showCommand(env),
		"budget history":   historyCommand(env),
		"budget status":    statusCommand(env),
		"budget statement": statementCommand(env),
		"capacity":         capacityCommand(env),
		"decision":         groupCommand(env, "decision", "Show what was decided about submissions"),
		"decision list":    decisionListCommand(env),
		"decision show":    decisionShowCommand(env),
		"doctor":           doctorCommand(env),
		"job":              groupCommand(env, "job", "Estimate a job, or show what Governor knows about one"),
		"job status":       jobStatusCommand(env),
		"job estimate":     jobEstimateCommand(env),
		"job explain":      jobExplainCommand(env),
		"override":         groupCommand(env, "override", "Ask for, approve and revoke more than a limit allows"),
		"override request": overrideRequestCommand(env),
		"override approve": overrideApproveCommand(env),
		"override revoke":  overrideRevokeCommand(env),
		"override list":    overrideListCommand(env),
		"run":              groupCommand(env, "run", "Open, show and close agent runs"),
		"run open":         runOpenCommand(env),
		"run close":        runCloseCommand(env),
		"run list":         runListCommand(env),
		"run show":         runShowCommand(env),
		"alert":            groupCommand(env, "alert", "Show which alerts fire, and test who is told"),
		"alert list":       alertListCommand(env),
		"alert test":       alertTestCommand(env),
		"audit":            groupCommand(env, "audit", "Show, verify and export what was done to budgets"),
		"audit export":     auditExportCommand(env),
		"audit list":       auditListCommand(env),
		"audit verify":     auditVerifyCommand(env),
		"job why":          jobWhyCommand(env),
		"queue":            groupCommand(env, "queue", "Show the jobs that wait for budget"),
		"queue list":       queueListCommand(env),
		"job receipt":      receiptCommand(env),
		"simulate":         simulateCommand(env),
		"state":            groupCommand(env, "state", "Say and show where model weights and caches lie"),
		"state list":       stateListCommand(env),
		"state register":   stateRegisterCommand(env),
		"state forget":     stateForgetCommand(env),
		"tokens":           groupCommand(env, "tokens", "Authorize, settle and report the tokens of language models"),
		"tokens authorize": tokensAuthorizeCommand(env),
		"tokens report":    tokensReportCommand(env),
		"tokens settle":    tokensSettleCommand(env),
		"tokens void":      tokensVoidCommand(env),
		"topology":         topologyCommand(env),
		"usage":            groupCommand(env, "usage", "Report, verify, correct and replay usage"),
		"usage report":     usageReportCommand(env),
		"usage efficiency": usageEfficiencyCommand(env),
		"usage export":     usageExportCommand(env),
		"usage trace":      usageTraceCommand(env),
		"usage verify":     usageVerifyCommand(env),
		"usage correct":    usageCorrectCommand(env),
		"version":          versionCommand(env),
	}
	maps.Copy(list, operatorCommands(env))
	return list
}

func versionCommand(env environment) command {
	return command{synopsis: "Print the version", help: "Usage: governor version\n\n  Prints the version.\n\n      $ governor version",
		run: func(args []string) int {
			if !parse(env, flags("version"), args, 0, 0) {
				return 1
			}
			fmt.Fprintln(env.stdout, version.String())
			return 0
		}}
}

// command implements cli.Command with values.
type command struct {
	env            environment
	synopsis, help string
	run            func(args []string) int
}

// Synopsis implements cli.Command.
func (c command) Synopsis() string { return c.synopsis }

// Help implements cli.Command.
func (c command) Help() string { return c.help }

// Run implements cli.Command.
func (c command) Run(args []string) int { return c.run(args) }

func groupCommand(env environment, name, synopsis string) command {
	return command{synopsis: synopsis, help: fmt.Sprintf("Usage: governor %s <subcommand> [options]\n\n  %s.", name, synopsis),
		run: func(args []string) int {
			if len(args) == 0 {
				return cli.RunResultHelp
			}
			var inside []string
			for known := range commandList(env) {
				if own, below := strings.CutPrefix(known, name+" "); below {
					inside = append(inside, own)
				}
			}
			slices.Sort(inside)
			meant := nearest(args[0], inside)
			if meant != "" {
				meant = name + " " + meant
			}
			fmt.Fprintf(env.stderr, "Error: there is no command %q%s\nTry: governor %s -help\n", name+" "+args[0], didYouMean(meant), name)
			return 1
		}}
}
