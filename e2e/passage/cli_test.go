package passage_test

import (
	"bufio"
	"context"
	"fmt"
	"os/exec"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/nomad/api"
	"github.com/shoenig/test/must"

	"github.com/nomad-governor/governor/e2e/cluster"
	"github.com/nomad-governor/governor/e2e/clustertest"
	"github.com/nomad-governor/governor/e2e/toolchain"
)

// spec is a job file of the CLI test; "@" is the name of the side that runs it.
const spec = `job "@NAME" {
  type = "batch"
  EXTRA
  group "g" {
    task "t" {
      driver = "exec"
      config {
        command = "/bin/sh"
        args    = ["-c", "echo hello; echo trouble >&2"]
      }
      resources {
        cpu    = 50
        memory = 32
      }
    }
  }
}
`

// readCommands print the same whichever address they ask.
var readCommands = []string{
	"status", "job status", "job status ticking", "job status -verbose done", "job status -json done", "job status nope", "job history ticking",
	"job history -p ticking", "job inspect ticking", "job inspect -hcl ticking", "job allocs ticking", "job deployments ticking", "job tag", "job validate FILE",
	"job scale nope 3", "job action -job ticking -group g -task t nope", "node status", "node status NODE", "node status -verbose NODE",
	"node meta read -node-id NODE", "node config -servers", "node pool list", "node pool info default", "node pool nodes default", "node pool jobs default",
	"alloc status ALLOC", "alloc status -verbose ALLOC", "alloc status -json ALLOC", "alloc fs ALLOC", "alloc fs ALLOC alloc/logs", "alloc fs -stat ALLOC alloc",
	"alloc fs ALLOC alloc/logs/t.stdout.0", "alloc logs ALLOC", "alloc logs -stderr ALLOC t", "alloc logs -tail -n 1 ALLOC", "alloc logs ALLOC nope",
	"alloc exec -i=false -t=false -task nope -job ticking /bin/true",
	"alloc checks ALLOC", "eval list", "eval status EVAL", "eval status -json EVAL", "deployment list", "deployment status nope", "namespace list", "namespace status default",
	"namespace inspect default", "var list", "var get nope", "acl policy list", "acl token self", "acl token list", "acl role list", "acl auth-method list",
	"acl binding-rule list", "server members", "operator raft list-peers", "operator scheduler get-config", "operator autopilot get-config", "operator root keyring list",
	"operator api /v1/jobs", "operator api /v1/status/leader", "operator api -X POST -d {\"Prefix\":\"tick\"} /v1/search", "scaling policy list", "service list", "volume status",
	"plugin status", "quota list", "recommendation list", "sentinel list", "system reconcile", "license get",
	"job plan -no-color FILE",
}

// writeCommands are run by each side on jobs and things of its own, in this order.
var writeCommands = []string{
	"job run -detach FILE", "job plan PLANNED", "job run -detach PLANNED", "job scale -detach @job g 2", "job revert -detach @job 0", "job eval -detach @job",
	"job run -detach -check-index 1 FILE", "job run PARAM", "job dispatch -detach -meta k=v @param", "job dispatch -detach -meta other=v @param", "job run CRON",
	"job periodic force -detach @cron", "job periodic force -detach @param", "job tag apply -name golden -version 0 @job", "job tag unset -name golden @job",
	"job stop -detach @job", "job start -detach @job", "job stop -detach -purge @job", "job stop -detach -purge @param", "job stop -detach -purge @cron",
	"namespace apply -description d @ns", "namespace inspect @ns", "namespace delete @ns", "node eligibility -disable NODE", "node eligibility -enable NODE",
	"var put a/@ k=v", "var put -check-index 1 a/@ k=w", "var get -item k a/@", "var purge a/@", "acl policy apply @policy POLICY", "acl policy info @policy",
	"acl token create -name @ -type client -policy @policy", "acl policy delete @policy", "alloc restart -no-shutdown-delay nope", "alloc signal nope", "alloc stop nope",
	"deployment promote nope", "deployment fail nope", "system gc", "operator scheduler set-config -memory-oversubscription=false",
}

// TestTheStockCLI runs Nomad's own CLI against Nomad and through the gate.
func TestTheStockCLI(t *testing.T) {
	c := clustertest.Start(t, cluster.Options{Governor: true, ACL: true, Clients: []cluster.ClientOptions{{Name: "client1"}}})
	ctx := t.Context()
	_, err := c.Register(ctx, c.NomadAddr, ticking)
	must.NoError(t, err)
	done := strings.NewReplacer("@NAME", "done", "EXTRA", "").Replace(spec)
	_, err = c.Register(ctx, c.NomadAddr, done)
	must.NoError(t, err)
	_, err = c.WaitAllocations(ctx, "ticking", 1, api.AllocClientStatusRunning)
	must.NoError(t, err)
	ended, err := c.WaitAllocations(ctx, "done", 1, api.AllocClientStatusComplete)
	must.NoError(t, err)
	words := []string{"NODE", c.Clients[0].NodeID, "ALLOC", ended[0].ID, "EVAL", ended[0].EvalID, "FILE", write(t, c, "done", done)}

	t.Run("reads", func(t *testing.T) {
		for _, command := range readCommands {
			sameOutput(t, c, command, arguments(command, words))
		}
	})
	t.Run("what goes on until it is stopped", func(t *testing.T) {
		follows(t, c, "line ", "alloc", "logs", "-f", "-task", "t", "-job", "ticking")
		follows(t, c, "/v1/jobs?prefix=marker", "monitor", "-log-level=debug")
		follows(t, c, `"Topic":"Job"`, "operator", "api", "/v1/event/stream?topic=Job")
	})
	t.Run("writes", func(t *testing.T) {
		direct, gated := sideWords(t, c, "direct1"), sideWords(t, c, "gated01")
		for _, command := range writeCommands {
			want, err := c.Nomad(ctx, c.NomadAddr, arguments(command, append(direct, words...))...)
			must.NoError(t, err)
			got, err := c.Nomad(ctx, c.GovernorAddr, arguments(command, append(gated, words...))...)
			must.NoError(t, err)
			if outcome(want, "direct1") != outcome(got, "gated01") {
				t.Errorf("nomad %s\ndirectly:\n%s\nthrough the gate:\n%s", command, outcome(want, "direct1"), outcome(got, "gated01"))
			}
		}
	})
}

// follows runs a command through the gate until three lines of it have a mark, and
// something goes on meanwhile.
func follows(t *testing.T, c *cluster.Cluster, mark string, args ...string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	nomad, _, err := toolchain.Find(ctx, toolchain.Nomad())
	must.NoError(t, err)
	cmd := exec.CommandContext(ctx, nomad, args...)
	cmd.Env = []string{"NOMAD_ADDR=" + c.GovernorAddr, "NOMAD_TOKEN=" + c.Token, "HOME=" + c.Dir, "NO_COLOR=1"}
	out, err := cmd.StdoutPipe()
	must.NoError(t, err)
	must.NoError(t, cmd.Start())
	defer func() { _ = cmd.Wait() }()
	defer cancel()
	happens := make(chan struct{})
	defer func() { <-happens }()
	defer cancel()
	go func() {
		defer close(happens)
		for i := 0; i < 20 && ctx.Err() == nil; i++ {
			_, _ = c.Nomad(ctx, c.NomadAddr, "operator", "api", "/v1/jobs?prefix=marker")
			_, _ = c.Register(ctx, c.NomadAddr, strings.NewReplacer("@NAME", "happens", "EXTRA", fmt.Sprintf("priority = %d", 50+i)).Replace(spec))
		}
	}()
	lines, found := bufio.NewScanner(out), 0
	lines.Buffer(nil, 8<<20)
	for found < 3 && lines.Scan() {
		if strings.Contains(lines.Text(), mark) {
			found++
		}
	}
	must.Eq(t, 3, found, must.Sprint(args))
}

func write(t *testing.T, c *cluster.Cluster, name, text string) string {
	t.Helper()
	path, err := c.WriteFile(name+".nomad.hcl", text)
	must.NoError(t, err)
	return path
}

// sideWords are the files and the name of one side.
func sideWords(t *testing.T, c *cluster.Cluster, name string) []string {
	file := func(kind, extra string) string {
		return write(t, c, name+kind, strings.NewReplacer("@NAME", name+kind, "EXTRA", extra).Replace(spec))
	}
	planned := strings.NewReplacer("@NAME", name+"job", "EXTRA", "priority = 60").Replace(spec)
	policy, err := c.WriteFile(name+"policy.hcl", `namespace "default" { policy = "read" }`)
	must.NoError(t, err)
	return []string{
		"FILE", file("job", ""), "PLANNED", write(t, c, name+"planned", planned), "PARAM", file("param", `parameterized { meta_optional = ["k"] }`),
		"CRON", file("cron", `periodic { crons = ["0 0 1 1 *"] }`), "POLICY", policy, "@", name,
	}
}

// arguments are a command's words.
func arguments(command string, words []string) []string {
	args := strings.Fields(command)
	for i, a := range args {
		args[i] = strings.NewReplacer(words...).Replace(a)
	}
	return args
}

// sameOutput asks Nomad, the gate and Nomad again, until nothing has changed between
// the first and the third.
func sameOutput(t *testing.T, c *cluster.Cluster, command string, args []string) {
	t.Helper()
	for range 10 {
		var all [3]string
		for i, address := range []string{c.NomadAddr, c.GovernorAddr, c.NomadAddr} {
			result, err := c.Nomad(t.Context(), address, args...)
			must.NoError(t, err, must.Sprint(command, " at ", address))
			all[i] = outcome(result, "")
		}
		if all[0] == all[1] {
			return
		}
		if all[0] == all[2] {
			t.Errorf("nomad %s\ndirectly:\n%s\nthrough the gate:\n%s", command, all[0], all[1])
			return
		}
	}
	t.Errorf("Nomad itself never answered twice the same: %s", command)
}

var (
	// ages and ids are new in each run of a command; columns follow their width.
	ages   = regexp.MustCompile(`\d+(h|m|s|ms)+\d*[a-z]* ago|\d{4}-\d\d-\d\d[T ]\d\d:\d\d:\d\d[^ \n"]*|\d\d:\d\d:\d\d`)
	ids    = regexp.MustCompile(`[0-9a-f]{8}(-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12})?`)
	hints  = regexp.MustCompile(`Web UI: http://[0-9.:]+`) // the address that was asked
	blanks = regexp.MustCompile(`[ \t]+|-{3,}|={3,}`)
)

// outcome is what people see of a command.
func outcome(r cluster.Result, name string) string {
	text := hints.ReplaceAllString(unordered(r.Stdout)+"\n--\n"+r.Stderr, "Web UI: <address>")
	if name == "" {
		return blanks.ReplaceAllString(ages.ReplaceAllString(text, "<when>"), " ") + exitText(r)
	}
	text = strings.ReplaceAll(text, name, "@") // each side has its own name and its own indexes
	for _, m := range []*regexp.Regexp{ages, ids, numbers, blanks} {
		text = m.ReplaceAllString(text, "<>")
	}
	return text + exitText(r)
}

func exitText(r cluster.Result) string { return "\nexit " + string(rune('0'+r.ExitCode)) }
