package web

import (
	"fmt"
	"html/template"
	"slices"
	"strings"
	"time"

	"github.com/nomad-governor/governor/quotaagent/budget"
)

const (
	// soon is how far ahead a limit that runs out is told on the first page.
	soon = 7 * 24 * time.Hour
	// idleTold is how long GPUs are not used before that needs attention: jobs load data
	// first.
	idleTold = 10 * time.Minute
	// homeRows bounds each list on the first page.
	homeRows = 8
)

// notice is something that somebody should look at.
type notice struct {
	// Tone is bad, warn or info; What in a few words, Text a sentence, Link where more is.
	Tone, What, Text string
	Link             template.URL
}

// homeData is what the first page shows.
type homeData struct {
	*Overview
	Notices []notice
	// More are notices that are not shown.
	More             int
	Running, Ending  int
	GPUs, Free, Lost int
	ClusterError     string
	HeldGPUs         int64
	Top              []Budget
	Latest           []Job
	Queue            []Waiting
	NoBudgets        bool
}

// home sums up, and says what needs attention first.
func (h *Handler) home(v *visit) (view, error) {
	o, err := h.overview.get(v.Context())
	if err != nil {
		return view{}, err
	}
	d := homeData{Overview: o, NoBudgets: len(o.Budgets) == 0}
	h.countCluster(v, &d)
	for _, j := range o.Jobs {
		d.HeldGPUs += j.GPUs
		if j.Ending != nil {
			d.Ending++
		}
	}
	d.Running = len(o.Jobs)
	d.Notices = slices.Concat(policyNotices(o), limitNotices(o), jobNotices(o, v.viewer), h.forecastNotices(v), clusterNotices(&d))
	slices.SortStableFunc(d.Notices, func(a, b notice) int { return toneRank(a.Tone) - toneRank(b.Tone) })
	if len(d.Notices) > homeRows {
		d.More, d.Notices = len(d.Notices)-homeRows, d.Notices[:homeRows]
	}
	for _, b := range o.Budgets {
		if !strings.Contains(b.Path, "/") && len(d.Top) < homeRows {
			d.Top = append(d.Top, b)
		}
	}
	d.Latest = newest(visible(v.viewer, o.Jobs, func(j Job) string { return j.Namespace }))
	d.Latest = d.Latest[:min(homeRows, len(d.Latest))]
	d.Queue = visible(v.viewer, o.Waiting, func(w Waiting) string { return w.Namespace })
	d.Queue = d.Queue[:min(homeRows, len(d.Queue))]
	return view{template: "home", title: "Overview", section: "home", data: d}, nil
}

func toneRank(tone string) int { return slices.Index([]string{"bad", "warn", "info"}, tone) }

// visible are the things of namespaces that somebody may read.
func visible[T any](viewer Viewer, all []T, namespace func(T) string) []T {
	var out []T
	for _, one := range all {
		if viewer.Reads(namespace(one)) {
			out = append(out, one)
		}
	}
	return out
}

func newest(jobs []Job) []Job {
	slices.SortStableFunc(jobs, func(a, b Job) int { return b.Created.Compare(a.Created) })
	return jobs
}

// countCluster counts GPUs. The page stands without: Nomad may not answer.
func (h *Handler) countCluster(v *visit, d *homeData) {
	c, err := h.cluster.get(v.Context())
	if err != nil {
		h.Failed(v.Request, err)
		d.ClusterError = "Nomad cannot be read now"
		if since := h.cluster.since(); !since.IsZero() {
			d.ClusterError = "Nomad cannot be read since " + since.In(h.Zone()).Format(timeLayout)
		}
		return
	}
	for _, n := range c.Nodes {
		for _, g := range n.Groups {
			for _, gpu := range g.GPUs {
				d.GPUs++
				switch {
				case gpu.State == "unhealthy":
					d.Lost++
				case gpu.State == "free" && n.Ready:
					d.Free++
				}
			}
		}
	}
}

func policyNotices(o *Overview) []notice {
	var out []notice
	if o.Broken {
		out = append(out, notice{"bad", "Policy broken", "The files in the store have errors; the last good policy stays in force.", address("policy")})
	}
	if o.Enforcement == "shadow" {
		out = append(out, notice{"warn", "Shadow mode", "Budgets are computed and not enforced: nothing is refused.", address("policy")})
	}
	if o.Ways != nil && o.Ways.Open > 0 {
		out = append(out, notice{"warn", "Ways around the gate", fmt.Sprintf("%s open: %s. governor doctor names the command that closes each.", plural(o.Ways.Open, "way"), strings.Join(o.Ways.Codes, ", ")), address("audit")})
	}
	return out
}

func limitNotices(o *Overview) []notice {
	var out []notice
	for _, b := range o.Budgets {
		for _, l := range b.Limits {
			d := budget.Dimension(l.Dimension)
			text := fmt.Sprintf("%s: %s of %s, %s, set at %s.", periodOf(l), d.Number(l.Posted.Add(l.Held)), d.Number(l.Limit), d.Noun(o.Currency), l.Source)
			switch l.Health {
			case "overdrawn":
				out = append(out, notice{"bad", b.Path + " is overdrawn", text, budgetPath(b.Path)})
			case "full":
				out = append(out, notice{"warn", b.Path + " is full", text, budgetPath(b.Path)})
			}
		}
	}
	return out
}

func jobNotices(o *Overview, viewer Viewer) []notice {
	var out []notice
	for _, s := range o.Strays {
		if viewer.Reads(s.Namespace) {
			out = append(out, notice{"bad", s.Namespace + "/" + s.ID, fmt.Sprintf("Allocation %s on %s has %s that no budget pays.", short(s.Alloc), s.Node, plural(len(s.GPUs), "GPU")), jobPath(s.Namespace, s.ID)})
		}
	}
	for _, r := range o.Rogue {
		out = append(out, notice{"bad", "GPU in use without a holder", fmt.Sprintf("%s on %s is used by %s.", r.GPU, r.Node, r.Processes), address("topology", r.Node)})
	}
	for _, i := range idleJobs(o) {
		if viewer.Reads(i.Namespace) {
			out = append(out, notice{"warn", i.Namespace + "/" + i.ID, fmt.Sprintf("%s held and not used since %s, budget %s.", plural(len(i.GPUs), "GPU"), i.Since.In(o.Time.Location()).Format("15:04 MST"), i.Budget), jobPath(i.Namespace, i.ID)})
		}
	}
	for _, j := range o.Jobs {
		if j.Ending != nil && viewer.Reads(j.Namespace) {
			out = append(out, notice{"warn", j.Namespace + "/" + j.ID, j.Ending.Why + " (" + j.Ending.Cause + ")", jobPath(j.Namespace, j.ID)})
		}
	}
	if n := len(o.Waiting); n > 0 {
		var gpus int64
		for _, w := range o.Waiting {
			gpus += w.GPUs
		}
		out = append(out, notice{"info", plural(n, "job") + " waiting", "They ask for " + plural(gpus, "GPU") + " and start by themselves when there is room.", address("jobs") + "?state=waiting"})
	}
	return out
}

// idleJobs are jobs of which allocations have not used their GPUs for a while, each with
// all of those together.
func idleJobs(o *Overview) []Idle {
	var out []Idle
	at := map[[2]string]int{}
	for _, i := range o.Idle {
		job := [2]string{i.Namespace, i.ID}
		known, seen := at[job]
		switch {
		case o.Time.Sub(i.Since) < idleTold:
		case !seen:
			at[job] = len(out)
			out = append(out, i)
		default:
			one := &out[known]
			one.GPUs = slices.Concat(one.GPUs, i.GPUs)
			if i.Since.Before(one.Since) {
				one.Since = i.Since
			}
		}
	}
	return out
}

// forecastNotices tell which limits run out soon. Without a history nothing is known.
func (h *Handler) forecastNotices(v *visit) []notice {
	f, err := h.forecast.get(v.Context())
	if err != nil {
		return nil
	}
	var out []notice
	for _, l := range f.Limits {
		if l.RunsOut == nil || l.RunsOut.After(h.Now().Add(soon)) || !l.RunsOut.After(h.Now()) {
			continue
		}
		d := budget.Dimension(l.Dimension)
		out = append(out, notice{"warn", l.Budget, fmt.Sprintf("%s of %s (%s) run out about %s at the rate of the last days.", d.Name(), l.Window, d.Number(l.Limit),
			l.RunsOut.In(h.Zone()).Format(time.DateOnly)), budgetPath(l.Budget)})
	}
	return out
}

func clusterNotices(d *homeData) []notice {
	var out []notice
	if d.ClusterError != "" {
		out = append(out, notice{"bad", "Nomad", d.ClusterError + ".", address("topology")})
	}
	if d.Lost > 0 {
		out = append(out, notice{"bad", plural(d.Lost, "unhealthy GPU"), "Nomad gives them to nobody.", address("topology") + "?state=unhealthy"})
	}
	return out
}
