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
	for i, page := range pages {
		s.Check(true, "the browser at "+seen[i].URL, "no errors", seen[i].Title)
		s.printer.Note("picture: %s", page.PNG)
	}
	return s.endJob(ctx, job.ID)
}
