package main

import (
	"flag"
	"fmt"
	"io"
	"net/url"
	"strings"
	"time"

	"github.com/nomad-governor/governor/quotaagent/agent"
	"github.com/nomad-governor/governor/quotaagent/ledger"
)

// amountFlags are amounts by name, given one by one: -max=cost=500.
type amountFlags map[string]string

// String implements flag.Value.
func (a amountFlags) String() string { return "" }

// Set implements flag.Value.
func (a amountFlags) Set(text string) error {
	name, amount, ok := strings.Cut(text, "=")
	switch _, twice := a[name]; {
	case !ok || name == "" || amount == "":
		return fmt.Errorf("%q is not <name>=<amount>, such as cost=500", text)
	case twice:
		return fmt.Errorf("%s is given twice", name)
	}
	a[name] = amount
	return nil
}

func addAmounts(fs *flag.FlagSet, name string) amountFlags {
	amounts := amountFlags{}
	fs.Var(amounts, name, "")
	return amounts
}

const amountHelp = `
                   The names are those of the language: cost, energy (kWh),
                   gpu_hours, gpu_hours.<class>, gpus, tokens.output, jobs.`

func overrideRequestCommand(env environment) command {
	return command{synopsis: "Ask for more than a limit allows, for a time", help: `Usage: governor override request [options] <budget path> <override name>

  Asks for a break-glass grant by an override block of a budget. It raises that
  budget's own limits for everybody who draws from it. It counts at once, or when
  as many others have approved it as the block says.

      $ governor override request -reason="demo on Friday" acme/research/nlp break-glass

  -reason=<text>   Why it is needed.
  -max=<amount>    Ask for less than the block allows: -max=cost=500. Can be
                   given several times.` + amountHelp + `
  -json            Print the agent's answer as JSON.` + clientHelp,
		run: func(args []string) int {
			fs := flags("override request")
			c := clientFlags(env, fs)
			reason, most, asJSON := fs.String("reason", "", ""), addAmounts(fs, "max"), fs.Bool("json", false, "")
			if !parse(env, fs, args, 2, 2) {
				return 1
			}
			request := agent.OverrideRequest{Budget: fs.Arg(0), Rule: fs.Arg(1), Reason: *reason, Max: most}
			return changeOverride(env, c, "/governor/v1/overrides", request, *asJSON)
		}}
}

func overrideApproveCommand(env environment) command {
	return overrideChange(env, "approve", "Agree to a request for more than a limit allows", `
  Agrees to the request of somebody else. You must be among those whom the
  override block names. Nobody approves what they asked for, and agents approve
  nothing.

      $ governor override approve o-3f9c1a0b2d4e5f60`)
}

func overrideRevokeCommand(env environment) command {
	return overrideChange(env, "revoke", "Refuse a request, or take a grant back", `
  Refuses a request that waits, or takes an active grant back. Work that runs
  already goes on; what it holds beyond the limit is overdraft. Who asked may do
  so, those whom the override block names, and a management token.

      $ governor override revoke o-3f9c1a0b2d4e5f60`)
}

// overrideChange is a command that changes one grant.
func overrideChange(env environment, verb, synopsis, help string) command {
	return command{synopsis: synopsis, help: fmt.Sprintf("Usage: governor override %s [options] <id>\n%s\n\n  -json            Print the agent's answer as JSON.%s", verb, help, clientHelp),
		run: func(args []string) int {
			fs := flags("override " + verb)
			c, asJSON := clientFlags(env, fs), fs.Bool("json", false, "")
			if !parse(env, fs, args, 1, 1) {
				return 1
			}
			return changeOverride(env, c, "/governor/v1/overrides/"+url.PathEscape(fs.Arg(0))+"/"+verb, nil, *asJSON)
		}}
}

func changeOverride(env environment, c *client, path string, body any, asJSON bool) int {
	var o agent.OverrideStatus
	if err := c.call("POST", path, body, &o); err != nil {
		return env.fail(err)
	}
	if asJSON {
		printJSON(env.stdout, o)
		return 0
	}
	fmt.Fprintln(env.stdout, overrideText(o))
	return 0
}

// overrideText says in a sentence where a grant stands.
func overrideText(o agent.OverrideStatus) string {
	what := fmt.Sprintf("Override %s (%s more for budget %s)", o.ID, strings.Join(o.Adds, ", "), o.Budget)
	switch o.State {
	case ledger.GrantEnded, ledger.GrantLapsed:
	case ledger.GrantWaiting:
		return fmt.Sprintf("%s waits for %s. Somebody else whom override %q names approves it with:\n\n    governor override approve %s",
			what, count(o.Needed-len(o.Approvals), "approval"), o.Rule, o.ID)
	case ledger.GrantActive:
		return fmt.Sprintf("%s counts until %s.", what, stamp(o.UntilMS))
	case ledger.GrantRefused, ledger.GrantRevoked:
		return fmt.Sprintf("%s was %s by %s.", what, o.State, o.RevokedBy)
	}
	return fmt.Sprintf("%s is over.", what)
}

// stamp prints Unix milliseconds in UTC, as the status does; "-" for none.
func stamp(ms int64) string {
	if ms == 0 {
		return "-"
	}
	return time.UnixMilli(ms).UTC().Format("2006-01-02 15:04:05 MST")
}

func overrideListCommand(env environment) command {
	return command{synopsis: "List the grants and requests of overrides", help: `Usage: governor override list [options]

  Lists the grants that count, the requests that wait for approval, and with -all
  those that are over, the newest first.

      $ governor override list -all

  -all             Also those that are over.
  -json            Print the agent's answer as JSON.` + clientHelp,
		run: listing(env, "override list", "/governor/v1/overrides",
			func(o agent.OverrideStatus) bool {
				return o.State == ledger.GrantWaiting || o.State == ledger.GrantActive
			}, printOverrides)}
}

func printOverrides(w io.Writer, list []agent.OverrideStatus, all bool) {
	if len(list) == 0 {
		text := "No override counts or waits for approval. With -all those that are over are listed too."
		if all {
			text = "There were no overrides lately."
		}
		fmt.Fprintln(w, text)
		return
	}
	t := newTable("ID", "BUDGET", "OVERRIDE", "STATE", "ADDS", "UNTIL", "ASKED BY", "APPROVED BY", "REASON")
	for _, o := range list {
		var by []string
		for _, a := range o.Approvals {
			by = append(by, a.By)
		}
		state := string(o.State)
		if o.State == "waiting" {
			state = fmt.Sprintf("waiting (%d of %d)", len(o.Approvals), o.Needed)
		}
		t.row(o.ID, o.Budget, o.Rule, state, strings.Join(o.Adds, ", "), stamp(o.UntilMS), orDash(o.Accessor), orDash(strings.Join(by, ", ")), orDash(o.Reason))
	}
	t.write(w)
}
