package jobs_test

import (
	"archive/tar"
	"compress/gzip"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/hashicorp/nomad/api"
	"github.com/shoenig/test/must"

	"github.com/nomad-governor/governor/e2e/cluster"
	"github.com/nomad-governor/governor/e2e/clustertest"
	"github.com/nomad-governor/governor/e2e/story"
	"github.com/nomad-governor/governor/e2e/toolchain"
	"github.com/nomad-governor/governor/quotaagent/agent"
)

// sessionTTL is how long the lock of a leader that died is not free.
const sessionTTL = 10 * time.Second

// operators are the commands of who runs Governor.
type operators struct {
	*cluster.Cluster
	t *testing.T
}

// run runs the CLI at an agent, and wants an exit code.
func (o operators) run(code int, address string, args ...string) string {
	o.t.Helper()
	result, err := o.GovernorCLI(o.t.Context(), append([]string{args[0], args[1], "-address=" + address}, args[2:]...)...)
	must.NoError(o.t, err)
	must.Eq(o.t, code, result.ExitCode, must.Sprint(result.Output()))
	return result.Output()
}

// agents are all agents, as one of them knows them.
func (o operators) agents(address string) (agent.AgentsView, error) {
	var v agent.AgentsView
	result, err := o.GovernorCLI(o.t.Context(), "operator", "agents", "-address="+address, "-json")
	if err == nil {
		err = json.Unmarshal([]byte(result.Stdout), &v)
	}
	return v, err
}

// second starts another agent on the same ledger, and returns its address.
func (o operators) second(root string) string {
	o.t.Helper()
	free, err := net.Listen("tcp", "127.0.0.1:0")
	must.NoError(o.t, err)
	bind := free.Addr().String()
	must.NoError(o.t, free.Close())
	dir := o.t.TempDir()
	config := filepath.Join(dir, "agent.hcl")
	must.NoError(o.t, os.WriteFile(config, fmt.Appendf(nil, "name = \"second\"\nbind = %q\ndata_dir = %q\nnomad {\n  address = %q\n  token = %q\n}\nconsul {\n  address = %q\n}\n",
		bind, dir, o.NomadAddr, o.GovernorToken, o.ConsulAddr), 0o600))
	log, err := os.Create(filepath.Join(dir, "agent.log"))
	must.NoError(o.t, err)
	process := exec.Command(filepath.Join(root, "bin", "governor"), "agent", "-config="+config)
	process.Stdout, process.Stderr = log, log
	must.NoError(o.t, process.Start())
	o.t.Cleanup(func() {
		must.NoError(o.t, process.Process.Signal(syscall.SIGTERM))
		must.NoError(o.t, process.Wait())
		must.NoError(o.t, log.Close())
		if text, err := os.ReadFile(log.Name()); err == nil && o.t.Failed() {
			o.t.Log(string(text))
		}
	})
	return "http://" + bind
}

// TestTheLeadIsHandedOver: two agents on one Consul know each other, the one that leads
// gives the lead up, and the other one has it within the time of a session.
func TestTheLeadIsHandedOver(t *testing.T) {
	c := clustertest.Start(t, cluster.Options{Consul: true, ACL: true, Governor: true, GovernorConfig: "name = \"first\"\n",
		Clients: []cluster.ClientOptions{{Name: "client1", Fixture: "dgx1v"}}})
	root, err := toolchain.Root()
	must.NoError(t, err)
	o := operators{c, t}
	second := o.second(root)
	must.NoError(t, cluster.Poll(t.Context(), "both agents know each other", func() error {
		for _, address := range []string{c.GovernorAddr, second} {
			v, err := o.agents(address)
			if err != nil {
				return err
			}
			if len(v.Agents) != 2 || v.Agents[0].State != agent.AgentAlive || v.Agents[1].State != agent.AgentAlive || !v.Agents[0].Leader {
				return fmt.Errorf("at %s: %+v", address, v)
			}
		}
		return nil
	}))
	o.answersForAll(second)
	must.StrContains(t, o.run(1, second, "operator", "step-down"), "agent second does not lead, agent first does: ask that one, with -address="+c.GovernorAddr)

	began := time.Now()
	printed := o.run(0, c.GovernorAddr, "operator", "step-down")
	must.Less(t, sessionTTL, time.Since(began))
	must.StrContains(t, printed, "agent second leads.")
	t.Log(printed)
	t.Log("\n" + o.run(0, c.GovernorAddr, "operator", "agents"))
	for _, address := range []string{c.GovernorAddr, second} {
		must.NoError(t, cluster.Poll(t.Context(), "all say so", func() error {
			v, err := o.agents(address)
			if err != nil {
				return err
			}
			if v.Leader != "second" || len(v.Agents) != 2 || v.Agents[0].Leader || !v.Agents[1].Leader {
				return fmt.Errorf("at %s: %+v", address, v)
			}
			return nil
		}))
	}
	must.StrContains(t, o.run(0, second, "audit", "list"), "agent first was told to give the lead up")
	o.run(0, second, "audit", "verify")

	o.debugs(second)
}

// answersForAll submits a job at the agent that does not lead, and wants of both agents
// what that one has decided and what the other one has observed.
func (o operators) answersForAll(second string) {
	o.t.Helper()
	budgets, err := o.WriteFile("lab.hcl", policy)
	must.NoError(o.t, err)
	o.run(0, o.GovernorAddr, "budget", "apply", "-auto-approve", budgets)
	file, err := o.WriteFile("seen.nomad.hcl", story.Job{ID: "seen", GPUs: 2, Device: "nvidia/gpu", MaxRuntime: "10m"}.HCL())
	must.NoError(o.t, err)
	var submitted cluster.Result
	must.NoError(o.t, cluster.Poll(o.t.Context(), "the budgets are in force at the second agent", func() error {
		submitted, err = o.Nomad(o.t.Context(), second, "job", "run", "-detach", file)
		if err == nil && submitted.ExitCode != 0 {
			err = errors.New(submitted.Output())
		}
		return err
	}))
	_, err = o.WaitAllocations(o.t.Context(), "seen", 1, api.AllocClientStatusRunning)
	must.NoError(o.t, err)
	for _, address := range []string{o.GovernorAddr, second} {
		must.StrContains(o.t, o.run(0, address, "decision", "list"), "default/seen")
		must.StrContains(o.t, o.run(0, address, "decision", "show", "seen"), "by agent second")
		must.NoError(o.t, cluster.Poll(o.t.Context(), "what the leader has observed is told at "+address, func() error {
			text := o.run(0, address, "budget", "status")
			if !strings.Contains(text, "as offered") || !strings.Contains(text, "6 of 8") {
				return errors.New(text)
			}
			return nil
		}))
	}
	must.NoError(o.t, o.StopJob(o.t.Context(), "seen"))
}

// debugs looks into both agents, and wants the versions of what is there and no token.
func (o operators) debugs(second string) {
	o.t.Helper()
	file := filepath.Join(o.t.TempDir(), "governor.tar.gz")
	o.t.Log(o.run(0, o.GovernorAddr, "operator", "debug", "-output="+file, "-agent="+second))
	packed, err := os.Open(file)
	must.NoError(o.t, err)
	defer packed.Close()
	zipped, err := gzip.NewReader(packed)
	must.NoError(o.t, err)
	archive := tar.NewReader(zipped)
	files := map[string]string{}
	for {
		header, err := archive.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		must.NoError(o.t, err)
		content, err := io.ReadAll(archive)
		must.NoError(o.t, err)
		_, name, _ := strings.Cut(header.Name, "/")
		files[name] = string(content)
		for _, secret := range []string{o.Token, o.GovernorToken} {
			must.StrNotContains(o.t, string(content), secret, must.Sprint(name))
		}
	}
	must.StrContains(o.t, files["manifest.json"], `"missing": []`)
	must.StrContains(o.t, files["nomad.json"], `"version": "1.`)
	for _, name := range []string{"first", "second"} {
		must.StrContains(o.t, files["agents/"+name+"/debug.json"], `"server": "consul"`)
		must.StrContains(o.t, files["agents/"+name+"/debug.json"], `"version": "1.`)
		must.StrContains(o.t, files["agents/"+name+"/goroutines.txt"], "goroutine profile: total")
	}
}
