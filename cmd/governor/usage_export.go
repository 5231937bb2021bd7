package main

import (
	"fmt"
	"io"
	"net/url"

	"github.com/dustin/go-humanize"
)

func usageExportCommand(env environment) command {
	return command{synopsis: "Write usage as FOCUS data for FinOps tools", help: `Usage: governor usage export [options]

  Writes the usage of whole days as CSV by the FinOps Open Cost and Usage
  Specification (FOCUS) 1.2: a charge for each budget, job, GPU class and day,
  and one for each correction by hand. The sum of BilledCost is the total of
  "governor usage report" for the same time, to the micro-unit.

      $ governor usage export -from=2026-03 > march.csv
      $ governor usage export -from=2026-03-09 -budget=acme/research -idle

  -from=<time>     A day (2026-03-01), a month (2026-03) or a year (2026).
                   Default: the present month.
  -to=<time>       The end, which is not in it. Default: one unit of -from.
  -budget=<path>   Only this budget and what is below it.
  -idle            Also capacity that nobody had, and work around Governor, at
                   their list prices; neither is in the report's total.
  -format=focus    The format; there is one.` + clientHelp,
		run: func(args []string) int {
			fs := flags("usage export")
			c := clientFlags(env, fs)
			query := url.Values{}
			values := map[string]*string{}
			for _, name := range []string{"from", "to", "budget", "format"} {
				values[name] = fs.String(name, "", "")
			}
			idle := fs.Bool("idle", false, "")
			if !parse(env, fs, args, 0, 0) {
				return 1
			}
			for name, value := range values {
				if *value != "" {
					query.Set(name, *value)
				}
			}
			if *idle {
				query.Set("idle", "true")
			}
			out := &counter{out: env.stdout}
			if isTerminal(env.stderr) && !isTerminal(env.stdout) {
				out.told = func(n uint64) { fmt.Fprintf(env.stderr, "\r%s written", humanize.IBytes(n)) }
			}
			err := c.download("/governor/v1/usage/export?"+query.Encode(), out)
			out.end(env.stderr)
			if err != nil {
				return env.fail(err)
			}
			return 0
		}}
}

// counter tells how much was written, once for each 256 KiB; nobody where told is nil.
type counter struct {
	out         io.Writer
	told        func(n uint64)
	n, toldLast uint64
}

// Write implements io.Writer.
func (c *counter) Write(p []byte) (int, error) {
	n, err := c.out.Write(p)
	c.n += uint64(max(0, n))
	const step = 256 << 10
	if c.told != nil && c.n >= c.toldLast+step {
		c.told(c.n)
		c.toldLast = c.n
	}
	return n, err
}

// end ends the line of the progress, if there is one.
func (c *counter) end(w io.Writer) {
	if c.toldLast > 0 {
		c.told(c.n)
		fmt.Fprintln(w)
	}
}
