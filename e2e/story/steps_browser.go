package story

import (
	"context"
	"fmt"
	"path/filepath"
	"strings"

	"github.com/nomad-governor/governor/e2e/browser"
)

// UILink is where the jobs' links to Governor's pages lead, in an agent that adds them.
const UILink = "https://governor.example:4640"

// BrowserSteps look at web pages. They need Chromium, so the demo, which must
// run on a fresh machine, leaves them out.
func BrowserSteps() []Step {
	return []Step{
		{"nomad's ui", "Nomad's own UI works through the gate, and shows GPUs and budget beside what it knows", nomadUI},
		{"governor's pages", "Governor's own pages show budgets, jobs, GPUs and policy, and change by themselves", governorPages},
	}
}

func nomadUI(ctx context.Context, s *Scene) error {
	job := Job{ID: "web", GPUs: 2, Device: v100Device, MaxRuntime: "30m"}
	allocation, err := s.mustRun(ctx, job)
	if err != nil {
		return err
	}
	patient, err := s.waitInQueue(ctx, 2)
	if err != nil {
		return err
	}
	alone, shown := s.page, s.panelPage
	pages := []browser.Page{
		alone("/ui/jobs", "nomad-ui-jobs.png", job.ID, "Running"),
		shown("/ui/jobs/"+job.ID+"@default?region=global", "nomad-ui-job.png", job.ID, allocation.ID[:8], "Allocations with GPUs", "Still held"),
		shown("/ui/allocations/"+allocation.ID, "nomad-ui-allocation.png", allocation.Name, "Resource Utilization", "healthy", "0.0 / 16.0 GiB", "NV2", "40 GB/s"),
		shown("/ui/allocations/"+allocation.ID+"/t", "nomad-ui-task.png", "Recent Events", devices(allocation)[0], "Still held"),
		shown("/ui/jobs/"+patient.ID+"@default", "nomad-ui-waits.png", "Waiting for budget", "1 of 1", "2 GPUs held", researchBudget),
	}
	pages[1].Selectors = append(pages[1].Selectors, `a[href="`+UILink+`/governor/jobs/default/`+job.ID+`"]`)
	// A link of Nomad's UI loads no page: the panel follows.
	followed := shown("/ui/allocations/"+allocation.ID, "nomad-ui-followed.png", "Allocations with GPUs")
	followed.Steps = []browser.Step{{Click: ".job-link a"}}
	followed.Selectors = append(followed.Selectors, ".governor-panel + .job-status-panel")
	if err := s.visit(ctx, append(pages, followed)); err != nil {
		return err
	}
	if err := s.StopJob(ctx, patient.ID); err != nil {
		return err
	}
	if err := s.apply(ctx, 8); err != nil {
		return err
	}
	if err := s.runInUI(ctx); err != nil {
		return err
	}
	if err := s.endJob(ctx, job.ID); err != nil {
		return err
	}
	ended := shown("/ui/allocations/"+allocation.ID, "nomad-ui-ended.png", devices(allocation)[0], "Ended", "settled", "Given back")
	if err := s.visit(ctx, []browser.Page{ended}); err != nil {
		return err
	}
	plain := alone("/ui/allocations/"+allocation.ID, "nomad-ui-plain.png", "Task Groups", "Recent Allocations", allocation.ID[:8])
	plain.Steps = []browser.Step{{Click: "h1"}, {Click: ".job-link a"}} // so that a panel would have come
	return s.withoutPanel(ctx, plain)
}

// page is a page of Nomad's UI that must show some texts, and no error.
func (s *Scene) page(path, picture string, texts ...string) browser.Page {
	return browser.Page{URL: s.Addr() + path, PNG: filepath.Join(s.OutDir, picture), Texts: texts, Absent: []string{"Error", "Not Found"}}
}

// panelPage is a page of Nomad's UI with Governor's panel behind the details at its top.
func (s *Scene) panelPage(path, picture string, texts ...string) browser.Page {
	p := s.page(path, picture, append([]string{"GPUs and budget"}, texts...)...)
	p.Selectors = []string{"section.section > .boxed-section.is-small + .governor-panel"}
	return p
}

// visit opens pages, none of which may log an error.
func (s *Scene) visit(ctx context.Context, pages []browser.Page) error {
	seen, err := browser.Visit(ctx, browser.Plan{Pages: pages})
	if err != nil {
		return err
	}
	for i, page := range pages {
		s.Check(true, "the browser at "+seen[i].URL, "no errors", seen[i].Title)
		s.printer.Note("picture: %s", page.PNG)
	}
	return nil
}

// waitInQueue lets research hold so many GPUs and no more, and submits a job that waits.
func (s *Scene) waitInQueue(ctx context.Context, n int) (Job, error) {
	job := Job{ID: "patient", GPUs: 2, Device: v100Device, MaxRuntime: "30m"}
	text, err := examplePolicy(n)
	if err != nil {
		return job, err
	}
	const block = "    concurrent {\n"
	queues := strings.Replace(text, fmt.Sprintf(block+"      gpus = { any = %d }", n), fmt.Sprintf("    over_budget {\n      admit = \"queue\"\n    }\n\n"+block+"      gpus = { any = %d }", n), 1)
	if err := s.applyText(ctx, queues); err != nil {
		return job, err
	}
	result, err := s.runJob(ctx, job)
	if err == nil && result.ExitCode != 0 {
		err = fmt.Errorf("run job %s: %s", job.ID, result.Output())
	}
	return job, err
}

// withoutPanel looks at a page while the ledger is away: it is Nomad's own, and logs no
// error.
func (s *Scene) withoutPanel(ctx context.Context, page browser.Page) error {
	if err := s.Consul.Stop(); err != nil {
		return err
	}
	page.Absent = append(page.Absent, "GPUs and budget")
	if err := s.visit(ctx, []browser.Page{page}); err != nil {
		return err
	}
	return s.Consul.Start(ctx)
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
	refusal, err := s.decisionAbout(ctx, "refused")
	if err != nil {
		return err
	}
	decision := page("decisions/"+refusal, "decision", refusal, "exceeds_job_cap", "256 GPU-hours for one job", "The author of the job")
	decision.Selectors = []string{`a.source[href*="/policy/files/` + policyFile + `?line="]`}
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
		page("decisions", "decisions", "refused", "exceeds_job_cap"), decision,
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
