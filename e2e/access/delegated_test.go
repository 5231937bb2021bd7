package access_test

import (
	"fmt"
	"net/http"
	"strings"
	"testing"

	"github.com/hashicorp/nomad/api"
	"github.com/shoenig/test/must"

	"github.com/nomad-governor/governor/e2e/cluster"
	"github.com/nomad-governor/governor/e2e/clustertest"
	"github.com/nomad-governor/governor/e2e/story"
)

func TestDelegatedCredentials(t *testing.T) {
	c := clustertest.Start(t, cluster.Options{ACL: true, Governor: true, GovernorConfig: "gate {\n  credentials = \"delegated\"\n}\n",
		Clients: []cluster.ClientOptions{{Name: "client1", Fixture: "dgx1v", HostVolumes: map[string]string{"data": t.TempDir(), "shared": t.TempDir()}}}})
	ctx := t.Context()
	admin, err := c.API(c.NomadAddr)
	must.NoError(t, err)
	defer admin.Close()
	own, _, err := admin.ACLPolicies().Info("governor", nil)
	must.NoError(t, err)
	own.Rules += shipped(t, "governor-agent-delegated.nomad.hcl")
	_, err = admin.ACLPolicies().Upsert(own, nil)
	must.NoError(t, err)
	ml, other := tokens(t, admin)
	_, err = admin.ACLPolicies().Upsert(&api.ACLPolicy{Name: "user", Rules: shipped(t, "user-delegated.nomad.hcl")}, nil)
	must.NoError(t, err)
	_, err = admin.ACLPolicies().Upsert(&api.ACLPolicy{Name: "reader", Rules: "namespace \"default\" {\n  policy = \"read\"\n}\n"}, nil)
	must.NoError(t, err)
	nobody, _, err := admin.ACLTokens().Create(&api.ACLToken{Name: "nobody", Type: "client", Policies: []string{"reader"}}, nil)
	must.NoError(t, err)
	prices, _, _ := strings.Cut(exampleBudgets(t), "\nbudget ")
	apply(ctx, t, c, prices+budgets)
	p := &patient{Cluster: c, t: t, admin: admin}
	mine := strings.Replace(story.Job{ID: "mine", GPUs: 2, Device: "nvidia/gpu", MaxRuntime: "10m"}.HCL(), `group "g" {`, `group "g" {
    scaling {
      max = 2
    }`, 1)

	t.Run("at Nomad itself a user starts nothing", func(t *testing.T) {
		must.Eq(t, http.StatusForbidden, p.registers(ml, "around"))
	})
	t.Run("through the gate a job runs, in the gate's name and at the user's expense", func(t *testing.T) {
		file, err := c.WriteFile("mine.nomad.hcl", mine)
		must.NoError(t, err)
		planned := run(ctx, t, c, ml, "job", "plan", file)
		must.Eq(t, 1, planned.ExitCode, must.Sprint(planned.Output()))
		result := submit(ctx, t, c, ml, mine)
		must.Eq(t, 0, result.ExitCode, must.Sprint(result.Output()))
		must.StrContains(t, result.Output(), "from budget acme/ml", must.Sprint("which claims the user's role"))
		_, err = c.WaitAllocations(ctx, "mine", 1, api.AllocClientStatusRunning)
		must.NoError(t, err)
		job, _, err := admin.Jobs().Info("mine", nil)
		must.NoError(t, err)
		must.Eq(t, accessor(t, c, c.GovernorToken), *job.NomadTokenID)

		role, _, err := admin.ACLRoles().Create(&api.ACLRole{Name: "ml-interns", Policies: []*api.ACLRolePolicyLink{{Name: "user"}}}, nil)
		must.NoError(t, err)
		second, _, err := admin.ACLTokens().Create(&api.ACLToken{Name: "intern", Type: "client", Roles: []*api.ACLTokenRoleLink{{ID: role.ID}}}, nil)
		must.NoError(t, err)
		once := story.Job{ID: "once", GPUs: 1, Device: "nvidia/gpu", MaxRuntime: "10m"}.HCL()
		for _, token := range []string{ml, second.SecretID} {
			again := submit(ctx, t, c, token, once)
			must.Eq(t, 0, again.ExitCode, must.Sprint(again.Output()))
		}
		same, _, err := admin.Jobs().Info("once", nil)
		must.NoError(t, err)
		must.Eq(t, 0, *same.Version, must.Sprint("another user's submission of the same job is no new version"))
		must.NoError(t, c.StopJob(ctx, "once"))
	})
	t.Run("scaling and stopping", func(t *testing.T) {
		scaled := run(ctx, t, c, ml, "job", "scale", "-detach", "mine", "2")
		must.Eq(t, 0, scaled.ExitCode, must.Sprint(scaled.Output()))
		_, err := c.WaitAllocations(ctx, "mine", 2, api.AllocClientStatusRunning)
		must.NoError(t, err)
		stopped := run(ctx, t, c, ml, "job", "stop", "-detach", "mine")
		must.Eq(t, 0, stopped.ExitCode, must.Sprint(stopped.Output()))
	})
	t.Run("who may not plan starts nothing", func(t *testing.T) {
		result := submit(ctx, t, c, nobody.SecretID, mine)
		must.Eq(t, 1, result.ExitCode)
		must.StrContains(t, result.Output(), "it needs one of plan-job, submit-job, register-job")
		result = submit(ctx, t, c, "", mine)
		must.Eq(t, 1, result.ExitCode)
		must.StrContains(t, result.Output(), "403")
	})
	t.Run("a role without a budget", func(t *testing.T) {
		result := submit(ctx, t, c, other, mine)
		must.Eq(t, 1, result.ExitCode)
		must.StrContains(t, result.Output(), "(unmatched)")
	})
	t.Run("a job without GPUs", func(t *testing.T) {
		for token, want := range map[string]int{ml: http.StatusOK, other: http.StatusOK, nobody.SecretID: http.StatusForbidden} {
			must.Eq(t, want, p.registersBy(http.DefaultClient, c.GovernorAddr, token, "plain"))
		}
	})
	t.Run("the gate's rights to volumes are nobody else's", func(t *testing.T) {
		mounting := func(source string) string {
			return strings.Replace(strings.Replace(mine, `job "mine"`, `job "mounting"`, 1), `group "g" {`, fmt.Sprintf(`group "g" {
    volume "v" {
      type   = "host"
      source = %q
    }`, source), 1)
		}
		result := submit(ctx, t, c, ml, mounting("data"))
		must.Eq(t, 1, result.ExitCode)
		must.StrContains(t, result.Output(), `mount-readwrite for host volume "data"`)
		result = submit(ctx, t, c, ml, mounting("shared"))
		must.Eq(t, 0, result.ExitCode, must.Sprint(result.Output()))
		_, err := c.WaitAllocations(ctx, "mounting", 1, api.AllocClientStatusRunning)
		must.NoError(t, err)
		must.NoError(t, c.StopJob(ctx, "mounting"))
	})
	t.Run("the override is a right of its own", func(t *testing.T) {
		result := submit(ctx, t, c, ml, mine, "-policy-override")
		must.Eq(t, 1, result.ExitCode)
		must.StrContains(t, result.Output(), "sentinel-override")
	})
	t.Run("the doctor finds who could go around, and what it prints leaves the gate open", func(t *testing.T) {
		w, result := p.doctor(c.Token)
		must.Eq(t, -1, w.index("token_can_submit", ""), must.Sprint(result.Output()))
		p.policy("strong", `namespace "default" { policy = "write" }`, nil)
		strong, _, err := admin.ACLTokens().Create(&api.ACLToken{Name: "strong", Type: "client", Policies: []string{"strong"}}, nil)
		must.NoError(t, err)
		w, result = p.doctor(c.Token)
		i := w.index("token_can_submit", "policy strong")
		must.NotEq(t, -1, i, must.Sprint(result.Output()))
		must.Eq(t, "open", w.Findings[i].Severity)
		must.StrContains(t, w.Findings[i].Close[0], "plan-job")
		must.Eq(t, http.StatusOK, p.registersBy(http.DefaultClient, c.GovernorAddr, strong.SecretID, "plain2"))
	})
}

// accessor is that of a token.
func accessor(t *testing.T, c *cluster.Cluster, token string) string {
	t.Helper()
	client, err := c.API(c.NomadAddr)
	must.NoError(t, err)
	defer client.Close()
	client.SetSecretID(token)
	self, _, err := client.ACLTokens().Self(nil)
	must.NoError(t, err)
	return self.AccessorID
}
