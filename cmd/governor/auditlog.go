package main

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/hashicorp/go-hclog"
	"github.com/nomad-governor/governor/hcl/agentconfig"
	"github.com/nomad-governor/governor/quotaagent/agent"
	"github.com/nomad-governor/governor/quotaagent/audit"
	"github.com/nomad-governor/governor/quotaagent/auditfile"
)

// openAudit opens the file that keeps the audit records; nil without a data
// directory.
func openAudit(config agentconfig.Config, logger hclog.Logger) (*auditfile.File, error) {
	if config.DataDir == "" {
		logger.Warn("audit records are only kept in the store, which has the latest: set data_dir")
		return nil, nil
	}
	if err := os.MkdirAll(config.DataDir, 0o700); err != nil {
		return nil, fmt.Errorf("open audit archive: %w", err)
	}
	return auditfile.Open(filepath.Join(config.DataDir, "audit.jsonl"))
}

func auditListCommand(env environment) command {
	return command{synopsis: "List what was done to budgets, overrides and runs", help: `Usage: governor audit list [options]

  Lists the audit records: who did what, and when. Needs a management token.

      $ governor audit list -from=120

  -from=<n>        Begin with the record of this number. Default: 1.
  -json            Print one record a line as JSON, as they are kept and hashed.` + clientHelp,
		run: func(args []string) int {
			fs := flags("audit list")
			c := clientFlags(env, fs)
			from, asJSON := fs.Uint64("from", 1, ""), fs.Bool("json", false, "")
			if !parse(env, fs, args, 0, 0) {
				return 1
			}
			log, err := fetchAudit(c, *from)
			if err != nil {
				return env.fail(err)
			}
			if *asJSON {
				_ = writeJSONL(env.stdout, log.Records) // it was JSON before
				return 0
			}
			t := newTable(">NR", "TIME", "WHAT", "BY", "TEXT")
			for _, r := range log.Records {
				t.row(strconv.FormatUint(r.Seq, 10), stamp(r.AtMS), r.Kind, r.Actor, r.Text)
			}
			t.write(env.stdout)
			return 0
		}}
}

// fetchAudit reads all records from a number on.
func fetchAudit(c *client, from uint64) (agent.AuditLog, error) {
	var log agent.AuditLog
	for {
		var page agent.AuditLog
		if err := c.call("GET", fmt.Sprintf("/governor/v1/audit?from=%d", from), nil, &page); err != nil {
			return log, err
		}
		log.Head, log.Records = page.Head, append(log.Records, page.Records...)
		if !page.More || len(page.Records) == 0 {
			return log, nil
		}
		from = page.Records[len(page.Records)-1].Seq + 1
	}
}

func auditVerifyCommand(env environment) command {
	return command{synopsis: "Prove that no audit record was changed, left out or put in", help: `Usage: governor audit verify [options]

  Fetches the audit records and computes the hash of each one here, from the first
  to the end of the chain. Exits with 1 when one was changed or is missing. Prints
  the end of the chain: who notes it down can prove later, with -known, that nothing
  up to there was rewritten since.

      $ governor audit verify
      $ governor audit verify -file=/var/lib/governor/audit.jsonl
      $ governor audit verify -file=audit.jsonl -anchored
      $ governor audit verify -known=128:5f70bf18a086007016e948b04aed3b82103a36bea41755b6cddfaf10ace3c6ef

  -file=<path>        Verify an agent's archive or an export instead; needs no agent.
  -anchored           With -file: ask the agent for the end of the chain, which is in
                      the store, and require that the file reaches it: a file that
                      was cut at its end verifies by itself.
  -known=<nr>:<hash>  Require that the record of this number has this hash.` + clientHelp,
		run: func(args []string) int {
			fs := flags("audit verify")
			c := clientFlags(env, fs)
			file, known, anchored := fs.String("file", "", ""), fs.String("known", "", ""), fs.Bool("anchored", false, "")
			if !parse(env, fs, args, 0, 0) {
				return 1
			}
			log, err := auditRecords(c, *file)
			if err == nil && *file != "" && *anchored {
				log.Head, err = fetchHead(c)
			}
			if err == nil {
				err = verifyAudit(env.stdout, log, *known)
			}
			if err != nil {
				return env.fail(err)
			}
			return 0
		}}
}

// fetchHead is the end of the chain, as the store has it.
func fetchHead(c *client) (audit.Head, error) {
	var page agent.AuditLog
	err := c.call("GET", fmt.Sprintf("/governor/v1/audit?from=%d", uint64(math.MaxUint64)), nil, &page)
	return page.Head, err
}

// auditRecords are those of a file, or of the agent.
func auditRecords(c *client, path string) (agent.AuditLog, error) {
	if path == "" {
		return fetchAudit(c, 1)
	}
	file, err := os.Open(path)
	if err != nil {
		return agent.AuditLog{}, fmt.Errorf("read audit archive: %w", err)
	}
	defer func() { _ = file.Close() }()
	var log agent.AuditLog
	lines := bufio.NewScanner(file)
	lines.Buffer(nil, 1<<20)
	for nr := 1; lines.Scan(); nr++ {
		var r audit.Record
		if err := json.Unmarshal(lines.Bytes(), &r); err != nil {
			return log, fmt.Errorf("%s:%d is no audit record: %w", path, nr, err)
		}
		log.Records = append(log.Records, r)
		log.Head = audit.Head{Seq: r.Seq, Hash: r.Hash}
	}
	if err := lines.Err(); err != nil {
		return log, fmt.Errorf("read audit archive: %w", err)
	}
	return log, nil
}

// verifyAudit follows the chain to its end and says what it found.
func verifyAudit(w io.Writer, log agent.AuditLog, known string) error {
	if len(log.Records) == 0 {
		if log.Head.Seq > 0 || known != "" {
			return fmt.Errorf("the chain has %d records, and none of them can be read here: ask an agent that keeps an archive (data_dir)", log.Head.Seq)
		}
		fmt.Fprintln(w, "There are no audit records yet.")
		return nil
	}
	first := log.Records[0]
	end, err := audit.Before(first).Verify(log.Records)
	if err != nil {
		return err
	}
	if end != log.Head {
		return fmt.Errorf("the records end with %d (%s), and the chain with %d (%s): records are missing or were replaced", end.Seq, end.Hash, log.Head.Seq, log.Head.Hash)
	}
	if err := verifyKnown(log.Records, known); err != nil {
		return err
	}
	fmt.Fprintf(w, "%s verified, from number %d to the end of the chain.\n", count(len(log.Records), "audit record"), first.Seq)
	if first.Seq > 1 {
		fmt.Fprintf(w, "Those before number %d are not kept here; the first one here names %s as the hash of the one before it.\n", first.Seq, first.Prev)
	}
	fmt.Fprintf(w, "\nEnd of the chain  %d:%s\n", end.Seq, end.Hash)
	return nil
}

// verifyKnown compares one record with what somebody noted down.
func verifyKnown(records []audit.Record, known string) error {
	if known == "" {
		return nil
	}
	nr, hash, ok := strings.Cut(known, ":")
	seq, err := strconv.ParseUint(nr, 10, 64)
	if err != nil || !ok {
		return fmt.Errorf("-known is %q, which is not <nr>:<hash> as `governor audit verify` prints it", known)
	}
	for _, r := range records {
		switch {
		case r.Seq != seq:
		case r.Hash == hash:
			return nil
		default:
			return fmt.Errorf("record %d has the hash %s, and not the one you know: the chain was rewritten", seq, r.Hash)
		}
	}
	return errors.New("the record that you know is not here: the chain was cut, or it is older than what is kept here")
}
