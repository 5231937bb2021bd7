package agent

import (
	"context"
	"encoding/json"
	"fmt"
	"time"

	"github.com/nomad-governor/governor/internal/quantity"
	"github.com/nomad-governor/governor/quotaagent/budget"
	"github.com/nomad-governor/governor/quotaagent/ledger"
	"github.com/nomad-governor/governor/quotaagent/report"
)

// JobPanel is what Governor shows of a job beside what Nomad does.
type JobPanel struct {
	Namespace string `json:"namespace"`
	JobID     string `json:"job_id"`
	// State is waiting, admitted (nothing of it runs yet), running, ending, ended, or
	// unknown, where Governor has nothing of the job.
	State  string `json:"state"`
	Budget string `json:"budget,omitempty"`
	// Reason is a code of docs/reasons.md, Text says it for people; it may have several
	// lines.
	Reason string `json:"reason,omitempty"`
	Text   string `json:"text,omitempty"`
	// Account is what was admitted, used and is held, of GPU time, money and energy.
	Account []PanelAmount `json:"account"`
	// Queue is the place of a job that waits.
	Queue *PanelTurn `json:"queue,omitempty"`
	// Decision is the latest about a submission of it; nil for none.
	Decision *PanelDecision `json:"decision,omitempty"`
	// Receipt is of the latest life of a job that has ended.
	Receipt *PanelReceipt `json:"receipt,omitempty"`
	// Allocations are those of it that run and hold GPUs.
	Allocations []PanelAllocation `json:"allocations"`
	// Placement is the offer that the job was pinned to, as its placer wrote it.
	Placement json.RawMessage `json:"-"`
}

// PanelAmount is one amount of a job in words, with its unit. Held is what is still held
// of what was admitted, or, of a job that has ended, what was given back.
type PanelAmount struct {
	Name     string `json:"name"`
	Admitted string `json:"admitted"`
	Used     string `json:"used"`
	Held     string `json:"held"`
}

// PanelTurn is the place of a job among the Of that wait for its budget. Expected is when
// it is expected to start, as far as that can be told.
type PanelTurn struct {
	Position int        `json:"position"`
	Of       int        `json:"of"`
	Need     string     `json:"need"`
	Since    time.Time  `json:"since"`
	Expected *time.Time `json:"expected,omitempty"`
}

// PanelDecision is a decision in short; Outcome and Reason are those of docs/reasons.md.
type PanelDecision struct {
	At      time.Time `json:"at"`
	Outcome string    `json:"outcome"`
	Reason  string    `json:"reason"`
}

// PanelReceipt is a receipt in short. Outcome is settled, voided or expired; Stopped is the
// reason for which policy ended the job, "" where it did not.
type PanelReceipt struct {
	Outcome string    `json:"outcome"`
	Stopped string    `json:"stopped,omitempty"`
	Ended   time.Time `json:"ended"`
	// Idle is the GPU time that was held and not used, as far as it was measured.
	Idle string `json:"idle,omitempty"`
}

// PanelAllocation is one allocation that holds GPUs.
type PanelAllocation struct {
	ID   string   `json:"id"`
	Name string   `json:"name"`
	Node string   `json:"node_id,omitempty"`
	GPUs []string `json:"gpus"`
}

// Panel is what is known of a job. It does not ask whether the caller may know it.
func (a *Agent) Panel(ctx context.Context, namespace, jobID string) (JobPanel, error) {
	e, p := a.Engine, a.Keeper.State().Policy
	out := JobPanel{Namespace: namespace, JobID: jobID, State: "unknown", Account: []PanelAmount{}, Allocations: []PanelAllocation{}}
	key := holdKey(namespace, jobID)
	records, err := e.books.store.Read(ctx, key, queueKey(key))
	if err != nil {
		return out, fmt.Errorf("read job: %w", err)
	}
	if records[1].Version != 0 {
		if err := e.panelOfQueued(ctx, p, &out); err != nil {
			return out, err
		}
	}
	if records[0].Version != 0 {
		held, err := decodeHold(records[0])
		if err != nil {
			return out, err
		}
		panelOfHold(p, &out, *held.Hold)
	}
	return out, a.panelOfPast(ctx, p, &out)
}

// panelOfQueued takes in why a job waits.
func (e *Engine) panelOfQueued(ctx context.Context, p *budget.Policy, out *JobPanel) error {
	jobs, err := e.judge(ctx, p)
	if err != nil {
		return err
	}
	for _, j := range jobs {
		if q := j.Queued; q.Namespace != out.Namespace || q.JobID != out.JobID || j.Overall == 0 {
			continue
		}
		why := e.whyWaiting(p, JobReason{}, j)
		view := j.view(p)
		out.State, out.Budget, out.Reason, out.Text = why.State, why.Budget, why.Reason, why.Text
		out.Queue = &PanelTurn{Position: view.Position, Of: view.Of, Need: view.Need, Since: view.Since, Expected: view.Expected}
		out.Account = amountsOf(p, view.Estimate, ledger.Usage{}, ledger.Usage{})
	}
	return nil
}

// panelOfHold takes in what a job holds. One that waits with a changed file still holds
// what runs of it.
func panelOfHold(p *budget.Policy, out *JobPanel, h ledger.Hold) {
	if out.Queue == nil {
		why := whyHolding(p, JobReason{}, h)
		out.State, out.Budget, out.Reason, out.Text = why.State, why.Budget, why.Reason, why.Text
	}
	out.Account, out.Placement = amountsOf(p, h.Estimate, h.Posted, heldNow(h)), h.Placement
	for _, t := range h.Live() {
		a := PanelAllocation{ID: t.Alloc, Name: t.Name, Node: t.Node, GPUs: []string{}}
		for _, g := range t.GPUs {
			if g.EndMS == 0 {
				a.GPUs = append(a.GPUs, g.IDs...)
			}
		}
		out.Allocations = append(out.Allocations, a)
	}
}

// panelOfPast takes in the latest decision, and the receipt of a job that has ended.
func (a *Agent) panelOfPast(ctx context.Context, p *budget.Policy, out *JobPanel) error {
	h, err := a.historyOf()
	if err != nil {
		return nil //nolint:nilerr // this agent keeps no history
	}
	decisions, err := a.Decisions(ctx, out.Namespace, out.JobID, decisionsShown)
	if err != nil {
		return err
	}
	out.Decision = lastDecided(decisions.Decisions)
	if out.State != "unknown" {
		return nil
	}
	receipts, err := h.store.Receipts(ctx, out.Namespace, out.JobID, 1)
	if err != nil || len(receipts) == 0 {
		return err
	}
	panelOfReceipt(p, out, receipts[0])
	return nil
}

// lastDecided is the youngest decision about a submission.
func lastDecided(decisions []DecisionRow) *PanelDecision {
	for _, d := range decisions {
		if !d.Plan {
			return &PanelDecision{At: time.UnixMilli(d.AtMS).UTC(), Outcome: d.Outcome, Reason: d.Reason}
		}
	}
	return nil
}

func panelOfReceipt(p *budget.Policy, out *JobPanel, r report.Receipt) {
	out.State, out.Budget, out.Reason = "ended", r.Budget, r.Reason
	out.Receipt = &PanelReceipt{Outcome: r.Outcome, Stopped: r.Stopped, Ended: time.UnixMilli(r.EndedMS).UTC()}
	if r.Idle > 0 {
		out.Receipt.Idle = hours(p, r.Idle)
	}
	var admitted, used, back ledger.Usage
	for _, usage := range []*ledger.Usage{&admitted, &used, &back} {
		usage.GPUTime = map[string]quantity.Amount{}
	}
	for _, i := range r.Items {
		given := i.Voided.Add(i.Expired)
		switch i.Name {
		case "cost":
			admitted.Cost, used.Cost, back.Cost = i.Held, i.Posted, given
		case string(budget.Energy):
			admitted.Energy, used.Energy, back.Energy = i.Held, i.Posted, given
		default:
			admitted.GPUTime[i.Name], used.GPUTime[i.Name], back.GPUTime[i.Name] = i.Held, i.Posted, given
		}
	}
	out.Account = amountsOf(p, admitted, used, back)
}

func hours(p *budget.Policy, a quantity.Amount) string {
	return budget.GPUTime(budget.AnyClass).Format(a, p.Currency)
}

// amountsOf puts three usages beside each other. Energy is there where any was counted.
func amountsOf(p *budget.Policy, admitted, used, held ledger.Usage) []PanelAmount {
	row := func(name string, format func(u ledger.Usage) string) PanelAmount {
		return PanelAmount{Name: name, Admitted: format(admitted), Used: format(used), Held: format(held)}
	}
	rows := []PanelAmount{
		row("GPU time", func(u ledger.Usage) string { return hours(p, wholeTime(u)) }),
		row("Cost", func(u ledger.Usage) string { return budget.Cost.Format(u.Cost, p.Currency) }),
	}
	if admitted.Energy > 0 || used.Energy > 0 {
		rows = append(rows, row("Energy", func(u ledger.Usage) string { return budget.Energy.Format(u.Energy, p.Currency) }))
	}
	return rows
}

// wholeTime is the GPU time of all classes, which some usages have the sum of beside the
// parts.
func wholeTime(u ledger.Usage) quantity.Amount {
	if all, ok := u.GPUTime[budget.AnyClass]; ok {
		return all
	}
	return u.Total()
}
