package agent

import (
	"net/http"
	"slices"

	"github.com/nomad-governor/governor/quotaagent/api"
	"github.com/nomad-governor/governor/quotaagent/forecast"
	"github.com/nomad-governor/governor/quotaagent/report"
	"github.com/nomad-governor/governor/quotaagent/report/showback"
)

// Budgets, the policy and sums are for every token that Nomad accepts. Single jobs are
// for those whose token may read them in Nomad: what the API says of them, and the pages
// too, follows the capability read-job of their namespace.

// clearance is of which namespaces a caller may read the jobs; nil means of all.
type clearance func(namespace string) bool

// clearanceOf asks Nomad what the caller may read.
func (a *Agent) clearanceOf(c api.Call) (clearance, error) {
	reads, cause, err := c.Reads()
	if err != nil {
		a.logger.Warn("not known what a token may read", "accessor", c.Caller.Accessor, "error", cause)
	}
	return reads, err
}

// mustRead refuses a caller who may not read the jobs of a namespace.
func (a *Agent) mustRead(c api.Call, namespace string) error {
	s, err := a.clearanceOf(c)
	if err != nil || s.reads(namespace) {
		return err
	}
	return refusal(http.StatusForbidden, "your token may not read the jobs of namespace %.100q: that needs the capability read-job there", namespace)
}

func (s clearance) reads(namespace string) bool { return s == nil || s(namespace) }

// job is the id of a job as the caller may know it.
func (s clearance) job(namespace, id string) string {
	if id == "" || s.reads(namespace) {
		return id
	}
	return api.HiddenJob
}

// named is a job with its namespace, as lists have it.
func (s clearance) named(namespace, id string) string { return namespace + "/" + s.job(namespace, id) }

// keep leaves out what is of jobs that the caller must not know.
func keep[T any](s clearance, all []T, namespace func(*T) string) []T {
	if s == nil {
		return all
	}
	return slices.DeleteFunc(slices.Clone(all), func(one T) bool { return !s(namespace(&one)) })
}

// status is a status without jobs that the caller must not know. Budgets and their sums
// stay whole.
func (s clearance) status(all Status) Status {
	all.Holds = keep(s, all.Holds, func(h *HoldStatus) string { return h.Namespace })
	all.Ungoverned = keep(s, all.Ungoverned, func(u *StrayStatus) string { return u.Namespace })
	all.Idle = keep(s, all.Idle, func(i *IdleStatus) string { return i.Namespace })
	if s == nil {
		return all
	}
	all.Rogue = nil // the commands of processes, of whoever they are
	for _, b := range all.Budgets {
		for i := range b.Limits {
			b.Limits[i].Outlook = s.outlook(b.Limits[i].Outlook)
		}
	}
	return all
}

// outlook is a forecast, which others share, without the names of jobs that the caller must
// not know.
func (s clearance) outlook(o *forecast.Outlook) *forecast.Outlook {
	if s == nil || o == nil {
		return o
	}
	out := *o
	out.Causes = slices.Clone(o.Causes)
	for i := range out.Causes {
		out.Causes[i].JobID = s.job(out.Causes[i].Namespace, out.Causes[i].JobID)
	}
	return &out
}

// showback takes from what a statement is made of the names of the jobs that the caller
// must not know.
func (s clearance) showback(in *showback.Input) {
	columns := showback.Columns()
	namespace, job := slices.Index(columns, report.Namespace), slices.Index(columns, report.Job)
	for i := range in.Rows {
		in.Rows[i].Key[job] = s.job(in.Rows[i].Key[namespace], in.Rows[i].Key[job])
	}
	for i := range in.Limits {
		in.Limits[i].Outlook = s.outlook(in.Limits[i].Outlook)
	}
	for i := range in.Holds {
		in.Holds[i].JobID = s.job(in.Holds[i].Namespace, in.Holds[i].JobID)
	}
	for i := range in.Corrections {
		in.Corrections[i].JobID = s.job(in.Corrections[i].Namespace, in.Corrections[i].JobID)
	}
}

// rows reads sums in which the jobs that the caller must not know have no names. Where one
// job is asked for, what is of another namespace is left out.
func (s clearance) rows(q report.Query, read func(report.Query) ([]report.Row, error)) ([]report.Row, error) {
	job := slices.Index(q.By, report.Job)
	if s == nil || job < 0 && q.Job == "" {
		return read(q)
	}
	fine, namespace := q, slices.Index(q.By, report.Namespace)
	if namespace < 0 { // it is read beside what was asked for
		namespace = len(q.By)
		fine.By = append(slices.Clone(q.By), report.Namespace)
	}
	all, err := read(fine)
	if err != nil {
		return nil, err
	}
	out := make([]report.Row, 0, len(all))
	for _, r := range all {
		of := r.Key[namespace]
		if q.Job != "" && !s(of) {
			continue
		}
		r.Key = slices.Clone(r.Key[:len(q.By)])
		if job >= 0 {
			r.Key[job] = s.job(of, r.Key[job])
		}
		out = append(out, r)
	}
	return out, nil
}
