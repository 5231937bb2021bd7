package access_test

import (
	"context"
	"encoding/base64"
	"fmt"
	"io"
	"net"
	"net/http"
	"path/filepath"
	"strings"
	"testing"

	"github.com/hashicorp/nomad/api"
	"github.com/shoenig/test/must"

	"github.com/nomad-governor/governor/e2e/cluster"
	"github.com/nomad-governor/governor/e2e/story"
)

// withIdentity has the task of a job find its own identity in NOMAD_TOKEN.
func withIdentity(job story.Job) string {
	return strings.Replace(job.HCL(), `driver = "exec"`, "driver = \"exec\"\n      identity {\n        env  = true\n        file = true\n      }", 1)
}

// letSubmit binds the right to submit jobs to the tasks of a job.
func letSubmit(t *testing.T, admin *api.Client, job string) {
	t.Helper()
	_, err := admin.ACLPolicies().Upsert(&api.ACLPolicy{Name: job + "-submits", Rules: "namespace \"default\" {\n  policy = \"write\"\n}\n",
		JobACL: &api.JobACL{Namespace: "default", JobID: job}}, nil)
	must.NoError(t, err)
}

// identityOf is what the task of a job finds, and the socket of its Task API.
func identityOf(ctx context.Context, t *testing.T, c *cluster.Cluster, job string) (token, socket string) {
	t.Helper()
	allocations, err := c.WaitAllocations(ctx, job, 1, api.AllocClientStatusRunning)
	must.NoError(t, err)
	must.NoError(t, cluster.Poll(ctx, "the task prints its environment", func() error {
		env, err := c.TaskEnv(ctx, allocations[0].ID, "t")
		if token = env["NOMAD_TOKEN"]; err == nil && token == "" {
			err = fmt.Errorf("no NOMAD_TOKEN yet")
		}
		return err
	}))
	found, err := filepath.Glob(filepath.Join(c.Dir, "*", "alloc", allocations[0].ID, "t", "secrets", "api.sock"))
	must.NoError(t, err)
	must.Len(t, 1, found)
	return token, found[0]
}

// register registers a GPU job with a token in the header.
func register(ctx context.Context, t *testing.T, client *http.Client, address, token, id string) (int, string) {
	t.Helper()
	body := fmt.Sprintf(`{"Job": {"ID": %q, "Name": %q, "Type": "batch", "Datacenters": ["*"], "TaskGroups": [{"Name": "g",
		"Tasks": [{"Name": "t", "Driver": "exec", "Config": {"command": "/bin/sleep", "args": ["600"]},
		"Resources": {"CPU": 50, "MemoryMB": 32, "Devices": [{"Name": "nvidia/gpu", "Count": 1}]}}]}]}}`, id, id)
	request, err := http.NewRequestWithContext(ctx, http.MethodPut, address+"/v1/jobs", strings.NewReader(body))
	must.NoError(t, err)
	request.Header.Set("X-Nomad-Token", token)
	response, err := client.Do(request)
	must.NoError(t, err)
	defer response.Body.Close()
	answer, err := io.ReadAll(response.Body)
	must.NoError(t, err)
	return response.StatusCode, string(answer)
}

// tasks have jobs submitted by tasks with their own identities.
func tasks(ctx context.Context, t *testing.T, c *cluster.Cluster, admin *api.Client, prices, ml, other string) {
	apply(ctx, t, c, prices+budgets)
	letSubmit(t, admin, "parent")
	started := submit(ctx, t, c, ml, withIdentity(story.Job{ID: "parent", GPUs: 1, Device: "nvidia/gpu", MaxRuntime: "10m"}))
	must.Eq(t, 0, started.ExitCode, must.Sprint(started.Output()))
	token, socket := identityOf(ctx, t, c, "parent")

	t.Run("a task pays from the budget of its job", func(t *testing.T) {
		status, answer := register(ctx, t, http.DefaultClient, c.GovernorAddr, token, "step")
		must.Eq(t, http.StatusOK, status, must.Sprint(answer))
		must.StrContains(t, answer, "from budget acme/ml")
		_, err := c.WaitAllocations(ctx, "step", 1, api.AllocClientStatusRunning)
		must.NoError(t, err)
	})
	t.Run("a task of a job that no budget knows goes by its own name", func(t *testing.T) {
		letSubmit(t, admin, "plain")
		started := submit(ctx, t, c, other, withIdentity(story.Job{ID: "plain"}))
		must.Eq(t, 0, started.ExitCode, must.Sprint(started.Output()))
		plain, _ := identityOf(ctx, t, c, "plain")
		status, answer := register(ctx, t, http.DefaultClient, c.GovernorAddr, plain, "fromplain")
		must.Eq(t, http.StatusForbidden, status)
		must.StrContains(t, answer, "(unmatched)")
		must.StrContains(t, answer, "workload:default/plain")
		apply(ctx, t, c, prices+strings.Replace(budgets, `"role:ml-*"`, `"role:ml-*", "workload:default/plain"`, 1))
		status, answer = register(ctx, t, http.DefaultClient, c.GovernorAddr, plain, "fromplain")
		must.Eq(t, http.StatusOK, status, must.Sprint(answer))
		must.NoError(t, c.StopJob(ctx, "fromplain"))
		must.NoError(t, c.StopJob(ctx, "plain"))
	})
	t.Run("claims that nobody has signed", func(t *testing.T) {
		parts := strings.Split(token, ".")
		claims, err := base64.RawURLEncoding.DecodeString(parts[1])
		must.NoError(t, err)
		parts[1] = base64.RawURLEncoding.EncodeToString([]byte(strings.Replace(string(claims), `"parent"`, `"plain"`, 1)))
		status, answer := register(ctx, t, http.DefaultClient, c.GovernorAddr, strings.Join(parts, "."), "forged")
		must.NotEq(t, http.StatusOK, status, must.Sprint(answer))
		must.False(t, registered(t, admin, "forged"))
	})
	t.Run("the task API is outside the gate", func(t *testing.T) {
		client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true, DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return (&net.Dialer{}).DialContext(ctx, "unix", socket)
		}}}
		status, answer := register(ctx, t, client, "http://task", token, "outside")
		must.Eq(t, http.StatusOK, status, must.Sprint(answer))
		must.StrNotContains(t, answer, "from budget")
		// Nomad writes no token into the job, so that nobody can say whose it is.
		must.NoError(t, cluster.Poll(ctx, "no budget pays for it, and the leader stops it", func() error {
			job, _, err := admin.Jobs().Info("outside", nil)
			if err == nil && !*job.Stop {
				err = fmt.Errorf("it is still %s", *job.Status)
			}
			return err
		}))
	})
	t.Run("an identity ends with its allocation", func(t *testing.T) {
		must.NoError(t, c.StopJob(ctx, "step"))
		must.NoError(t, c.StopJob(ctx, "parent"))
		status, answer := register(ctx, t, http.DefaultClient, c.GovernorAddr, token, "late")
		must.NotEq(t, http.StatusOK, status, must.Sprint(answer))
		must.False(t, registered(t, admin, "late"))
	})
}
