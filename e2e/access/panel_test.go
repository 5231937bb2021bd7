package access_test

import (
	"net/http"
	"strings"
	"testing"

	"github.com/hashicorp/nomad/api"
	"github.com/shoenig/test/must"

	"github.com/nomad-governor/governor/e2e/cluster"
)

// panelShows checks that the panel on Nomad's pages shows a job to whom Nomad does, and to
// nobody else.
func panelShows(t *testing.T, c *cluster.Cluster, admin *api.Client, ml, alloc string) {
	_, err := admin.ACLPolicies().Upsert(&api.ACLPolicy{Name: "elsewhere", Rules: "namespace \"elsewhere\" {\n  policy = \"read\"\n}\n"}, nil)
	must.NoError(t, err)
	stranger, _, err := admin.ACLTokens().Create(&api.ACLToken{Name: "stranger", Type: "client", Policies: []string{"elsewhere"}}, nil)
	must.NoError(t, err)
	for _, question := range []string{"job?job=mine", "allocation?id=" + alloc} {
		for token, want := range map[string]int{ml: http.StatusOK, c.Token: http.StatusOK, stranger.SecretID: http.StatusNotFound, "": http.StatusForbidden} {
			r, err := http.NewRequestWithContext(t.Context(), http.MethodGet, c.GovernorAddr+"/governor/v1/panel/"+question, http.NoBody)
			must.NoError(t, err)
			r.Header.Set("X-Nomad-Token", token)
			answer, err := http.DefaultClient.Do(r)
			must.NoError(t, err)
			text := new(strings.Builder)
			must.NoError(t, answer.Write(text))
			must.NoError(t, answer.Body.Close())
			must.EqOp(t, want, answer.StatusCode, must.Sprint(question, text))
			must.EqOp(t, want == http.StatusOK, strings.Contains(text.String(), "acme/ml"), must.Sprint(question, text))
		}
	}
	cliShows(t, c, ml, stranger.SecretID)
}

// cliShows checks the same of the command line: budgets are for all, the job is for who
// may read it in Nomad.
func cliShows(t *testing.T, c *cluster.Cluster, ml, stranger string) {
	for _, command := range []string{"budget status", "decision list", "topology client1"} {
		for _, token := range []string{ml, c.Token, stranger} {
			result := governor(t.Context(), t, c, token, strings.Fields(command)...)
			must.EqOp(t, 0, result.ExitCode, must.Sprint(result.Output()))
			must.EqOp(t, token != stranger, strings.Contains(result.Output(), "default/mine"), must.Sprint(command, result.Output()))
		}
	}
	must.StrContains(t, governor(t.Context(), t, c, stranger, "budget", "status").Output(), "acme/ml")
	must.StrContains(t, governor(t.Context(), t, c, stranger, "topology", "client1").Output(), "(a job of another namespace)")
	refused := governor(t.Context(), t, c, stranger, "job", "why", "mine")
	must.EqOp(t, 1, refused.ExitCode)
	must.StrContains(t, refused.Output(), `your token may not read the jobs of namespace "default"`)
}
