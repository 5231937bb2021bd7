package passage_test

import (
	"bufio"
	"bytes"
	"compress/gzip"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/nomad/api"
	"github.com/shoenig/test/must"

	"github.com/nomad-governor/governor/e2e/cluster"
	"github.com/nomad-governor/governor/e2e/clustertest"
)

// ticking writes a line every 200 ms and runs until it is stopped.
const ticking = `
# A comment that only the source has.
job "ticking" {
  type = "service"

  group "g" {
    task "t" {
      driver = "exec"

      config {
        command = "/bin/sh"
        args    = ["-c", "i=0; while true; do i=$((i+1)); echo line $i; sleep 0.2; done"]
      }
      kill_timeout = "1s"

      resources {
        cpu    = 50
        memory = 32
      }
    }
  }
}
`

func TestPassage(t *testing.T) {
	c := clustertest.Start(t, cluster.Options{Governor: true, Clients: []cluster.ClientOptions{{Name: "client1"}}})
	ctx := t.Context()
	file, err := c.WriteFile("ticking.nomad.hcl", ticking)
	must.NoError(t, err)
	result, err := c.Nomad(ctx, c.GovernorAddr, "job", "run", "-detach", file)
	must.NoError(t, err)
	must.Eq(t, 0, result.ExitCode, must.Sprint(result.Output()))
	allocations, err := c.WaitAllocations(ctx, "ticking", 1, api.AllocClientStatusRunning)
	must.NoError(t, err)

	t.Run("logs follow line by line", func(t *testing.T) { followLogs(t, c, allocations[0].ID) })
	t.Run("exec works, over a websocket", func(t *testing.T) {
		result, err := c.Nomad(ctx, c.GovernorAddr, "alloc", "exec", "-i=false", "-t=false", allocations[0].ID, "/bin/sh", "-c", "echo inside $NOMAD_TASK_NAME")
		must.NoError(t, err)
		must.Eq(t, 0, result.ExitCode, must.Sprint(result.Output()))
		must.StrContains(t, result.Stdout, "inside t")
	})
	t.Run("a blocking query waits for the change", func(t *testing.T) { blockingQuery(t, c) })
	t.Run("the event stream tells of a job at once", func(t *testing.T) { eventStream(t, c) })
	t.Run("the source of a job stays as it was written", func(t *testing.T) {
		answer := do(t, c, http.MethodGet, "/v1/job/ticking/submission?version=0", nil, nil)
		must.Eq(t, http.StatusOK, answer.status)
		var submission api.JobSubmission
		must.NoError(t, json.Unmarshal(answer.body, &submission))
		must.Eq(t, ticking, submission.Source)
	})
	refusals(t, c)
}

// followLogs checks that lines arrive while the task writes them.
func followLogs(t *testing.T, c *cluster.Cluster, alloc string) {
	stream := open(t, c.GovernorAddr+"/v1/client/fs/logs/"+alloc+"?task=t&type=stdout&follow=true&plain=true")
	lines := bufio.NewScanner(stream)
	began := time.Now()
	for i := 1; i <= 8; i++ {
		must.True(t, lines.Scan(), must.Sprint(lines.Err()))
		must.Eq(t, fmt.Sprintf("line %d", i), lines.Text())
	}
	must.Less(t, 20*time.Second, time.Since(began)) // a buffered stream would never show so few
}

// open starts a request whose answer does not end; the test's end closes it.
func open(t *testing.T, address string) io.Reader {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	t.Cleanup(cancel)
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, address, nil)
	must.NoError(t, err)
	response, err := http.DefaultClient.Do(request)
	must.NoError(t, err)
	t.Cleanup(func() { response.Body.Close() })
	must.Eq(t, http.StatusOK, response.StatusCode)
	return response.Body
}

func blockingQuery(t *testing.T, c *cluster.Cluster) {
	first := do(t, c, http.MethodGet, "/v1/jobs?prefix=second", nil, nil)
	must.NotEq(t, "", first.header.Get("X-Nomad-Index"))
	type outcome struct {
		answer answer
		err    error
		took   time.Duration
	}
	got := make(chan outcome, 1)
	began := time.Now()
	go func() {
		a, err := try(t, c, http.MethodGet, "/v1/jobs?prefix=second&wait=60s&index="+first.header.Get("X-Nomad-Index"), nil, nil)
		got <- outcome{a, err, time.Since(began)}
	}()
	select {
	case o := <-got:
		t.Fatalf("answered after %s before anything changed: %d", o.took, o.answer.status)
	case <-time.After(2 * time.Second):
	}
	must.Eq(t, http.StatusOK, register(t, c, "second", `"Type": "batch", "Meta": {"HTTP_PROXY": "a", "http_proxy": "b"}`).status)
	o := <-got
	must.NoError(t, o.err)
	must.Eq(t, http.StatusOK, o.answer.status)
	must.StrContains(t, string(o.answer.body), `"second"`)
	must.Less(t, 30*time.Second, o.took)
}

func eventStream(t *testing.T, c *cluster.Cluster) {
	stream := open(t, c.GovernorAddr+"/v1/event/stream?topic=Job:third&namespace=default")
	seen := make(chan string, 1)
	go func() {
		lines := bufio.NewScanner(stream)
		lines.Buffer(nil, 4<<20)
		for lines.Scan() {
			if strings.Contains(lines.Text(), `"Key":"third"`) {
				seen <- lines.Text()
				return
			}
		}
	}()
	must.Eq(t, http.StatusOK, register(t, c, "third", `"Type": "batch"`).status)
	select {
	case event := <-seen:
		must.StrContains(t, event, "JobRegistered")
	case <-time.After(20 * time.Second):
		t.Fatal("no event came through the gate")
	}
}

// refusals are requests that the gate answers itself, with nothing registered.
func refusals(t *testing.T, c *cluster.Cluster) {
	gpuTask := `"TaskGroups": [{"Name": "g", "Tasks": [{"Name": "t", "Driver": "exec", "Config": {"command": "/bin/true"},
		"Resources": {"Devices": [{"Name": "nvidia/gpu", "Count": 3}]}}]}]`
	job := func(id, rest string) string {
		return fmt.Sprintf(`{"Job": {"ID": %q, "Name": %q, "Type": "batch", "Datacenters": ["*"], %s}}`, id, id, rest)
	}
	var squeezed bytes.Buffer
	writer := gzip.NewWriter(&squeezed)
	_, err := writer.Write([]byte(job("gzip", gpuTask)))
	must.NoError(t, err)
	must.NoError(t, writer.Close())
	plain := job("dup", `"TaskGroups": []`)
	cases := map[string]struct {
		path, body string
		header     http.Header
		want       int
		text       string
	}{
		"a GPU job under an id with a slash": {"/v1/job/" + url.PathEscape("team/job"), job("team/job", gpuTask), nil, 403, "no budgets are applied yet"},
		"a GPU job under an id like a route": {"/v1/jobs", job("a/plan", gpuTask), nil, 403, "no budgets are applied yet"},
		"a second job that differs in case":  {"/v1/jobs", strings.TrimSuffix(plain, "}") + `, "job": ` + job("dup", gpuTask)[8:], nil, 400, "job"},
		"the same key twice":                 {"/v1/jobs", strings.Replace(plain, `"Name"`, `"ID": "dup2", "Name"`, 1), nil, 400, "ID"},
		"something after the document":       {"/v1/jobs", plain + " {}", nil, 400, ""},
		"a document that breaks off":         {"/v1/jobs", plain[:20], nil, 400, ""},
		"a compressed body":                  {"/v1/jobs", squeezed.String(), http.Header{"Content-Encoding": {"gzip"}}, 415, "gzip"},
		"a body over 32 MiB":                 {"/v1/jobs", job("huge", `"Meta": {"x": "`+strings.Repeat("x", 33<<20)+`"}`), nil, 413, "32"},
		"a write that nobody knows":          {"/v1/tomorrow", `{}`, nil, 403, "does not know"},
		"a periodic GPU job":                 {"/v1/jobs", job("cron", `"Periodic": {"Enabled": true, "Spec": "* * * * *", "SpecType": "cron"}, `+gpuTask), nil, 403, ""},
	}
	for name, test := range cases {
		t.Run("refused: "+name, func(t *testing.T) {
			answer := do(t, c, http.MethodPut, test.path, strings.NewReader(test.body), test.header)
			must.Eq(t, test.want, answer.status, must.Sprint(string(answer.body)))
			must.StrContains(t, string(answer.body), test.text)
		})
	}
	t.Run("nothing of all that was registered", func(t *testing.T) {
		var jobs []*api.JobListStub
		must.NoError(t, json.Unmarshal(do(t, c, http.MethodGet, "/v1/jobs", nil, nil).body, &jobs))
		var ids []string
		for _, j := range jobs {
			ids = append(ids, j.ID)
		}
		must.SliceContainsAll(t, []string{"second", "third", "ticking"}, ids)
	})
	t.Run("a chunked body with fields of the future registers", func(t *testing.T) {
		body := io.MultiReader(strings.NewReader(`{"Future": [1.50], "Job": {"ID": "chunked", "Name": "chunked", "Type": "batch", "Datacenters": ["*"], `),
			strings.NewReader(cpuGroup+`, "AlsoNew": {"a": 1}}}`)) // no length: sent in chunks
		must.Eq(t, http.StatusOK, do(t, c, http.MethodPost, "/v1/jobs", body, nil).status)
	})
}

const cpuGroup = `"TaskGroups": [{"Name": "g", "Tasks": [{"Name": "t", "Driver": "exec", "Config": {"command": "/bin/true"}}]}]`

// register puts a CPU job with further attributes.
func register(t *testing.T, c *cluster.Cluster, id, attributes string) answer {
	t.Helper()
	return do(t, c, http.MethodPut, "/v1/jobs", strings.NewReader(fmt.Sprintf(
		`{"Job": {"ID": %q, "Name": %q, "Datacenters": ["*"], %s, %s}}`, id, id, attributes, cpuGroup)), nil)
}

type answer struct {
	status int
	header http.Header
	body   []byte
}

func do(t *testing.T, c *cluster.Cluster, method, path string, body io.Reader, header http.Header) answer {
	t.Helper()
	a, err := try(t, c, method, path, body, header)
	must.NoError(t, err)
	return a
}

// try is do for other goroutines than the test's own.
func try(t *testing.T, c *cluster.Cluster, method, path string, body io.Reader, header http.Header) (answer, error) {
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	request, err := http.NewRequestWithContext(ctx, method, c.GovernorAddr+path, body)
	if err != nil {
		return answer{}, err
	}
	for name, values := range header {
		request.Header[name] = values
	}
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		return answer{}, err
	}
	defer response.Body.Close()
	all, err := io.ReadAll(response.Body)
	return answer{response.StatusCode, response.Header, all}, err
}
