package web

import (
	"cmp"
	"net/http"
	"slices"
	"strings"

	"github.com/nomad-governor/governor/internal/gpu/topology"
	"github.com/nomad-governor/governor/internal/quantity"
	"github.com/nomad-governor/governor/quotaagent/ledger"
	"github.com/nomad-governor/governor/quotaagent/report"
	"github.com/nomad-governor/governor/quotaagent/web/draw"
)

const (
	jobRows = 50
	// endedRows is how many ended jobs are looked at.
	endedRows = 200
	// receiptRows bounds the receipts of one job.
	receiptRows = 5
)

// The states that the list of jobs can be filtered by.
const (
	stateWaiting  = "waiting"
	stateAdmitted = "admitted"
	stateRunning  = "running"
	stateEnding   = "ending"
	stateEnded    = "ended"
)

// jobRow is one job in the list.
type jobRow struct {
	Namespace, ID, Budget, State string
	GPUs                         int64
	// Estimate is the worst case, Actual what was used of it.
	Estimate, Actual ledger.Usage
	// Text says why it waits, or how it is ended.
	Text          string
	Position, Of  int
	Since         int64
	OverallInLine int
}

// jobsData is the list of jobs.
type jobsData struct {
	*Overview
	Rows                        []jobRow
	Paging                      paging
	Budget, Namespace, State, Q string
	States                      []string
	Filtered                    bool
	// Ended says that these are the last that ended; Trouble why there are none.
	Ended   bool
	Trouble string
}

// jobs lists them: those that wait first, in their order, then the youngest.
func (h *Handler) jobs(v *visit) (view, error) {
	o, err := h.overview.get(v.Context())
	if err != nil {
		return view{}, err
	}
	d := jobsData{Overview: o, Budget: strings.Trim(v.query("budget"), "/"), Namespace: v.query("namespace"), State: v.query("state"), Q: v.query("q"),
		States: []string{stateWaiting, stateAdmitted, stateRunning, stateEnding, stateEnded}}
	d.Filtered = d.Budget != "" || d.Namespace != "" || d.State != "" || d.Q != ""
	d.Ended = d.State == stateEnded
	rows := slices.Concat(waitingRows(o), holdingRows(o))
	if d.Ended {
		receipts, err := h.Past.Receipts(v.Context(), "", "", endedRows)
		if err != nil {
			d.Trouble = h.told(v, err, "What ended cannot be read now; the agent's log has the cause.")
		}
		rows = endedRowsOf(receipts)
	}
	rows = slices.DeleteFunc(rows, func(r jobRow) bool { return !d.shows(r) || !v.viewer.Reads(r.Namespace) })
	d.Rows, d.Paging = pageOf(v, rows, jobRows, "job")
	return view{template: "jobs", title: "Jobs", section: "jobs", data: d}, nil
}

func (d *jobsData) shows(r jobRow) bool {
	return (d.Budget == "" || r.Budget == d.Budget || strings.HasPrefix(r.Budget, d.Budget+"/")) && (d.Namespace == "" || r.Namespace == d.Namespace) &&
		(d.State == "" || d.Ended || r.State == d.State) && strings.Contains(strings.ToLower(r.Namespace+"/"+r.ID), strings.ToLower(d.Q))
}

func waitingRows(o *Overview) []jobRow {
	out := make([]jobRow, 0, len(o.Waiting))
	for _, w := range o.Waiting {
		out = append(out, jobRow{Namespace: w.Namespace, ID: w.ID, Budget: w.Budget, State: stateWaiting, GPUs: w.GPUs, Estimate: w.Estimate,
			Text: w.Detail + " (" + w.Reason + ")", Position: w.Position, Of: w.Of, Since: w.Since.UnixMilli()})
	}
	return out
}

func holdingRows(o *Overview) []jobRow {
	jobs := newest(slices.Clone(o.Jobs))
	out := make([]jobRow, 0, len(jobs))
	for _, j := range jobs {
		r := jobRow{Namespace: j.Namespace, ID: j.ID, Budget: j.Budget, State: stateOf(j), GPUs: j.GPUs, Estimate: j.Estimate, Actual: j.Posted, Since: j.Created.UnixMilli()}
		if j.Ending != nil {
			r.Text = j.Ending.Why + " (" + j.Ending.Cause + ")"
		}
		for _, p := range j.Placement {
			if p.Difference != "" && r.Text == "" {
				r.Text = "placed otherwise than offered: " + p.Difference
			}
		}
		out = append(out, r)
	}
	return out
}

// stateOf is the state of a job that holds budget.
func stateOf(j Job) string {
	switch {
	case j.Ending != nil:
		return stateEnding
	case j.Allocs == 0:
		return stateAdmitted
	}
	return stateRunning
}

func endedRowsOf(receipts []report.Receipt) []jobRow {
	out := make([]jobRow, 0, len(receipts))
	for _, r := range receipts {
		row := jobRow{Namespace: r.Namespace, ID: r.JobID, Budget: r.Budget, State: r.Outcome, Since: r.EndedMS, Text: r.Stopped,
			Estimate: ledger.Usage{GPUTime: map[string]quantity.Amount{}}, Actual: ledger.Usage{GPUTime: map[string]quantity.Amount{}}}
		for _, i := range r.Items {
			if class, ok := strings.CutPrefix(i.Name, "gpu_ms/"); ok {
				row.Estimate.GPUTime[class], row.Actual.GPUTime[class] = i.Held, i.Posted
			}
			if i.Name == "cost" {
				row.Estimate.Cost, row.Actual.Cost = i.Held, i.Posted
			}
		}
		out = append(out, row)
	}
	return out
}

// jobData is one job with everything that is known of it.
type jobData struct {
	O *Overview
	JobDetail
	Namespace, ID string
	// Limits are those on the way from its budget to the root.
	Limits   []pathLimit
	Groups   []placedGroup
	Receipts []report.Receipt
	// Trouble says what could not be read.
	Trouble []string
}

// pathLimit is a limit of a budget on the way up.
type pathLimit struct {
	Budget string
	Limit
}

// placedGroup are the GPUs of a job on one node.
type placedGroup struct {
	Node, NodeID, Device string
	Fabric               fabricData
	Allocations          []Allocation
	// Offered says for allocations whether they got what was offered; "" where that is
	// not known.
	Offered map[string]string
}

// job shows one job.
func (h *Handler) job(v *visit) (view, error) {
	d := jobData{Namespace: v.PathValue("namespace"), ID: v.PathValue("job")}
	if !v.viewer.Reads(d.Namespace) {
		return view{}, problem(http.StatusNotFound, "There is no job %.200q in namespace %.100q, or your token may not read it.", d.ID, d.Namespace)
	}
	var err error
	if d.O, err = h.overview.get(v.Context()); err != nil {
		return view{}, err
	}
	if d.JobDetail, err = h.Books.Job(v.Context(), d.Namespace, d.ID); err != nil {
		return view{}, err
	}
	if d.Receipts, err = h.Past.Receipts(v.Context(), d.Namespace, d.ID, receiptRows); err != nil {
		d.Trouble = append(d.Trouble, h.told(v, err, "Receipts cannot be read now; the agent's log has the cause."))
	}
	if d.State == "unknown" {
		d.State = d.past()
	}
	if d.State == "unknown" && len(d.Decisions) == 0 && len(d.Receipts) == 0 {
		return view{}, problem(http.StatusNotFound, "Governor knows nothing of a job %.200q in namespace %.100q: it was not submitted through this gate, asks for no GPUs, or ended long ago.", d.ID, d.Namespace)
	}
	for _, b := range slices.Backward(d.O.Budgets) {
		if d.Budget != "" && (b.Path == d.Budget || strings.HasPrefix(d.Budget, b.Path+"/")) {
			for _, l := range b.Limits {
				d.Limits = append(d.Limits, pathLimit{b.Path, l})
			}
		}
	}
	if len(d.Allocations) > 0 {
		c, err := h.cluster.get(v.Context())
		if err != nil {
			h.told(v, err, "")
			d.Trouble = append(d.Trouble, "Nomad cannot be read now, so what connects the GPUs is not known.")
			c = &Cluster{}
		}
		d.Groups = placedGroups(c, d.JobDetail)
	}
	return view{template: "job", title: d.ID, section: "jobs", crumbs: []crumb{{"Jobs", Prefix + "jobs"}, {d.Namespace, Prefix + "jobs?namespace=" + d.Namespace}}, data: d}, nil
}

// past is the state of a job that neither waits nor holds anything, by what is
// remembered of it.
func (d *jobData) past() string {
	for _, one := range d.Decisions {
		if !one.Plan && one.Outcome == "deny" && (len(d.Receipts) == 0 || d.Receipts[0].EndedMS < one.AtMS) {
			return "refused"
		}
	}
	if len(d.Receipts) > 0 {
		return stateEnded
	}
	return "unknown"
}

// placedGroups puts the GPUs of a job together by node, in the order of their names.
func placedGroups(c *Cluster, d JobDetail) []placedGroup {
	byNode := map[string]*placedGroup{}
	for _, a := range d.Allocations {
		if byNode[a.Node] == nil {
			byNode[a.Node] = &placedGroup{Node: short(a.Node), NodeID: a.Node, Offered: map[string]string{}}
		}
		byNode[a.Node].Allocations = append(byNode[a.Node].Allocations, a)
	}
	var out []placedGroup
	for id, p := range byNode {
		p.Fabric = fabricOf(c, id, p)
		if d.Job != nil {
			for _, placed := range d.Job.Placement {
				p.Offered[placed.Alloc] = cmp.Or(placed.Difference, "as offered")
			}
		}
		out = append(out, *p)
	}
	slices.SortFunc(out, func(a, b placedGroup) int {
		return cmp.Or(cmp.Compare(a.Node, b.Node), cmp.Compare(a.NodeID, b.NodeID))
	})
	return out
}

// fabricOf draws the group of a node that the job's GPUs are of.
func fabricOf(c *Cluster, nodeID string, p *placedGroup) fabricData {
	mine := map[string]bool{}
	for _, a := range p.Allocations {
		for _, g := range a.GPUs {
			mine[g.ID] = true
		}
	}
	for _, n := range c.Nodes {
		if n.ID != nodeID {
			continue
		}
		p.Node = n.Name
		for _, g := range n.Groups {
			var chosen []int
			for _, gpu := range g.GPUs {
				if mine[gpu.ID] {
					chosen = append(chosen, gpu.Index)
				}
			}
			if len(chosen) > 0 {
				p.Device = g.Device
				return newFabric(n.Name, g, chosen)
			}
		}
	}
	return fabricData{}
}

// fabricData is a picture of GPUs with the words that go with it.
type fabricData struct {
	draw.Fabric
	Node    string
	Group   Group
	Chosen  []int
	RingMBP int
	// Links are the pairs of chosen GPUs with what connects them.
	Links []pairLink
	// Switched says that an NVSwitch joins all; Known that anything is known of links.
	Switched, Known bool
}

// pairLink is what connects two GPUs.
type pairLink struct {
	A, B int
	Kind string
}

// newFabric draws a group of GPUs. A topology that cannot be read draws as none.
func newFabric(node string, g Group, chosen []int) fabricData {
	m, err := topology.Parse(g.Topology)
	if err != nil || g.Topology == "" || m.Size() != len(g.GPUs) {
		m = nil
	}
	d := fabricData{Fabric: draw.GPUs(len(g.GPUs), m, chosen), Node: node, Group: g, Chosen: chosen, Known: m != nil}
	if m == nil {
		return d
	}
	d.Switched = m.Switched()
	ring := d.RingOrder
	if len(chosen) == 2 {
		ring = chosen
	}
	d.RingMBP = draw.Bottleneck(m, ring)
	for i, a := range chosen {
		for _, b := range chosen[i+1:] {
			if a < len(g.Links) && b < len(g.Links[a]) {
				d.Links = append(d.Links, pairLink{a, b, g.Links[a][b]})
			}
		}
	}
	return d
}
