package story

import (
	"context"
	"fmt"
	"path/filepath"
	"strings"

	"github.com/nomad-governor/governor/e2e/browser"
)

// BrowserSteps look at web pages. They need Chromium, so the demo, which must
// run on a fresh machine, leaves them out.
func BrowserSteps() []Step {
	return []Step{
		{"nomad's ui", "Nomad's own UI works through the gate: job list, job page, allocation page", nomadUI},
		{"governor's pages", "Governor's own pages show budgets, jobs, GPUs and policy, and change by themselves", governorPages},
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

// governorPages visits every page while a job runs, one was refused and an edit of the
// budgets is broken. Of each page axe-core must find nothing serious.
func governorPages(ctx context.Context, s *Scene) error {
	shown, late := Job{ID: "shown", GPUs: 3, Device: v100Device, MaxRuntime: "30m"}, Job{ID: "submitted-later", GPUs: 1, Device: v100Device, MaxRuntime: "30m"}
	allocation, err := s.mustRun(ctx, shown)
	if err != nil {
		return err
	}
	if _, err := s.runJob(ctx, Job{ID: "refused", GPUs: 8, Device: v100Device, MaxRuntime: "20000h"}); err != nil {
		return err
	}
	submission, err := s.document(ctx, late)
	if err != nil {
		return err
	}
	good, err := examplePolicy(8)
	if err != nil {
		return err
	}
	if err := s.editKV(ctx, strings.Replace(good, `gpus = { any = 8 }`, `gpuz = { any = 9 }`, 1)); err != nil {
		return err
	}
	page := func(path, picture string, texts ...string) browser.Page {
		return browser.Page{URL: s.Addr() + "/governor/" + path, PNG: filepath.Join(s.OutDir, "governor-"+picture+".png"), Texts: texts, Axe: true}
	}
	live := page("jobs?state=running", "jobs", shown.ID, late.ID, "Changed at")
	live.Steps = []browser.Step{{Click: "#q"}, {Post: s.Addr() + "/v1/jobs", Body: submission}}
	live.Selectors = []string{"body:has(#live:not(:empty)) #q:focus"} // what changes takes nobody's focus
	job := page("jobs/default/"+shown.ID, "job", "Cost so far", "Limits on the way to the root", v100Client, allocation.ID[:8], "GB/s at its narrowest")
	job.Selectors = []string{"figure.fabric svg polygon.ring", "figure.fabric svg g.chosen"}
	seen, err := browser.Visit(ctx, browser.Plan{Pages: []browser.Page{
		page("policy", "policy", "An edit is not in force", "gpuz", "Revisions"),
		page("policy/files/"+policyFile+"?line=20", "file", "gpu_class"),
		page("", "home", "Needs attention", "Policy broken", "GPUs free", shown.ID),
		page("budgets", "budgets", "acme/serving", "12,000.00"),
		page("budgets/"+researchBudget, "statement", "Burn-down", "Settings that apply", shown.ID),
		live, job,
		page("jobs/default/refused", "refused", "exceeds_job_cap", "256 GPU-hours for one job"),
		page("topology", "topology", v100Client, "client2", "Best free"),
		page("topology/"+v100Client, "node", "NV2", "default/"+shown.ID),
		page("decisions", "decisions", "refused", "exceeds_job_cap"),
		page("audit", "audit", "policy.applied"),
		page("none", "none", "There is no page at"),
	}, IgnoreErrors: []string{"status of 404"}})
	if err != nil {
		return err
	}
	for _, page := range seen {
		s.Check(true, "the browser at "+page.URL, "no errors, nothing serious for axe-core, fits 375 pixels", fmt.Sprintf("%s, painted after %d ms", page.Title, page.PaintMS))
	}
	if err := s.apply(ctx, 8); err != nil {
		return err
	}
	if err := s.endJob(ctx, late.ID); err != nil {
		return err
	}
	return s.endJob(ctx, shown.ID)
}

// document is a job as programs submit it.
func (s *Scene) document(ctx context.Context, job Job) (string, error) {
	path, err := s.WriteFile(job.ID+".nomad.hcl", job.HCL())
	if err != nil {
		return "", err
	}
	result, err := s.Nomad(ctx, s.Addr(), "job", "run", "-output", path)
	if err != nil {
		return "", err
	}
	return result.Stdout, nil
}
