package main

import (
	"flag"
	"fmt"
	"io"
	"time"

	"github.com/nomad-governor/governor/internal/quantity"
	"github.com/nomad-governor/governor/quotaagent/agent"
	"github.com/nomad-governor/governor/quotaagent/api"
)

const tokensAnswerHelp = `
  -json            Print the agent's answer as JSON.` + clientHelp

// tokensUsedHelp are the options for what was used.
const tokensUsedHelp = `
  -input=<n>       Input tokens, without those that were read from the cache.
  -cached=<n>      Input tokens that were read from the cache.
  -output=<n>      Output tokens.`

// amountVar is a flag for a whole number.
func amountVar(fs *flag.FlagSet, to *quantity.Amount, name string) {
	fs.Int64Var((*int64)(to), name, 0, "")
}

func tokensAuthorizeCommand(env environment) command {
	return command{synopsis: "Hold the tokens that a request to a model may use", help: `Usage: governor tokens authorize [options] -model=<name> [<budget path>]

  Holds what one request to a language model may use at most, or a block of
  requests, and prints the id by which it is settled. It is refused, with exit code
  1, when it does not fit. Who pays is the budget, or the agent run that -run names.

      $ governor tokens authorize -model=llama-3.1-8b -input=1200 -max-output=400 \
          acme/research

  -model=<name>    Model, as the rate card calls it. Required.
  -input=<n>       Tokens of the prompt.
  -cached=<n>      Further tokens of the prompt that are known to be in the cache.
  -max-output=<n>  Most tokens of the answer.
  -run=<id>        Agent run that pays, instead of a budget.
  -key=<text>      Makes sending it twice count once. Default: random.
  -namespace=<n>   Namespace of the job that serves the model, for reports.
  -job=<id>        Job that serves the model.
  -ttl=<time>      When it is posted at what is held, if it is not settled until
                   then: at most 1h. Default: 5m.
  -policy-override
                   Ask for what an override of the budget adds, if it does not fit.
  -reason=<text>   Why, for the override.` + tokensAnswerHelp,
		run: func(args []string) int {
			fs := flags("tokens authorize")
			c, asJSON := clientFlags(env, fs), fs.Bool("json", false, "")
			var r agent.TokenRequest
			fs.StringVar(&r.Model, "model", "", "")
			amountVar(fs, &r.InputTokens, "input")
			amountVar(fs, &r.CachedTokens, "cached")
			amountVar(fs, &r.MaxOutputTokens, "max-output")
			fs.StringVar(&r.Run, "run", "", "")
			fs.StringVar(&r.Key, "key", randomID(), "")
			fs.StringVar(&r.Namespace, "namespace", "", "")
			fs.StringVar(&r.JobID, "job", "", "")
			fs.StringVar(&r.TTL, "ttl", "", "")
			fs.BoolVar(&r.PolicyOverride, "policy-override", false, "")
			fs.StringVar(&r.Reason, "reason", "", "")
			if !parse(env, fs, args, 0, 1) {
				return 1
			}
			r.Budget = fs.Arg(0)
			return callTokens(env, c, "authorize", r, *asJSON)
		}}
}

func tokensSettleCommand(env environment) command {
	return command{synopsis: "Post the tokens that an authorized request used", help: `Usage: governor tokens settle [options] <id>

  Posts what an authorized request used, and gives back the rest of what was held.
  Sent again it changes nothing. A request that was posted at what was held,
  because nobody had settled it in time, is corrected.

      $ governor tokens settle -input=1200 -output=87 t-0d5e...
` + tokensUsedHelp + tokensAnswerHelp,
		run: func(args []string) int {
			fs := flags("tokens settle")
			c, asJSON := clientFlags(env, fs), fs.Bool("json", false, "")
			var u agent.TokenUsage
			amountVar(fs, &u.Input, "input")
			amountVar(fs, &u.Cached, "cached")
			amountVar(fs, &u.Output, "output")
			if !parse(env, fs, args, 1, 1) {
				return 1
			}
			u.ID = fs.Arg(0)
			return callTokens(env, c, "settle", u, *asJSON)
		}}
}

func tokensVoidCommand(env environment) command {
	return command{synopsis: "Give back the tokens of a request that never ran", help: `Usage: governor tokens void [options] <id>

  Gives back all that is held for an authorized request which never reached the
  model.

      $ governor tokens void t-0d5e...
` + tokensAnswerHelp,
		run: func(args []string) int {
			fs := flags("tokens void")
			c, asJSON := clientFlags(env, fs), fs.Bool("json", false, "")
			if !parse(env, fs, args, 1, 1) {
				return 1
			}
			return callTokens(env, c, "void", agent.TokenVoid{ID: fs.Arg(0)}, *asJSON)
		}}
}

func tokensReportCommand(env environment) command {
	return command{synopsis: "Report tokens that were used already", help: `Usage: governor tokens report [options] -model=<name> [<budget path>]

  Posts tokens that were used without being authorized before, as gateways that
  report only afterwards do. It is never refused for lack of budget; the answer says
  when it goes over a limit. Who pays is the budget, or the agent run that -run
  names. Usage is reported within a day.

      $ governor tokens report -model=llama-3.1-8b -input=90000 -output=12000 \
          -from=2026-03-10T12:00:00Z -to=2026-03-10T12:01:00Z acme/research

  -model=<name>    Model, as the rate card calls it. Required.` + tokensUsedHelp + `
  -from=<time>     When it began, such as 2026-03-10T12:00:00Z. Default: now.
  -to=<time>       When it ended.
  -run=<id>        Agent run that pays, instead of a budget.
  -key=<text>      Makes sending it twice count once. Default: random.
  -namespace=<n>   Namespace of the job that serves the model, for reports.
  -job=<id>        Job that serves the model.` + tokensAnswerHelp,
		run: func(args []string) int {
			fs := flags("tokens report")
			c, asJSON := clientFlags(env, fs), fs.Bool("json", false, "")
			var r agent.TokenReport
			fs.StringVar(&r.Model, "model", "", "")
			amountVar(fs, &r.Input, "input")
			amountVar(fs, &r.Cached, "cached")
			amountVar(fs, &r.Output, "output")
			timeVar(fs, &r.From, "from")
			timeVar(fs, &r.To, "to")
			fs.StringVar(&r.Run, "run", "", "")
			fs.StringVar(&r.Key, "key", randomID(), "")
			fs.StringVar(&r.Namespace, "namespace", "", "")
			fs.StringVar(&r.JobID, "job", "", "")
			if !parse(env, fs, args, 0, 1) {
				return 1
			}
			r.Budget = fs.Arg(0)
			return callTokens(env, c, "report", r, *asJSON)
		}}
}

// timeVar is a flag for a moment.
func timeVar(fs *flag.FlagSet, to **time.Time, name string) {
	fs.Func(name, "", func(text string) error {
		at, err := time.Parse(time.RFC3339, text)
		if err != nil {
			return fmt.Errorf("%q is no time such as 2026-03-10T12:00:00Z", text)
		}
		*to = &at
		return nil
	})
}

func callTokens(env environment, c *client, verb string, body any, asJSON bool) int {
	var s agent.TokenStatus
	if err := c.call("POST", api.Prefix+"v1/tokens/"+verb, body, &s); err != nil {
		return env.failWith(err)
	}
	if asJSON {
		printJSON(env.stdout, s)
		return 0
	}
	printTokens(env.stdout, s)
	return 0
}

func printTokens(w io.Writer, s agent.TokenStatus) {
	fmt.Fprintf(w, "Request   %s (%s)\nBudget    %s\n", s.ID, s.State, s.Budget)
	if s.Run != "" {
		fmt.Fprintf(w, "Run       %s\n", s.Run)
	}
	fmt.Fprintf(w, "Model     %s\n", s.Model)
	if s.Expires != nil {
		fmt.Fprintf(w, "Expires   %s\n", stamp(s.Expires.UnixMilli()))
	}
	fmt.Fprintf(w, "Decision  %s (%s)\n\n", s.Outcome, s.Reason)
	t := newTable("", ">INPUT", ">CACHED", ">OUTPUT", ">"+s.Currency)
	for _, row := range []struct {
		name string
		a    agent.TokenAmounts
	}{{"held", s.Held}, {"posted", s.Used}} {
		t.row(row.name, quantity.FormatDecimal(row.a.Input, 1, 0), quantity.FormatDecimal(row.a.Cached, 1, 0), quantity.FormatDecimal(row.a.Output, 1, 0),
			quantity.FormatDecimal(row.a.Cost, quantity.CurrencyUnit, 6))
	}
	t.write(w)
	fmt.Fprintf(w, "\n%s\n", s.Text)
}
