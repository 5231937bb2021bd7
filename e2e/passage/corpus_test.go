package passage_test

import (
	"bufio"
	"bytes"
	"compress/gzip"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/nomad/api"
	"github.com/shoenig/test/must"

	"github.com/nomad-governor/governor/e2e/cluster"
	"github.com/nomad-governor/governor/e2e/clustertest"
)

// corpusBudgets have room for one GPU.
var corpusBudgets = strings.Replace(benchBudgets, "  per_job {", `  concurrent {
    gpus = 1
  }

  per_job {`, 1)

// corpus is a cluster on which somebody tries to get four GPUs.
type corpus struct {
	*cluster.Cluster
	t     *testing.T
	admin *api.Client
	other string // the other namespace, which no budget claims
}

// task is a task with so many GPUs and further attributes.
func task(gpus int, more string) string {
	devices := ""
	if gpus > 0 {
		devices = fmt.Sprintf(`, "Resources": {"Devices": [{"Name": "nvidia/gpu", "Count": %d}]}`, gpus)
	}
	if more == "" {
		more = `"Driver": "exec", "Config": {"command": "/bin/sleep", "args": ["600"]}`
	}
	return `{"Name": "t", ` + more + devices + `}`
}

func group(count int, task string) string {
	return fmt.Sprintf(`"TaskGroups": [{"Name": "g", "Count": %d, "Tasks": [%s]}]`, count, task)
}

func jobOf(id, kind, groups string) string {
	return fmt.Sprintf(`{"ID": %q, "Name": %q, "Type": %q, "Datacenters": ["*"], %s}`, id, id, kind, groups)
}

// four is a job that asks for four GPUs.
func four(id string) string { return jobOf(id, "batch", group(1, task(4, ""))) }

func request(line, token, body string, headers ...string) string {
	text := line + " HTTP/1.1\r\nHost: nomad\r\nX-Nomad-Token: " + token + "\r\nConnection: close\r\n" + strings.Join(headers, "")
	return text + fmt.Sprintf("Content-Length: %d\r\n\r\n%s", len(body), body)
}

// answered is one answer of the gate.
type answered struct {
	code         int
	reason, text string
}

// send writes raw bytes to the gate and returns its answers until it closes.
func (c *corpus) send(raw string) []answered {
	c.t.Helper()
	conn, err := net.Dial("tcp", strings.TrimPrefix(c.GovernorAddr, "http://"))
	must.NoError(c.t, err)
	defer conn.Close()
	must.NoError(c.t, conn.SetDeadline(time.Now().Add(20*time.Second)))
	_, err = io.WriteString(conn, raw)
	must.NoError(c.t, err)
	var answers []answered
	for reader := bufio.NewReader(conn); ; {
		answer, err := http.ReadResponse(reader, nil)
		if err != nil {
			return answers
		}
		body, _ := io.ReadAll(answer.Body)
		must.NoError(c.t, answer.Body.Close())
		answers = append(answers, answered{answer.StatusCode, answer.Header.Get("X-Governor-Reason"), strings.TrimSpace(string(body))})
	}
}

// gpusRegistered is the most GPUs that any job of Nomad asks for that would run.
func (c *corpus) gpusRegistered() (most int, which string) {
	c.t.Helper()
	stubs, _, err := c.admin.Jobs().List(&api.QueryOptions{Namespace: "*"})
	must.NoError(c.t, err)
	for _, stub := range stubs {
		versions, _, _, err := c.admin.Jobs().Versions(stub.ID, false, &api.QueryOptions{Namespace: stub.Namespace})
		must.NoError(c.t, err)
		job := versions[0]
		if job.IsParameterized() || job.IsPeriodic() || *job.Stop {
			continue
		}
		gpus := 0
		for _, g := range job.TaskGroups {
			for _, t := range g.Tasks {
				for _, d := range t.Resources.Devices {
					gpus += *g.Count * int(*d.Count)
				}
			}
		}
		if gpus > most {
			most, which = gpus, stub.Namespace+"/"+stub.ID
		}
	}
	return most, which
}

// wire are requests that hide what they ask for: Nomad and the gate must not read them
// differently.
func (c *corpus) wire() map[string]string {
	token := c.Token
	body := func(job string) string { return `{"Job": ` + job + `}` }
	put := func(target, body string, headers ...string) string {
		return request("PUT "+target, token, body, headers...)
	}
	cpu := jobOf("cpu", "batch", group(1, task(0, "")))
	swap := func(old, with string) string { return strings.ReplaceAll(body(four("hidden")), old, with) }
	chunked := "PUT /v1/jobs HTTP/1.1\r\nHost: nomad\r\nConnection: close\r\nX-Nomad-Token: " + token + "\r\nTransfer-Encoding: chunked\r\n"
	chunk := fmt.Sprintf("\r\n%x\r\n%s\r\n0\r\n\r\n", len(body(four("chunked"))), body(four("chunked")))
	var zipped bytes.Buffer
	z := gzip.NewWriter(&zipped)
	_, _ = z.Write([]byte(body(four("zipped"))))
	_ = z.Close()
	return map[string]string{
		"register":                          put("/v1/jobs", body(four("plain"))),
		"register by POST":                  request("POST /v1/jobs", token, body(four("post"))),
		"register by the job's address":     put("/v1/job/named", body(four("named"))),
		"a slash in the id":                 put("/v1/job/a/b", body(four("a/b"))),
		"an escaped slash in the id":        put("/v1/job/a%2Fc", body(four("a/c"))),
		"an id that ends like a route":      put("/v1/jobs", body(four("train/scale"))),
		"an id like a plan":                 put("/v1/jobs", body(four("x/plan"))),
		"an address with an escaped letter": put("/v1/%6aobs", body(four("escaped"))),
		"two slashes":                       put("//v1/jobs", body(four("slashes"))),
		"two slashes within":                put("/v1//jobs", body(four("within"))),
		"dots":                              put("/v1/x/../jobs", body(four("dots"))),
		"a trailing slash":                  put("/v1/jobs/", body(four("trailing"))),
		"a whole address":                   put("http://nomad/v1/jobs", body(four("whole"))),
		"an opaque address":                 put("http:v1/jobs", body(four("opaque"))),
		"a query that names a namespace":    put("/v1/jobs?namespace="+c.other, body(four("other"))),
		"a namespace in the job":            put("/v1/jobs", strings.Replace(body(four("injob")), `"Type"`, `"Namespace": "`+c.other+`", "Type"`, 1)),
		"a namespace in the body":           put("/v1/jobs", `{"Namespace": "`+c.other+`", "Job": `+four("inbody")+`}`),
		"a region":                          put("/v1/jobs?region=elsewhere", body(four("region"))),
		"a region in the body":              put("/v1/jobs", `{"Region": "elsewhere", "Job": `+four("region2")+`}`),
		"keys in lower case":                put("/v1/jobs", strings.ToLower(body(four("lower")))),
		"keys in upper case":                put("/v1/jobs", strings.NewReplacer(`"Job"`, `"JOB"`, `"TaskGroups"`, `"TASKGROUPS"`, `"Devices"`, `"DEVICES"`).Replace(body(four("upper")))),
		"a key with a long s":               put("/v1/jobs", swap(`"TaskGroups"`, `"Taſkgroups"`)),
		"a key with the kelvin sign":        put("/v1/jobs", swap(`"TaskGroups"`, `"Tas`+"\u212a"+`groups"`)),
		"an escaped key":                    put("/v1/jobs", swap(`"Devices"`, `"\u0044evices"`)),
		"two jobs":                          put("/v1/jobs", `{"Job": `+cpu+`, "Job": `+four("two")+`}`),
		"two jobs in two cases":             put("/v1/jobs", `{"Job": `+cpu+`, "job": `+four("cases")+`}`),
		"two counts":                        put("/v1/jobs", swap(`"Count": 4`, `"Count": 1, "count": 4`)),
		"a second document":                 put("/v1/jobs", body(cpu)+body(four("second"))),
		"a number with an exponent":         put("/v1/jobs", swap(`"Count": 4`, `"Count": 4e0`)),
		"chunks":                            chunked + chunk,
		"chunks and a length":               chunked + "Content-Length: 5\r\n" + chunk,
		"two lengths":                       request("PUT /v1/jobs", token, body(four("lengths")), "Content-Length: 5\r\n"),
		"a compressed body":                 put("/v1/jobs", zipped.String(), "Content-Encoding: gzip\r\n"),
		"another method in a header":        request("GET /v1/jobs", token, body(four("override")), "X-HTTP-Method-Override: PUT\r\n"),
		"an upgrade":                        put("/v1/jobs", body(four("upgrade")), "Upgrade: websocket\r\n"),
		"an unknown method":                 request("PATCH /v1/jobs", token, body(four("patch"))),
		"an unknown address":                put("/v1/jobs2", body(four("future"))),
		"a second request behind a read": "GET /v1/status/leader HTTP/1.1\r\nHost: nomad\r\n\r\n" +
			put("/v1/jobs", body(four("behind"))),
		"a token in the body": strings.Replace(put("/v1/jobs", `{"SecretID": "`+token+`", "Job": `+four("inbody2")+`}`), "X-Nomad-Token: "+token+"\r\n", "", 1),
		"a bearer token":      strings.Replace(put("/v1/jobs", body(four("bearer"))), "X-Nomad-Token: ", "Authorization: Bearer ", 1),
		"a scale":             put("/v1/job/one/scale", `{"Count": 4, "Target": {"Group": "g"}}`),
		"a scale in lower":    put("/v1/job/one/scale", `{"count": 4, "target": {"Group": "g"}}`),
		"two counts to scale": put("/v1/job/one/scale", `{"Count": 1, "Count": 4, "Target": {"Group": "g"}}`),
		"a dispatch":          put("/v1/job/template/dispatch", `{}`),
		"a dispatch payload":  put("/v1/job/template/dispatch/payload", "\x00"),
		"a forced launch":     put("/v1/job/cron/periodic/force", ""),
		"a forced launch 2":   request("POST /v1/job/cron/periodic/force", token, ""),
	}
}

// jobs are jobs that reach GPUs in another way than by asking for four.
func (c *corpus) jobs() map[string]string {
	env := func(name, value string) string {
		return fmt.Sprintf(`"Driver": "exec", "Config": {"command": "/bin/true"}, "Env": {%q: %q}`, name, value)
	}
	docker := func(config string) string { return `"Driver": "docker", "Config": {"image": "x", ` + config + `}` }
	return map[string]string{
		"a count":                    jobOf("count", "batch", group(4, task(1, ""))),
		"a service":                  jobOf("service", "service", group(4, task(1, ""))),
		"a system job":               jobOf("system", "system", group(1, task(4, ""))),
		"a sysbatch job":             jobOf("sysbatch", "sysbatch", group(1, task(4, ""))),
		"a type":                     strings.Replace(four("type"), `"nvidia/gpu"`, `"gpu"`, 1),
		"a model":                    strings.Replace(four("model"), `"nvidia/gpu"`, `"nvidia/gpu/Tesla V100-SXM2-16GB"`, 1),
		"two asks":                   strings.Replace(four("asks"), `{"Name": "nvidia/gpu", "Count": 4}`, `{"Name": "nvidia/gpu", "Count": 2}, {"Name": "nvidia/gpu", "Count": 2}`, 1),
		"two tasks":                  jobOf("tasks", "batch", group(1, task(2, "")+", "+strings.Replace(task(2, ""), `"t"`, `"u"`, 1))),
		"a prestart task":            strings.Replace(four("prestart"), `"Name": "t"`, `"Name": "t", "Lifecycle": {"Hook": "prestart"}`, 1),
		"the variable of the driver": jobOf("env", "batch", group(1, task(0, env("NVIDIA_VISIBLE_DEVICES", "all")))),
		"a template that is its environment": jobOf("tmpl", "batch", group(1, task(0, `"Driver": "exec", "Config": {"command": "/bin/true"},
			"Templates": [{"EmbeddedTmpl": "NVIDIA_VISIBLE_DEVICES=all", "DestPath": "local/e", "Envvars": true}]`))),
		"docker: the runtime":        jobOf("runtime", "batch", group(1, task(0, docker(`"runtime": "nvidia"`)))),
		"docker: privileged":         jobOf("privileged", "batch", group(1, task(0, docker(`"privileged": true`)))),
		"docker: a device":           jobOf("device", "batch", group(1, task(0, docker(`"devices": [{"host_path": "/dev/nvidia0"}]`)))),
		"docker: all of /dev":        jobOf("dev", "batch", group(1, task(0, docker(`"volumes": ["/dev:/dev"]`)))),
		"one GPU and all the others": jobOf("more", "batch", group(1, strings.Replace(task(1, ""), `"Driver"`, `"Env": {"NVIDIA_VISIBLE_DEVICES": "all"}, "Driver"`, 1))),
	}
}

// TestBypassCorpus sends every way to hide or to reach GPUs that is known through the
// gate, in front of a budget with room for one: each is refused, and nothing with more
// than that is registered. What goes around the gate is in e2e/ledger and e2e/access.
func TestBypassCorpus(t *testing.T) {
	cl := clustertest.Start(t, cluster.Options{ACL: true, Governor: true, Clients: []cluster.ClientOptions{{Name: "client1", Fixture: "dgx1v"}}})
	admin, err := cl.API(cl.NomadAddr)
	must.NoError(t, err)
	defer admin.Close()
	c := &corpus{Cluster: cl, t: t, admin: admin, other: "other"}
	_, err = admin.Namespaces().Register(&api.Namespace{Name: c.other}, nil)
	must.NoError(t, err)
	file, err := c.WriteFile("corpus.hcl", corpusBudgets)
	must.NoError(t, err)
	applied, err := c.GovernorCLI(t.Context(), "budget", "apply", "-auto-approve", file)
	must.NoError(t, err)
	must.Eq(t, 0, applied.ExitCode, must.Sprint(applied.Output()))
	c.templates(t.Context())

	for name, raw := range c.wire() {
		t.Run(name, func(t *testing.T) { c.refused(t, raw) })
	}
	for name, job := range c.jobs() {
		t.Run(name, func(t *testing.T) { c.refused(t, request("PUT /v1/jobs", c.Token, `{"Job": `+job+`}`)) })
	}
}

// templates registers a job with one GPU, and two templates for four: those run
// nothing, and are around the gate because it would refuse them.
func (c *corpus) templates(ctx context.Context) {
	for _, job := range []string{
		jobOf("one", "batch", group(1, task(1, ""))),
		strings.Replace(four("template"), `"Type"`, `"ParameterizedJob": {"Payload": "optional"}, "Type"`, 1),
		strings.Replace(four("cron"), `"Type"`, `"Periodic": {"Enabled": true, "Spec": "0 0 1 1 *", "SpecType": "cron"}, "Type"`, 1),
	} {
		address := c.NomadAddr
		if strings.Contains(job, `"one"`) {
			address = c.GovernorAddr
		}
		r, err := http.NewRequestWithContext(ctx, http.MethodPut, address+"/v1/jobs", strings.NewReader(`{"Job": `+job+`}`))
		must.NoError(c.t, err)
		r.Header.Set("X-Nomad-Token", c.Token)
		answer, err := http.DefaultClient.Do(r)
		must.NoError(c.t, err)
		body, _ := io.ReadAll(answer.Body)
		must.NoError(c.t, answer.Body.Close())
		must.Eq(c.t, http.StatusOK, answer.StatusCode, must.Sprint(string(body)))
	}
}

// refused sends raw bytes: the last answer is no success, unless it is that of a read,
// and no job with more than one GPU came of it.
func (c *corpus) refused(t *testing.T, raw string) {
	before, err := json.Marshal(c.ids())
	must.NoError(t, err)
	answers := c.send(raw)
	must.SliceNotEmpty(t, answers)
	last := answers[len(answers)-1]
	t.Logf("%d %s %.160s", last.code, last.reason, last.text)
	if !strings.HasPrefix(raw, "GET /v1/jobs ") {
		must.GreaterEq(t, 300, last.code, must.Sprint(last.text))
	}
	after, err := json.Marshal(c.ids())
	must.NoError(t, err)
	must.Eq(t, string(before), string(after), must.Sprint("no job came of it"))
	most, which := c.gpusRegistered()
	must.LessEq(t, 1, most, must.Sprint(which))
}

// ids are the jobs that Nomad has.
func (c *corpus) ids() []string {
	stubs, _, err := c.admin.Jobs().List(&api.QueryOptions{Namespace: "*"})
	must.NoError(c.t, err)
	out := make([]string, 0, len(stubs))
	for _, s := range stubs {
		out = append(out, s.Namespace+"/"+s.ID)
	}
	return out
}
