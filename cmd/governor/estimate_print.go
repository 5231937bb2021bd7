package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	"github.com/nomad-governor/governor/internal/quantity"
	"github.com/nomad-governor/governor/quotaagent/agent"
	"github.com/nomad-governor/governor/quotaagent/budget"
	"github.com/nomad-governor/governor/scheduler/locality"
	"github.com/nomad-governor/governor/scheduler/place"
)

// outcomes are the outcomes of a decision, for people.
var outcomes = map[string]string{"admit": "would run now", "warn": "would run now, with a warning", "queue": "would wait for budget", "deny": "would be refused"}

func printEstimate(w io.Writer, e agent.Estimate) error {
	fmt.Fprintf(w, "Job        %s/%s\nOutcome    %s (%s)\n", e.Namespace, e.JobID, outcomes[e.Outcome], orDash(e.Reason))
	if e.Budget != "" {
		fmt.Fprintf(w, "Budget     %s\n", e.Budget)
	}
	if len(e.Need) > 0 {
		text := hours(e.Cost.GPUTime[budget.AnyClass]) + ", " + money(e.Currency, e.Cost.Cost)
		if e.Cost.Energy > 0 {
			text += ", " + budget.Energy.Format(e.Cost.Energy, "")
		}
		fmt.Fprintf(w, "At most    %s\n", text)
	}
	fmt.Fprintf(w, "\n%s\n", e.Text)
	if len(e.Limits) > 0 {
		printEstimatedLimits(w, e)
	}
	if e.Placement.Text != "" {
		fmt.Fprintf(w, "\nPlacement\n  %s\n", strings.ReplaceAll(e.Placement.Text, "\n", "\n  "))
	}
	return nil
}

func printEstimatedLimits(w io.Writer, e agent.Estimate) {
	t := newTable("LIMIT OF", "WHAT", ">LIMIT", ">USED", ">HELD", ">LEFT", ">THIS JOB", ">AFTER", "SET AT")
	last := ""
	for _, l := range e.Limits {
		if l.Budget != last {
			t.row(l.Budget)
			last = l.Budget
		}
		number := budget.Dimension(l.Dimension).Number
		noun := budget.Dimension(l.Dimension).Noun(e.Currency)
		if l.Dimension == "runtime_ms" {
			number, noun = runTime, "run time"
		}
		over, used, held := l.Kind+" "+period(l.LimitStatus), number(l.Posted), number(l.Held)
		switch l.Kind {
		case "limit":
			over = period(l.LimitStatus)
		case "job":
			over, used, held = "one job", "-", "-"
		}
		if budget.Dimension(l.Dimension).IsGPUs() {
			used = "-" // GPUs at once are held, never used up
		}
		need, after := number(l.Need), number(l.After)
		if len(e.Need) == 0 {
			need, after = "-", "-" // refused before they were looked at
		}
		t.row(over, noun, number(l.Limit), used, held, number(l.Available), need, after, l.Source)
	}
	fmt.Fprintln(w)
	t.write(w)
}

func printExplanation(w io.Writer, e agent.Estimate) error {
	if e.Placement.Nodes == nil {
		text := e.Placement.Text
		if text == "" {
			text = e.Text
		}
		fmt.Fprintf(w, "Job %s/%s was not placed: %s\n", e.Namespace, e.JobID, text)
		return nil
	}
	var why place.Explanation
	if err := json.Unmarshal(e.Placement.Nodes, &why); err != nil {
		return fmt.Errorf("read the agent's answer: %w", err)
	}
	fmt.Fprintf(w, "Job %s/%s %s (%s)\n", e.Namespace, e.JobID, outcomes[e.Outcome], e.Reason)
	if why.Infeasible != "" {
		fmt.Fprintf(w, "\n%s\n", why.Infeasible)
		return nil
	}
	if why.Gang != "" {
		fmt.Fprintf(w, "\n%s\n", why.Gang)
	}
	if len(why.Groups) == 0 && why.Gang == "" {
		return errors.New("the agent says nothing of its groups")
	}
	for i := range why.Groups {
		fmt.Fprintln(w)
		printGroupPlacement(w, &why.Groups[i])
	}
	return nil
}

// knowsNetwork reports whether a node publishes NICs for any of the sets.
func knowsNetwork(c place.NodeChoice) bool {
	return slices.ContainsFunc(c.Sets, func(s place.SetChoice) bool { return s.NetworkMBps > 0 })
}

// networkCells are what each GPU of a set has to other hosts, and where the NICs are.
func networkCells(s place.SetChoice) []string {
	if s.NetworkMBps == 0 {
		return []string{"-", "-"}
	}
	return []string{gigabytes(s.NetworkMBps), s.NICPath}
}

func printGroupPlacement(w io.Writer, g *place.GroupExplanation) {
	fmt.Fprintf(w, "Group %q\n", g.Group)
	if len(g.Choices) == 0 {
		fmt.Fprintln(w, "  No node has the GPUs free now.")
	} else {
		columns := []string{map[bool]string{false: ">RANK", true: ">OF ALL"}[g.Members], "NODE", "DEVICE", "GPUS ARE", ">RING GB/s", ">OUT OF", ">LEFT", "GPUS"}
		networked := slices.ContainsFunc(g.Choices, knowsNetwork)
		if networked {
			columns = append(columns, ">NETWORK GB/s A GPU", "NICS AT")
		}
		stateful := g.Choices[0].Loading != ""
		if stateful {
			columns = append(columns, ">LOADS IN")
		}
		t := newTable(columns...)
		for i, c := range g.Choices {
			rank, node, left := fmt.Sprint(i+1), c.Node, fmt.Sprint(c.FreeLeft)
			for _, s := range c.Sets {
				ring := "-"
				if s.RingMBps > 0 {
					ring = gigabytes(s.RingMBps)
				}
				cells := []string{rank, node, shortDevice(s.Device), s.Link, ring, fmt.Sprintf("%d free", s.Free), left, shortIDs(s.IDs)}
				if networked {
					cells = append(cells, networkCells(s)...)
				}
				if stateful && rank != "" {
					cells = append(cells, locality.About(time.Duration(c.LoadsMS)*time.Millisecond))
				}
				t.row(cells...)
				rank, node, left = "", "", ""
			}
		}
		t.write(w)
	}
	for _, sentence := range []string{g.Preferred, pinText(g)} {
		if sentence != "" {
			fmt.Fprintln(w, "  "+sentence)
		}
	}
	if g.UsesReserved {
		fmt.Fprintln(w, "  some of these GPUs were promised to another job seconds ago, because too few others are free")
	}
	if len(g.Rejected) == 0 {
		return
	}
	fmt.Fprintln(w, "\n  Passed over")
	t := newTable("NODE", "WHY")
	for _, r := range g.Rejected {
		for _, node := range r.Nodes {
			t.row(node, r.Reason)
		}
		if more := r.Count - len(r.Nodes); more > 0 {
			t.row(fmt.Sprintf("and %d more", more), r.Reason)
		}
	}
	t.write(w)
}

func pinText(g *place.GroupExplanation) string {
	if g.Unpinned == "" {
		return ""
	}
	return "GPUs not pinned: " + g.Unpinned
}

// shortDevice is a device's name without its vendor and type.
func shortDevice(name string) string { return name[strings.LastIndexByte(name, '/')+1:] }

// shortIDs are the beginnings of GPU ids.
func shortIDs(ids []string) string {
	short := make([]string, len(ids))
	for i, id := range ids {
		short[i] = fmt.Sprintf("%.12s", id)
	}
	return strings.Join(short, " ")
}

// runTime writes milliseconds as a duration: "48h", "1h30m".
func runTime(a quantity.Amount) string {
	text := (time.Duration(a) * time.Millisecond).Round(time.Second).String()
	if strings.HasSuffix(text, "m0s") {
		text = strings.TrimSuffix(text, "0s")
	}
	if strings.HasSuffix(text, "h0m") {
		text = strings.TrimSuffix(text, "0m")
	}
	return text
}
