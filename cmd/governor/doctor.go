package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"

	nomad "github.com/hashicorp/nomad/api"
	"github.com/nomad-governor/governor/quotaagent/agent"
	"github.com/nomad-governor/governor/quotaagent/bypass"
	"github.com/nomad-governor/governor/quotaagent/posture"
)

// The exit codes of doctor.
const (
	doctorClosed    = 0
	doctorOpen      = 1
	doctorUnchecked = 2
)

// doctorWithin bounds the whole examination.
const doctorWithin = 2 * time.Minute

// diagnosis is what doctor prints as JSON.
type diagnosis struct {
	Open       int              `json:"open"`
	NotChecked int              `json:"not_checked"`
	Findings   []bypass.Finding `json:"findings"`
}

func doctorCommand(env environment) command {
	return command{synopsis: "Find the ways around the gate that are open", help: `Usage: governor doctor [options]

  Lists the ways around the gate: who can start GPU work without it, why, and the
  command that closes each. It reads Nomad through the gate with your token, and
  tries from here whether Nomad answers besides. It changes nothing.

      $ NOMAD_TOKEN=<a management token> governor doctor

  With a management token it sees tokens, roles, policies and binding rules; what
  another token may not read is listed as not checked. Run it where your users are:
  the addresses of Nomad are tried from this machine, without any token.

  Exits with 0 when no way is open, 1 when one is, and 2 when none was found and
  something could not be checked.

  -gate=<address>  Address from which the gate reaches Nomad, for the commands that
                   fence it. Default: the host of -address.
  -json            Print the findings as JSON.` + clientHelp,
		run: func(args []string) int {
			fs := flags("doctor")
			c := clientFlags(env, fs)
			gate, asJSON := fs.String("gate", "", ""), fs.Bool("json", false, "")
			if !parse(env, fs, args, 0, 0) {
				return doctorUnchecked
			}
			findings, err := examine(c, *gate)
			if err != nil {
				env.fail(err)
				return doctorUnchecked
			}
			d := diagnosis{Open: bypass.Count(findings, bypass.Open), NotChecked: bypass.Count(findings, bypass.NotChecked), Findings: findings}
			if *asJSON {
				printJSON(env.stdout, d)
			} else {
				printDiagnosis(env.stdout, d)
			}
			switch {
			case d.Open > 0:
				return doctorOpen
			case d.NotChecked > 0:
				return doctorUnchecked
			}
			return doctorClosed
		}}
}

// examine reads the cluster through the gate, and what the agent knows.
func examine(c *client, gate string) ([]bypass.Finding, error) {
	status, err := fetchStatus(c)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(c.env.ctx, doctorWithin)
	defer cancel()
	api, err := nomad.NewClient(&nomad.Config{Address: c.address, SecretID: c.token, HttpClient: &http.Client{Timeout: 30 * time.Second}})
	if err != nil {
		return nil, fmt.Errorf("address %q is not usable: %w", c.address, err)
	}
	defer api.Close()
	reader := posture.New(api, time.Now)
	facts := reader.Facts(ctx)
	if gate == "" {
		if gate, err = gateHost(c.address); err != nil {
			return nil, err
		}
	}
	reader.Probe(ctx, &facts, gate)
	addStatus(&facts, status)
	return bypass.Examine(facts), nil
}

// addStatus adds what only the agent knows.
func addStatus(facts *bypass.Facts, status agent.Status) {
	for _, u := range status.Ungoverned {
		facts.Ungoverned = append(facts.Ungoverned, bypass.Work{Namespace: u.Namespace, JobID: u.JobID, Alloc: u.Alloc, Node: u.Node})
	}
	if !status.Observed {
		facts.Missing = append(facts.Missing, bypass.Missing{Check: bypass.CheckGate,
			Why:  "the leading agent, which alone knows work without a hold, does not answer",
			Look: "governor doctor -address=<another agent>"})
	}
	if b := status.Bypasses; b != nil {
		facts.UnknownWrites, facts.Delegated, facts.Own = b.UnknownWrites, b.Delegated, b.Accessors
		return
	}
	facts.Missing = append(facts.Missing, bypass.Missing{Check: bypass.CheckGate, Why: "this agent does not tell its own settings",
		Look: "grep -n unknown_writes /etc/governor/agent.hcl"})
}

func gateHost(address string) (string, error) {
	u, err := url.Parse(address)
	if err != nil || u.Host == "" {
		return "", errors.New("the address of the gate is not a URL")
	}
	host := u.Hostname()
	if ip := net.ParseIP(host); ip != nil && ip.IsUnspecified() {
		return "127.0.0.1", nil
	}
	return host, nil
}

// headings are how the findings of each severity are announced.
var headings = map[bypass.Severity]string{
	bypass.Open: "Open ways around the gate", bypass.NotChecked: "Not checked", bypass.Unknown: "Not told by Nomad: look yourself", bypass.Note: "Notes",
}

func printDiagnosis(w io.Writer, d diagnosis) {
	switch {
	case d.Open > 0:
		fmt.Fprintf(w, "%s around the gate %s open.\n", count(d.Open, "way"), map[bool]string{true: "is", false: "are"}[d.Open == 1])
	case d.NotChecked > 0:
		fmt.Fprintln(w, "No open way around the gate was found, and not everything could be checked.")
	case slices.ContainsFunc(d.Findings, func(f bypass.Finding) bool { return f.Severity == bypass.Note }):
		fmt.Fprintln(w, "No way around the gate is open but for those that the notes name.")
	default:
		fmt.Fprintln(w, "No way around the gate is open.")
	}
	for _, s := range bypass.Severities() {
		list := slices.DeleteFunc(slices.Clone(d.Findings), func(f bypass.Finding) bool { return f.Severity != s })
		if len(list) == 0 {
			continue
		}
		fmt.Fprintf(w, "\n%s (%d)\n", headings[s], len(list))
		for _, f := range list {
			printFinding(w, f)
		}
	}
}

// textWidth is how wide texts are.
const textWidth = 96

func printFinding(w io.Writer, f bypass.Finding) {
	fmt.Fprintf(w, "\n  %s\n", f.Code)
	printWrapped(w, f.What)
	if len(f.Who) > 0 {
		printWrapped(w, "For: "+strings.Join(f.Who, "; "))
	}
	printWrapped(w, f.Why)
	for _, command := range f.Close {
		fmt.Fprintf(w, "      $ %s\n", command)
	}
}

// printWrapped prints a text in lines of at most textWidth, unless a word is longer.
func printWrapped(w io.Writer, text string) {
	line := ""
	for _, word := range strings.Fields(text) {
		if line != "" && len(line)+1+len(word) > textWidth {
			fmt.Fprintf(w, "    %s\n", line)
			line = ""
		}
		if line != "" {
			line += " "
		}
		line += word
	}
	if line != "" {
		fmt.Fprintf(w, "    %s\n", line)
	}
}
