package web

import (
	"bytes"
	"net/http"
	"slices"
	"strconv"

	"github.com/nomad-governor/governor/hcl/budgetspec"
)

const (
	revisionRows = 20
	changeRows   = 12
	// lineRows is how many lines of a file a page shows.
	lineRows = 400
	// around is how many lines around a fault are shown.
	around = 2
)

// policyData is the policy with its history.
type policyData struct {
	Policy
	Faulty    []faultData
	Revisions []Revision
	More      int
}

// faultData is a fault with the lines that it is about.
type faultData struct {
	Fault
	Lines []codeLine
}

// codeLine is one line of a file.
type codeLine struct {
	Nr   int
	Text string
	// Faults are what is wrong there.
	Faults []Fault
	Marked bool
}

// policy shows the policy in force, what is wrong with a later edit, and the revisions.
func (h *Handler) policy(v *visit) (view, error) {
	d := policyData{Policy: h.Rules.Policy()}
	for _, f := range d.Faults {
		one := faultData{Fault: f}
		if file := find(d.Broken, f.File); file != nil && f.Line > 0 {
			for _, line := range linesOf(file.Content, f.Line-around, f.Line+around) {
				line.Marked = line.Nr == f.Line
				one.Lines = append(one.Lines, line)
			}
		}
		d.Faulty = append(d.Faulty, one)
	}
	var err error
	if d.Revisions, err = h.Rules.Revisions(v.Context()); err != nil {
		return view{}, err
	}
	if n := len(d.Revisions); n > revisionRows {
		d.More, d.Revisions = n-revisionRows, d.Revisions[:revisionRows]
	}
	for i := range d.Revisions {
		if r := &d.Revisions[i]; len(r.Changes) > changeRows {
			r.Changes = append(slices.Clone(r.Changes[:changeRows]), plural(len(r.Changes)-changeRows, "more change"))
		}
	}
	return view{template: "policy", title: "Policy", section: "policy", data: d}, nil
}

func find(files []budgetspec.File, name string) *budgetspec.File {
	for i := range files {
		if files[i].Name == name {
			return &files[i]
		}
	}
	return nil
}

// linesOf are the lines of a file from one number to another, as far as there are any.
func linesOf(content []byte, from, to int) []codeLine {
	var out []codeLine
	nr := 0
	for line := range bytes.Lines(content) {
		nr++
		if nr >= from && nr <= to {
			out = append(out, codeLine{Nr: nr, Text: string(bytes.TrimRight(line, "\r\n"))})
		}
	}
	return out
}

// fileData is a part of a policy file.
type fileData struct {
	Name   string
	Lines  []codeLine
	Paging paging
	// Broken says that it is the file of an edit that is not in force.
	Broken bool
	Line   int
}

// policyFile shows one file with its line numbers.
func (h *Handler) policyFile(v *visit) (view, error) {
	p, name := h.Rules.Policy(), v.PathValue("file")
	d := fileData{Name: name, Broken: v.query("edit") == "broken"}
	files := p.Files
	if d.Broken {
		files = p.Broken
	}
	file := find(files, name)
	if file == nil {
		return view{}, problem(http.StatusNotFound, "There is no file %.200q in the policy.", name)
	}
	all := linesOf(file.Content, 1, bytes.Count(file.Content, []byte("\n"))+1)
	d.Line, _ = strconv.Atoi(v.query("line"))
	d.Lines, d.Paging = pageOf(v, all, lineRows, "line")
	if d.Line > 0 && v.query("page") == "" {
		d.Lines, d.Paging = pageAt(v, all, lineRows, "line", (d.Line-1)/lineRows+1)
	}
	for i := range d.Lines {
		line := &d.Lines[i]
		line.Marked = line.Nr == d.Line
		if d.Broken {
			line.Faults = slices.DeleteFunc(slices.Clone(p.Faults), func(f Fault) bool { return f.File != name || f.Line != line.Nr })
		}
	}
	return view{template: "file", title: name, section: "policy", crumbs: []crumb{{"Policy", Prefix + "policy"}}, data: d}, nil
}
