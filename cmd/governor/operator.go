package main

import (
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/nomad-governor/governor/quotaagent/agent"
)

// operatorCommands are those about the agents themselves.
func operatorCommands(env environment) map[string]command {
	return map[string]command{
		"operator":           groupCommand(env, "operator", "See and steer the agents themselves"),
		"operator agents":    operatorAgentsCommand(env),
		"operator debug":     operatorDebugCommand(env),
		"operator step-down": stepDownCommand(env),
	}
}

func operatorAgentsCommand(env environment) command {
	return command{synopsis: "List the agents of this installation", help: `Usage: governor operator agents [options]

  Lists the agents that keep their ledger in the same place: which of them answer,
  which one leads and since when, how long each runs, and how far behind its
  history is. The agent that is asked asks the others.

      $ governor operator agents
      $ governor operator agents -t='{{range .agents}}{{if .leader}}{{.address}}{{end}}{{end}}'

  An agent that is gone is listed as failed for a day. Agents that keep no history
  are not known to the others.

  -json            Print the agent's answer as JSON.` + clientHelp,
		run: func(args []string) int {
			fs := flags("operator agents")
			c := clientFlags(env, fs)
			asJSON := fs.Bool("json", false, "")
			if !parse(env, fs, args, 0, 0) {
				return 1
			}
			var view agent.AgentsView
			raw, err := fetch(c, "/governor/v1/agents", &view)
			switch {
			case err != nil:
				return env.fail(err)
			case *asJSON:
				_, _ = env.stdout.Write(append(raw, '\n'))
			default:
				printAgents(env.stdout, view)
			}
			return 0
		}}
}

func printAgents(w io.Writer, v agent.AgentsView) {
	t := newTable("NAME", "ADDRESS", "STATE", "LEADER", "VERSION", "RUNS SINCE", "HISTORY")
	for _, one := range v.Agents {
		name := one.Name
		if one.Self {
			name += " (this one)"
		}
		leader := "-"
		switch {
		case one.LeadsSince != nil:
			leader = "since " + one.LeadsSince.UTC().Format("2006-01-02 15:04:05")
		case one.Leader:
			leader = "yes"
		}
		t.row(name, orDash(one.Address), string(one.State), leader, orDash(one.Version), agentTime(one.Started), historyText(one))
	}
	t.write(w)
	notes := v.Notes
	for _, one := range v.Agents {
		if one.Error != "" {
			notes = append(notes, fmt.Sprintf("agent %s does not answer: %s", one.Name, one.Error))
		}
		if one.History != nil {
			for _, text := range one.History.Missing {
				notes = append(notes, fmt.Sprintf("agent %s may miss something: %s", one.Name, text))
			}
		}
	}
	if v.Leader == "" {
		notes = append(notes, "nobody leads now: one of them does within half a minute")
	}
	if v.Outbox != nil && *v.Outbox > 0 {
		notes = append(notes, fmt.Sprintf("the ledger has %s that this agent's history does not have yet", count(*v.Outbox, "usage record")))
	}
	if len(notes) > 0 {
		fmt.Fprintln(w)
	}
	for _, note := range notes {
		fmt.Fprintln(w, "Note: "+note)
	}
}

func agentTime(at *time.Time) string {
	if at == nil {
		return "-"
	}
	return at.UTC().Format("2006-01-02 15:04:05")
}

// behindAfter is how far a history may be behind before that is worth a number: agents
// ask each other every five seconds.
const behindAfter = 30 * time.Second

func historyText(one agent.AgentInfo) string {
	switch {
	case one.History == nil && one.State == agent.AgentAlive:
		return "none"
	case one.History == nil:
		return "-"
	}
	if lag := time.Duration(one.History.LagMS) * time.Millisecond; lag > behindAfter {
		return fmt.Sprintf("complete to %s, %v ago", one.History.CompleteTo.UTC().Format("2006-01-02 15:04:05"), lag.Round(time.Second))
	}
	return "complete"
}

func stepDownCommand(env environment) command {
	return command{synopsis: "Have the leader give the lead up to another agent", help: `Usage: governor operator step-down [options]

  Has the agent at -address, which must lead, give up the leader's lock, and waits
  until another agent leads: metering, the queue and enforcement go on there.
  Use it before you restart the machine of the leader; nothing is refused or lost
  meanwhile, and a stopped agent gives the lock up by itself. It is recorded in the
  audit log. Needs a management token.

      $ governor operator step-down

  Exits with 1 when no other agent leads within the wait.

  -force           Also when no other agent is known. Agents that keep no history
                   are not known to the others. If none takes over, the agent
                   leads again after 15 seconds.
  -json            Print the agent's answer as JSON.` + clientHelp,
		run: func(args []string) int {
			fs := flags("operator step-down")
			c := clientFlags(env, fs)
			force, asJSON := fs.Bool("force", false, ""), fs.Bool("json", false, "")
			if !parse(env, fs, args, 0, 0) {
				return 1
			}
			var h agent.Handover
			if err := c.call("POST", "/governor/v1/operator/step-down", agent.StepDownRequest{Force: *force}, &h); err != nil {
				return env.fail(err)
			}
			if *asJSON {
				printJSON(env.stdout, h)
			}
			switch {
			case h.To == "":
				return env.fail(errors.New("agent " + h.From + " gave the lead up, and no agent leads yet: look with `governor operator agents`"))
			case !*asJSON && h.To == h.From:
				fmt.Fprintf(env.stdout, "Agent %s gave the lead up and leads again: there was no other agent to take over.\n", h.From)
			case !*asJSON:
				fmt.Fprintf(env.stdout, "Agent %s gave the lead up. %v later agent %s leads.\n", h.From, time.Duration(h.TookMS)*time.Millisecond, h.To)
			}
			return 0
		}}
}
