package main

import (
	"encoding/csv"
	"encoding/json"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/nomad-governor/governor/quotaagent/audit"
)

func auditExportCommand(env environment) command {
	return command{synopsis: "Write the audit records for an archive or another system", help: `Usage: governor audit export [options]

  Writes the audit records to stdout as they are kept: one a line as JSON, with the
  hash of each and of the one before it, so that "governor audit verify -file" proves
  anywhere that they are what was written. Records of a time are a part of the chain,
  and verify too. Needs a management token.

      $ governor audit export > audit.jsonl
      $ governor audit export -since=2026-03-01 -until=2026-04-01 > march.jsonl
      $ governor audit export -format=csv -since=24h > yesterday.csv

  -since=<time>    Leave out what was recorded before: a date, a time as in RFC 3339,
                   or a duration back from now.
  -until=<time>    Leave out what was recorded then or later.
  -format=<f>      jsonl, or csv, which cannot be verified. Default: jsonl.` + clientHelp,
		run: func(args []string) int {
			fs := flags("audit export")
			c := clientFlags(env, fs)
			sinceText, untilText, format := fs.String("since", "", ""), fs.String("until", "", ""), fs.String("format", "jsonl", "")
			if !parse(env, fs, args, 0, 0) {
				return 1
			}
			since, err := instant("since", *sinceText, time.Now())
			if err != nil {
				return env.fail(err)
			}
			until, err := instant("until", *untilText, time.Now())
			if err != nil {
				return env.fail(err)
			}
			write, known := map[string]func(io.Writer, []audit.Record) error{"jsonl": writeJSONL, "csv": writeAuditCSV}[*format]
			if !known {
				return env.fail(fmt.Errorf("-format is %q; it must be jsonl or csv", *format))
			}
			log, err := fetchAudit(c, 1)
			if err == nil {
				err = write(env.stdout, between(log.Records, since, until))
			}
			if err != nil {
				return env.fail(err)
			}
			return 0
		}}
}

// between are the records from the first one at since or later to the last one before
// until: without a gap, also where the clock of an agent was behind.
func between(records []audit.Record, since, until time.Time) []audit.Record {
	if !since.IsZero() {
		first := slices.IndexFunc(records, func(r audit.Record) bool { return r.AtMS >= since.UnixMilli() })
		if first < 0 {
			return nil
		}
		records = records[first:]
	}
	if !until.IsZero() {
		for len(records) > 0 && records[len(records)-1].AtMS >= until.UnixMilli() {
			records = records[:len(records)-1]
		}
	}
	return records
}

// instant reads a time; the zero time for an empty text.
func instant(name, text string, now time.Time) (time.Time, error) {
	if text == "" {
		return time.Time{}, nil
	}
	if d, err := time.ParseDuration(text); err == nil && d >= 0 {
		return now.Add(-d), nil
	}
	for _, layout := range []string{time.RFC3339, time.DateTime, time.DateOnly} {
		if t, err := time.Parse(layout, text); err == nil {
			return t, nil
		}
	}
	return time.Time{}, fmt.Errorf("-%s is %q; write a date (2026-03-01), a time (2026-03-01T12:00:00Z) or a duration back from now (24h)", name, text)
}

func writeJSONL(w io.Writer, records []audit.Record) error {
	encoder := json.NewEncoder(w)
	encoder.SetEscapeHTML(false)
	for _, r := range records {
		if err := encoder.Encode(r); err != nil {
			return err
		}
	}
	return nil
}

// writeAuditCSV writes what people look at. A cell never begins like a formula.
func writeAuditCSV(w io.Writer, records []audit.Record) error {
	out := csv.NewWriter(w)
	rows := [][]string{{"seq", "time", "kind", "actor", "names", "budget", "subject", "text", "hash"}}
	for _, r := range records {
		row := []string{strconv.FormatUint(r.Seq, 10), time.UnixMilli(r.AtMS).UTC().Format(time.RFC3339Nano), r.Kind, r.Actor,
			strings.Join(r.Names, " "), r.Budget, r.Subject, r.Text, r.Hash}
		for i, cell := range row {
			if cell != "" && strings.ContainsRune("=+-@\t\r", rune(cell[0])) {
				row[i] = "'" + cell
			}
		}
		rows = append(rows, row)
	}
	return out.WriteAll(rows)
}
