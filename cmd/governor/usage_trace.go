package main

import (
	"net/url"
)

func usageTraceCommand(env environment) command {
	return command{synopsis: "Write what ran as a trace for governor simulate", help: `Usage: governor usage trace [options]

  Writes what ran in a time as CSV for "governor simulate": a line for each
  allocation that was posted, with when its job was submitted, how long it ran,
  its GPUs and its budget. Of jobs that still run it has what they used so far.

      $ governor usage trace -from=2026-03 > march.csv
      $ governor simulate -compare=policy=nomad march.csv

  -from=<time>     A day (2026-03-01), a month (2026-03), a year (2026) or a
                   time (2026-03-01T12:00:00Z). Default: the present month.
  -to=<time>       The end, which is not in it. Default: one unit of -from.
  -budget=<path>   Only this budget and what is below it.` + clientHelp,
		run: func(args []string) int {
			fs := flags("usage trace")
			c := clientFlags(env, fs)
			from, to, budget := fs.String("from", "", ""), fs.String("to", "", ""), fs.String("budget", "", "")
			if !parse(env, fs, args, 0, 0) {
				return 1
			}
			query := url.Values{}
			for name, value := range map[string]string{"from": *from, "to": *to, "budget": *budget} {
				if value != "" {
					query.Set(name, value)
				}
			}
			var text []byte
			if err := c.call("GET", "/governor/v1/usage/trace?"+query.Encode(), nil, &text); err != nil {
				return env.fail(err)
			}
			_, _ = env.stdout.Write(text)
			return 0
		}}
}
