package access_test

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/hashicorp/nomad/api"
	"github.com/shoenig/test/must"

	"github.com/nomad-governor/governor/e2e/browser"
	"github.com/nomad-governor/governor/e2e/cluster"
	"github.com/nomad-governor/governor/e2e/clustertest"
	"github.com/nomad-governor/governor/e2e/story"
	"github.com/nomad-governor/governor/e2e/toolchain"
	"github.com/nomad-governor/governor/quotaagent/nomadctl"
)

// budgets give namespace default to one role, and nobody else.
const budgets = `
budget "acme" {
  limit "month" {
    cost = 1000
  }

  budget "ml" {
    match {
      namespaces = ["default"]
      identities = ["role:ml-*"]
    }

    per_job {
      default_runtime = "1h"
    }
  }
}
`

func TestAccess(t *testing.T) {
	c := clustertest.Start(t, cluster.Options{ACL: true, Governor: true,
		Clients: []cluster.ClientOptions{{Name: "client1", Fixture: "dgx1v", HostVolumes: map[string]string{"data": t.TempDir()}}}})
	ctx := t.Context()
	admin, err := c.API(c.NomadAddr)
	must.NoError(t, err)
	defer admin.Close()
	ml, other := tokens(t, admin)
	acls, err := nomadctl.New(admin).ACLs(ctx)
	must.NoError(t, err)
	must.True(t, acls)

	example := exampleBudgets(t)
	prices, _, _ := strings.Cut(example, "\nbudget ") // a price in force stays, so both policies have the same
	policy := prices + budgets
	policyFile, err := c.WriteFile("policy.hcl", policy)
	must.NoError(t, err)
	jobFile, err := c.WriteFile("job.nomad.hcl", story.Job{ID: "mine", GPUs: 2, Device: "nvidia/gpu", MaxRuntime: "10m"}.HCL())
	must.NoError(t, err)

	t.Run("changing budgets needs a management token", func(t *testing.T) {
		for token, want := range map[string]string{ml: "management token", "": "token is needed"} {
			result := governor(ctx, t, c, token, "budget", "apply", "-auto-approve", policyFile)
			must.Eq(t, 1, result.ExitCode)
			must.StrContains(t, result.Output(), want)
		}
		result := governor(ctx, t, c, c.Token, "budget", "apply", "-auto-approve", policyFile)
		must.Eq(t, 0, result.ExitCode, must.Sprint(result.Output()))
	})
	t.Run("a role that no budget names gets no GPUs", func(t *testing.T) {
		result := run(ctx, t, c, other, "job", "run", "-detach", jobFile)
		must.Eq(t, 1, result.ExitCode)
		must.StrContains(t, result.Output(), "403")
		must.StrContains(t, result.Output(), "(unmatched)")
		must.StrContains(t, result.Output(), "role:web-team")
		must.False(t, registered(t, admin, "mine"))
	})
	t.Run("nomad's own ACLs still decide", func(t *testing.T) {
		result := run(ctx, t, c, "", "job", "run", "-detach", jobFile)
		must.Eq(t, 1, result.ExitCode)
		must.StrContains(t, result.Output(), "Permission denied")
		result = run(ctx, t, c, "11111111-2222-3333-4444-555555555555", "job", "run", "-detach", jobFile)
		must.Eq(t, 1, result.ExitCode)
		must.StrContains(t, result.Output(), "403")
		must.False(t, registered(t, admin, "mine"))
		must.StrContains(t, governor(ctx, t, c, c.Token, "budget", "status").Stdout, "No job holds budget")
	})
	t.Run("the role that the budget names runs, and its own token stays on the job", func(t *testing.T) {
		result := run(ctx, t, c, ml, "job", "run", "-detach", jobFile)
		must.Eq(t, 0, result.ExitCode, must.Sprint(result.Output()))
		must.StrContains(t, result.Output(), "from budget acme/ml")
		allocations, err := c.WaitAllocations(ctx, "mine", 1, api.AllocClientStatusRunning)
		must.NoError(t, err)
		must.StrContains(t, governor(ctx, t, c, ml, "job", "status", "mine").Stdout, "as offered")
		panelShows(t, c, admin, ml, allocations[0].ID)
		must.NoError(t, c.StopJob(ctx, "mine"))
	})
	t.Run("an operator sees and stops what runs, and starts nothing", func(t *testing.T) { operator(ctx, t, c, admin, ml, jobFile) })
	t.Run("more GPUs than any node has", func(t *testing.T) {
		file, err := c.WriteFile("toobig.nomad.hcl", story.Job{ID: "toobig", GPUs: 9, Device: "nvidia/gpu", MaxRuntime: "10m"}.HCL())
		must.NoError(t, err)
		result := run(ctx, t, c, ml, "job", "run", "-detach", file)
		must.Eq(t, 1, result.ExitCode)
		must.StrContains(t, result.Output(), "(infeasible)")
		must.StrContains(t, result.Output(), "the largest matching node, client1, has 8")
		must.False(t, registered(t, admin, "toobig"))
	})
	t.Run("budgets with a mistake are refused whole", func(t *testing.T) {
		before := governor(ctx, t, c, c.Token, "budget", "status", "-json")
		for name, mistake := range map[string][2]string{
			"a limit of zero": {"cost = 1000", "cost = 0"}, "a negative limit": {"cost = 1000", "cost = -1"},
			"an unknown name": {"per_job {", "per_jobs {"}, "a class without a price": {`gpu "v100" {`, `gpu "v200" {`},
			"broken syntax": {`budget "ml" {`, `budget "ml" {{`},
		} {
			file, err := c.WriteFile("wrong.hcl", strings.Replace(policy, mistake[0], mistake[1], 1))
			must.NoError(t, err)
			result := governor(ctx, t, c, c.Token, "budget", "apply", "-auto-approve", file)
			must.Eq(t, 1, result.ExitCode, must.Sprint(name))
			must.StrContains(t, result.Output(), "wrong.hcl line ", must.Sprint(name))
		}
		after := governor(ctx, t, c, c.Token, "budget", "status", "-json")
		must.Eq(t, revision(t, before), revision(t, after))
	})
	t.Run("a token in the body of the request counts, as in nomad", func(t *testing.T) {
		body := fmt.Sprintf(`{"SecretID": %q, "Job": {"ID": "inbody", "Name": "inbody", "Type": "batch", "Datacenters": ["*"], "TaskGroups": [{"Name": "g",
			"Tasks": [{"Name": "t", "Driver": "exec", "Config": {"command": "/bin/true"},
			"Resources": {"Devices": [{"Name": "nvidia/gpu", "Count": 1}]}}]}]}}`, other)
		must.Eq(t, http.StatusForbidden, put(ctx, t, c, body))
		must.False(t, registered(t, admin, "inbody"))
		must.Eq(t, http.StatusOK, put(ctx, t, c, strings.Replace(body, other, ml, 1)))
		must.NoError(t, c.StopJob(ctx, "inbody"))
	})
	t.Run("people sign in to the pages and see what their token reads", func(t *testing.T) { signIn(ctx, t, c, ml) })
	examples(ctx, t, c, example)
	t.Run("the agent ends and releases jobs with the policy that is shipped for it", func(t *testing.T) {
		apply(ctx, t, c, prices+queueing())
		first := submit(ctx, t, c, ml, story.Job{ID: "first", GPUs: 2, Device: "nvidia/gpu", MaxRuntime: "12s"}.HCL())
		must.Eq(t, 0, first.ExitCode, must.Sprint(first.Output()))
		second := submit(ctx, t, c, ml, story.Job{ID: "second", GPUs: 2, Device: "nvidia/gpu", MaxRuntime: "10m"}.HCL())
		must.Eq(t, 0, second.ExitCode, must.Sprint(second.Output()))
		must.StrContains(t, second.Output(), "waits for budget")
		_, err := c.WaitAllocations(ctx, "second", 1, api.AllocClientStatusRunning)
		must.NoError(t, err, must.Sprint("the first is stopped when its time is over, and the second released"))
		stopped, _, err := admin.Jobs().Info("first", nil)
		must.NoError(t, err)
		must.True(t, *stopped.Stop)
		must.StrContains(t, governor(ctx, t, c, c.Token, "audit", "list").Output(), "max_runtime")
		must.NoError(t, c.StopJob(ctx, "second"))
	})
	t.Run("a job with a volume is released once the agent may mount it", func(t *testing.T) { volume(ctx, t, c, admin, prices, ml) })
	t.Run("tasks with their own identity", func(t *testing.T) { tasks(ctx, t, c, admin, prices, ml, other) })
	t.Run("an override that somebody else approves", func(t *testing.T) { approval(ctx, t, c, prices, ml, other) })
}

// queueing are the budgets with room for two GPUs at once, and a queue.
func queueing() string {
	return strings.Replace(budgets, "per_job {", `concurrent {
      gpus = 2
    }
    over_budget {
      admit = "queue"
    }

    per_job {`, 1)
}

// volume has a job wait that mounts a host volume: the agent's token registers it.
func volume(ctx context.Context, t *testing.T, c *cluster.Cluster, admin *api.Client, prices, ml string) {
	apply(ctx, t, c, prices+queueing())
	first := submit(ctx, t, c, ml, story.Job{ID: "first", GPUs: 2, Device: "nvidia/gpu", MaxRuntime: "10m"}.HCL())
	must.Eq(t, 0, first.ExitCode, must.Sprint(first.Output()))
	mounting := strings.Replace(story.Job{ID: "mounting", GPUs: 2, Device: "nvidia/gpu", MaxRuntime: "10m"}.HCL(), `group "g" {`, `group "g" {
    volume "data" {
      type   = "host"
      source = "data"
    }`, 1)
	waits := submit(ctx, t, c, ml, mounting)
	must.Eq(t, 0, waits.ExitCode, must.Sprint(waits.Output()))
	must.StrContains(t, waits.Output(), "waits for budget")
	must.NoError(t, c.StopJob(ctx, "first"))
	must.NoError(t, cluster.Poll(ctx, "Nomad refuses the release", func() error {
		if text := governor(ctx, t, c, ml, "job", "why", "mounting").Output(); !strings.Contains(text, "Nomad does not let this agent register it") {
			return fmt.Errorf("%s", text)
		}
		return nil
	}))
	policy, _, err := admin.ACLPolicies().Info("governor", nil)
	must.NoError(t, err)
	policy.Rules += "\nhost_volume \"*\" {\n  policy = \"write\"\n}\n"
	_, err = admin.ACLPolicies().Upsert(policy, nil)
	must.NoError(t, err)
	_, err = c.WaitAllocations(ctx, "mounting", 1, api.AllocClientStatusRunning)
	must.NoError(t, err)
	must.NoError(t, c.StopJob(ctx, "mounting"))
}

// operator has somebody with the policy of operators watch over a job of somebody else.
func operator(ctx context.Context, t *testing.T, c *cluster.Cluster, admin *api.Client, ml, jobFile string) {
	_, err := admin.ACLPolicies().Upsert(&api.ACLPolicy{Name: "governor-operator", Rules: shipped(t, "operator.nomad.hcl")}, nil)
	must.NoError(t, err)
	made, _, err := admin.ACLTokens().Create(&api.ACLToken{Name: "operator", Type: "client", Policies: []string{"governor-operator"}}, nil)
	must.NoError(t, err)
	token := made.SecretID
	started := run(ctx, t, c, ml, "job", "run", "-detach", jobFile)
	must.Eq(t, 0, started.ExitCode, must.Sprint(started.Output()))
	allocations, err := c.WaitAllocations(ctx, "mine", 1, api.AllocClientStatusRunning)
	must.NoError(t, err)

	must.StrContains(t, governor(ctx, t, c, token, "budget", "status").Stdout, "default/mine")
	must.StrContains(t, governor(ctx, t, c, token, "topology").Stdout, "client1")
	must.Eq(t, 0, run(ctx, t, c, token, "alloc", "logs", allocations[0].ID).ExitCode)
	for _, on := range []string{"-enable", "-disable"} {
		drained := run(ctx, t, c, token, "node", "eligibility", on, c.Clients[0].NodeID)
		must.Eq(t, 0, drained.ExitCode, must.Sprint(drained.Output()))
	}
	must.Eq(t, 0, run(ctx, t, c, token, "node", "eligibility", "-enable", c.Clients[0].NodeID).ExitCode)
	stopped := run(ctx, t, c, token, "job", "stop", "-detach", "mine")
	must.Eq(t, 0, stopped.ExitCode, must.Sprint(stopped.Output()))
	again, err := c.NomadAs(ctx, token, c.NomadAddr, "job", "run", "-detach", jobFile)
	must.NoError(t, err)
	must.Eq(t, 1, again.ExitCode)
	must.StrContains(t, again.Output(), "Permission denied")
	others, err := c.WriteFile("others.hcl", exampleBudgets(t))
	must.NoError(t, err)
	changed := governor(ctx, t, c, token, "budget", "apply", "-auto-approve", others)
	must.Eq(t, 1, changed.ExitCode)
	must.StrContains(t, changed.Output(), "management token")
	must.NoError(t, c.StopJob(ctx, "mine"))
}

// approval has one role ask for more than its budget has, and another one approve.
func approval(ctx context.Context, t *testing.T, c *cluster.Cluster, prices, ml, other string) {
	apply(ctx, t, c, prices+strings.Replace(budgets, "per_job {", `concurrent {
      gpus = 2
    }
    override "glass" {
      who      = ["role:ml-*", "role:web-*"]
      max      = { gpus = 2 }
      expires  = "10m"
      reason   = "required"
      approval = 1
    }

    per_job {`, 1))
	urgent := strings.Replace(story.Job{ID: "urgent", GPUs: 4, Device: "nvidia/gpu", MaxRuntime: "10m"}.HCL(), "meta {", `meta {
    governor_reason      = "the demo is today"`, 1)
	refused := submit(ctx, t, c, ml, urgent)
	must.Eq(t, 1, refused.ExitCode)
	must.StrContains(t, refused.Output(), "(exceeds_budget)")
	asked := submit(ctx, t, c, ml, urgent, "-policy-override")
	must.Eq(t, 1, asked.ExitCode)
	must.StrContains(t, asked.Output(), "(waiting_for_approval)")
	id := regexp.MustCompile(`\bo-[0-9a-f]{16}\b`).FindString(asked.Output())
	must.NotEq(t, "", id, must.Sprint(asked.Output()))

	own := governor(ctx, t, c, ml, "override", "approve", id)
	must.Eq(t, 1, own.ExitCode, must.Sprint("nobody approves what they asked for"))
	approved := governor(ctx, t, c, other, "override", "approve", id)
	must.Eq(t, 0, approved.ExitCode, must.Sprint(approved.Output()))
	accepted := submit(ctx, t, c, ml, urgent, "-policy-override")
	must.Eq(t, 0, accepted.ExitCode, must.Sprint(accepted.Output()))
	must.StrContains(t, accepted.Output(), "admitted by override "+id)
	_, err := c.WaitAllocations(ctx, "urgent", 1, api.AllocClientStatusRunning)
	must.NoError(t, err)
	log := governor(ctx, t, c, c.Token, "audit", "list").Output()
	for _, what := range []string{"override.requested", "override.approved", "the demo is today"} {
		must.StrContains(t, log, what)
	}
	must.NoError(t, c.StopJob(ctx, "urgent"))
}

// apply puts a policy in force.
func apply(ctx context.Context, t *testing.T, c *cluster.Cluster, policy string) {
	t.Helper()
	file, err := c.WriteFile("applied.hcl", policy)
	must.NoError(t, err)
	result := governor(ctx, t, c, c.Token, "budget", "apply", "-auto-approve", file)
	must.Eq(t, 0, result.ExitCode, must.Sprint(result.Output()))
}

// submit runs a job file through the gate with a token.
func submit(ctx context.Context, t *testing.T, c *cluster.Cluster, token, job string, flags ...string) cluster.Result {
	t.Helper()
	file, err := c.WriteFile("submitted.nomad.hcl", job)
	must.NoError(t, err)
	return run(ctx, t, c, token, append(append([]string{"job", "run", "-detach"}, flags...), file)...)
}

// shipped is the text of a file of jobs/acl.
func shipped(t *testing.T, name string) string {
	t.Helper()
	root, err := toolchain.Root()
	must.NoError(t, err)
	text, err := os.ReadFile(filepath.Join(root, "jobs", "acl", name))
	must.NoError(t, err)
	return string(text)
}

// exampleBudgets is the text of the example budgets.
func exampleBudgets(t *testing.T) string {
	t.Helper()
	root, err := toolchain.Root()
	must.NoError(t, err)
	text, err := os.ReadFile(filepath.Join(root, "hcl", "examples", "budgets.hcl"))
	must.NoError(t, err)
	return string(text)
}

// tokens makes a user of role ml-team and one of role web-team.
func tokens(t *testing.T, admin *api.Client) (ml, other string) {
	t.Helper()
	_, err := admin.ACLPolicies().Upsert(&api.ACLPolicy{Name: "user", Rules: shipped(t, "user.nomad.hcl")}, nil)
	must.NoError(t, err)
	made := make([]string, 0, 2)
	for _, role := range []string{"ml-team", "web-team"} {
		r, _, err := admin.ACLRoles().Create(&api.ACLRole{Name: role, Policies: []*api.ACLRolePolicyLink{{Name: "user"}}}, nil)
		must.NoError(t, err)
		token, _, err := admin.ACLTokens().Create(&api.ACLToken{Name: role, Type: "client", Roles: []*api.ACLTokenRoleLink{{ID: r.ID}}}, nil)
		must.NoError(t, err)
		made = append(made, token.SecretID)
	}
	return made[0], made[1]
}

// run runs the stock Nomad CLI through the gate with a token.
func run(ctx context.Context, t *testing.T, c *cluster.Cluster, token string, args ...string) cluster.Result {
	t.Helper()
	result, err := c.NomadAs(ctx, token, c.GovernorAddr, args...)
	must.NoError(t, err)
	return result
}

// governor runs the governor CLI with a token.
func governor(ctx context.Context, t *testing.T, c *cluster.Cluster, token string, args ...string) cluster.Result {
	t.Helper()
	result, err := c.GovernorCLIAs(ctx, token, args...)
	must.NoError(t, err)
	return result
}

// put registers a job without any token in the header.
func put(ctx context.Context, t *testing.T, c *cluster.Cluster, body string) int {
	t.Helper()
	request, err := http.NewRequestWithContext(ctx, http.MethodPut, c.GovernorAddr+"/v1/jobs", strings.NewReader(body))
	must.NoError(t, err)
	response, err := http.DefaultClient.Do(request)
	must.NoError(t, err)
	must.NoError(t, response.Body.Close())
	return response.StatusCode
}

// revision is the policy in force according to a status document.
func revision(t *testing.T, status cluster.Result) string {
	t.Helper()
	var s struct {
		Policy struct {
			Revision string `json:"revision"`
		} `json:"policy"`
	}
	must.NoError(t, json.Unmarshal([]byte(status.Stdout), &s))
	must.NotEq(t, "", s.Policy.Revision)
	return s.Policy.Revision
}

func registered(t *testing.T, admin *api.Client, id string) bool {
	t.Helper()
	jobs, _, err := admin.Jobs().PrefixList(id)
	must.NoError(t, err)
	return len(jobs) > 0
}

// signIn gives the form of the pages tokens in a browser. A token that Nomad does not
// know is refused, and the audit log is not for all that are known.
func signIn(ctx context.Context, t *testing.T, c *cluster.Cluster, ml string) {
	result := submit(ctx, t, c, ml, story.Job{ID: "seen", GPUs: 1, Device: "nvidia/gpu", MaxRuntime: "10m"}.HCL())
	must.Eq(t, 0, result.ExitCode, must.Sprint(result.Output()))
	root, err := toolchain.Root()
	must.NoError(t, err)
	page := func(path, picture, token string, texts ...string) browser.Page {
		p := browser.Page{URL: c.GovernorAddr + "/governor/" + path, PNG: filepath.Join(root, "e2e", "_out", "pictures", "governor-"+picture+".png"), Texts: texts, Axe: true}
		if token != "" {
			p.Steps = []browser.Step{{Click: "#token", Insert: token}, {Click: "button.primary"}}
		}
		return p
	}
	out := page("", "signed-out", "", "Sign in with a Nomad ACL token")
	out.Steps = []browser.Step{{Click: ".who button"}}
	_, err = browser.Visit(ctx, browser.Plan{Pages: []browser.Page{
		page("jobs", "sign-in-refused", "11111111-2222-3333-4444-555555555555", "Nomad does not accept this token"),
		page("jobs/default/seen", "signed-in", ml, "Cost so far", "ml-team"),
		page("audit", "audit-denied", "", "needs a Nomad management token"),
		out,
	}, IgnoreErrors: []string{"status of 403"}})
	must.NoError(t, err)
	must.NoError(t, c.StopJob(ctx, "seen"))
}
