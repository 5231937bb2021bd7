package story

import (
	"context"
	"path/filepath"

	"github.com/nomad-governor/governor/e2e/browser"
)

// BrowserSteps look at web pages. They need Chromium, so the demo, which must
// run on a fresh machine, leaves them out.
func BrowserSteps() []Step {
	return []Step{
		{"nomad's ui", "Nomad's own UI works through the gate: job list, job page, allocation page", nomadUI},
	}
}

func nomadUI(ctx context.Context, s *Scene) error {
	job := Job{ID: "web", GPUs: 2, Device: v100Device, MaxRuntime: "30m"}
	allocation, err := s.mustRun(ctx, job)
	if err != nil {
		return err
	}
	page := func(path, picture string, texts ...string) browser.Page {
		return browser.Page{URL: s.Addr() + path, PNG: filepath.Join(s.OutDir, picture), Texts: texts, Absent: []string{"Error", "Not Found"}}
	}
	pages := []browser.Page{
		page("/ui/jobs", "nomad-ui-jobs.png", job.ID, "Running"),
		page("/ui/jobs/"+job.ID+"@default", "nomad-ui-job.png", job.ID, allocation.ID[:8]),
		page("/ui/allocations/"+allocation.ID, "nomad-ui-allocation.png", allocation.Name, "Resource Utilization"),
	}
	seen, err := browser.Visit(ctx, browser.Plan{Pages: pages})
	if err != nil {
		return err
	}
	if err := s.runInUI(ctx); err != nil {
		return err
	}
	for i, page := range pages {
		s.Check(true, "the browser at "+seen[i].URL, "no errors", seen[i].Title)
		s.printer.Note("picture: %s", page.PNG)
	}
	return s.endJob(ctx, job.ID)
}

// runInUI submits jobs as people do it in Nomad's UI: one that fits, and one that does
// not. Its plan says so before, and the answer to Run is the refusal.
func (s *Scene) runInUI(ctx context.Context) error {
	fits, large := Job{ID: "from-ui", GPUs: 1, Device: v100Device, MaxRuntime: "30m"}, Job{ID: "too-large", GPUs: 8, Device: v100Device, MaxRuntime: "20000h"}
	run := func(job Job, picture string, buttons, texts []string) browser.Page {
		steps := []browser.Step{{Click: ".CodeMirror", Insert: job.HCL()}}
		for _, button := range buttons {
			steps = append(steps, browser.Step{Click: `button:has-text("` + button + `")`})
		}
		return browser.Page{URL: s.Addr() + "/ui/jobs/run", PNG: filepath.Join(s.OutDir, picture), Steps: steps, Texts: texts}
	}
	refused := run(large, "nomad-ui-refused.png", []string{"Plan", "Run"}, []string{"was not registered"})
	refused.Absent = []string{"does not grant permission"}
	_, err := browser.Visit(ctx, browser.Plan{Pages: []browser.Page{
		run(fits, "nomad-ui-plan.png", []string{"Plan"}, []string{"governor: at most 1 x"}),
		run(fits, "nomad-ui-run.png", []string{"Plan", "Run"}, []string{fits.ID, "Running"}),
		refused,
	}, IgnoreErrors: []string{"status of 409"}})
	if err != nil {
		return err
	}
	s.Check(true, "a job submitted in Nomad's ui", "planned, run or refused", "as by the command line")
	return s.endJob(ctx, fits.ID)
}
