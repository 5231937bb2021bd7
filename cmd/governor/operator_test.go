package main

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/nomad-governor/governor/quotaagent/agent"
	"github.com/shoenig/test/must"
)

// canary is a secret that must not be found anywhere.
func canary(of string) string { return "canary-" + of + "-5f1d8a4c2b9e" }

// canaryPolicy tells somebody at an address that is a secret itself.
const canaryPolicy = `
governor {
  currency = "USD"
}
notify "webhook" "room" {
  url = "https://hooks.example/services/canary-path?key=canary-query"
}
gpu_class "h100" {
  devices = ["nvidia/gpu/NVIDIA H100 80GB HBM3"]
}
rate_card "2026" {
  effective_from = "2026-01-01T00:00:00Z"

  gpu "h100" { per_hour = 3.60 }
}
budget "acme" {
  match {
    namespaces = ["default"]
  }
  limit "month" {
    cost = 100
  }
  alert "soon" {
    when   = forecast.cost > limit.cost
    notify = [notify.webhook.room]
  }
}
`

// opened are the files of an archive, without its folder.
func opened(t *testing.T, file string) map[string][]byte {
	t.Helper()
	packed, err := os.Open(file)
	must.NoError(t, err)
	defer packed.Close()
	zipped, err := gzip.NewReader(packed)
	must.NoError(t, err)
	archive := tar.NewReader(zipped)
	out := map[string][]byte{}
	for {
		header, err := archive.Next()
		if errors.Is(err, io.EOF) {
			return out
		}
		must.NoError(t, err)
		must.Eq(t, 0o600, header.Mode)
		content, err := io.ReadAll(archive)
		must.NoError(t, err)
		folder, name, _ := strings.Cut(header.Name, "/")
		must.StrHasPrefix(t, "governor-debug-", folder)
		out[name] = content
	}
}

// TestNoSecretIsInADebugBundle: the agent has secrets in its configuration, whoever asks
// has a token, and the policy has an address that is one.
func TestNoSecretIsInADebugBundle(t *testing.T) {
	t.Parallel()
	address := startAgent(t, goStage{t}, "-canary")
	var stdout, stderr bytes.Buffer
	env := environment{ctx: t.Context(), stdout: &stdout, stderr: &stderr, getenv: func(name string) string {
		return map[string]string{envAddress: address, envToken: canary("operator"), "CONSUL_HTTP_TOKEN": canary("consul-of-operator")}[name]
	}}
	policy := filepath.Join(t.TempDir(), "acme.hcl")
	must.NoError(t, os.WriteFile(policy, []byte(canaryPolicy), 0o600))
	must.EqOp(t, 0, applyCommand(env).run([]string{"-auto-approve", policy}), must.Sprint(&stderr))
	stdout.Reset()
	file := filepath.Join(t.TempDir(), "governor.tar.gz")
	must.EqOp(t, 0, operatorDebugCommand(env).run([]string{"-output=" + file, "-agent=" + address}), must.Sprint(&stderr))

	info, err := os.Stat(file)
	must.NoError(t, err)
	must.Eq(t, 0o600, info.Mode().Perm())
	files := opened(t, file)
	must.MapContainsKeys(t, files, []string{"manifest.json", "agents/test/debug.json", "agents/test-2/debug.json", "agents/test/heap.pprof", "policy.json", "policy/acme.hcl"})
	for name, content := range files {
		must.StrNotContains(t, string(content), "canary", must.Sprint(name))
		for _, encoded := range regexp.MustCompile(`[A-Za-z0-9+/]{16,}={0,2}`).FindAllString(string(content), -1) {
			decoded, _ := base64.StdEncoding.DecodeString(encoded)
			must.StrNotContains(t, string(decoded), "canary", must.Sprint(name))
		}
		if path.Ext(name) == ".pprof" {
			zipped, err := gzip.NewReader(bytes.NewReader(content))
			must.NoError(t, err)
			profile, err := io.ReadAll(zipped)
			must.NoError(t, err)
			must.StrNotContains(t, string(profile), "canary-", must.Sprint(name))
		}
	}
	must.StrContains(t, string(files["policy/acme.hcl"]), `url = "https://hooks.example/<redacted>"`)
	must.StrContains(t, string(files["agents/test/debug.json"]), `"webhook_key": "<redacted>"`)
	must.StrNotContains(t, stdout.String()+stderr.String(), "canary")

	var m bundleManifest
	must.NoError(t, json.Unmarshal(files[manifestName], &m))
	must.Eq(t, len(files)-1, len(m.Files))
	for _, one := range m.Files {
		must.Eq(t, len(files[one.Name]), one.Bytes, must.Sprint(one.Name))
	}
}

func TestAnInterruptedBundleIsNotWritten(t *testing.T) {
	t.Parallel()
	ctx, interrupt := context.WithCancel(t.Context())
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/governor/v1/queue" {
			interrupt()
		}
		_, _ = w.Write([]byte(`{}`))
	}))
	t.Cleanup(server.Close)
	env, stdout, stderr := silent(server.URL)
	env.ctx = ctx
	file := filepath.Join(t.TempDir(), "governor.tar.gz")
	must.EqOp(t, 1, operatorDebugCommand(env).run([]string{"-output=" + file}))
	must.Eq(t, "", stdout.String())
	must.Eq(t, "Error: interrupted before everything was asked for; nothing was written\n", stderr.String())
	_, err := os.Stat(file)
	must.ErrorIs(t, err, os.ErrNotExist)
}

func TestABundleIsTheSameForTheSame(t *testing.T) {
	t.Parallel()
	pack := func() []byte {
		b := newBundle(now.Add(500*time.Millisecond), "http://me:secret@10.0.0.5:4640", "1.2.3", "", "s.3cr3t")
		b.add("b.json", []byte(`{"url": "http://10.0.0.5:4640", "hook": "https://a.example:8443/x?key=1#y", "also": "https://u:p@b.example/", "token": "s.3cr3t"}`), nil)
		b.add("a/b.txt", []byte("s.3cr3t"), nil)
		b.add("c.json", nil, errors.New("the token s.3cr3t is not good at http://u:p@c.example/v1"))
		b.addProfile("d.pprof", nil, errors.New("it is not told"))
		b.addProfile("e.pprof", []byte{1, 2}, nil)
		var out bytes.Buffer
		must.NoError(t, b.write(&out))
		return out.Bytes()
	}
	must.Eq(t, pack(), pack())
	file := filepath.Join(t.TempDir(), "b.tar.gz")
	must.NoError(t, os.WriteFile(file, pack(), 0o600))
	files := opened(t, file)
	must.Eq(t, `{"url": "http://10.0.0.5:4640", "hook": "https://a.example:8443/<redacted>", "also": "https://b.example", "token": "<redacted>"}`, string(files["b.json"]))
	must.Eq(t, "<redacted>", string(files["a/b.txt"]))
	var m bundleManifest
	must.NoError(t, json.Unmarshal(files[manifestName], &m))
	must.Eq(t, "http://10.0.0.5:4640", m.Address)
	must.Eq(t, []bundleMissing{{"c.json", "the token <redacted> is not good at http://c.example/<redacted>"}, {"d.pprof", "it is not told"}}, m.Missing)
	must.Eq(t, []string{"a/b.txt", "b.json", "e.pprof"}, []string{m.Files[0].Name, m.Files[1].Name, m.Files[2].Name})
	for name, want := range map[string]string{"gov-1": "gov-1", "a/../b c": "a_.._b_c", "..": "agent", "": "agent"} {
		must.Eq(t, want, fileName(name))
	}
}

func TestAgentsForPeople(t *testing.T) {
	t.Parallel()
	at := now.Add(-time.Hour)
	failed, waiting := at.Add(-time.Hour), 3
	var out bytes.Buffer
	printAgents(&out, agent.AgentsView{Leader: "gov-2", Outbox: &waiting, Notes: []string{"one note"}, Agents: []agent.AgentInfo{
		{Name: "gov-1", Address: "http://10.0.0.5:4640", Version: "1.2.3", State: agent.AgentAlive, Self: true, Started: &at,
			History: &agent.HistoryMark{CompleteTo: failed, LagMS: 7_200_000, Missing: []string{"agent gov-3 at http://10.0.0.7:4640 has not answered yet: what it recorded since may be missing"}}},
		{Name: "gov-2", Address: "http://10.0.0.6:4640", Version: "1.2.4", State: agent.AgentAlive, Leader: true, LeadsSince: &at, Started: &at, History: &agent.HistoryMark{LagMS: 900}},
		{Name: "gov-3", Address: "http://10.0.0.7:4640", State: agent.AgentFailed, Error: "connection refused", Heard: &failed},
		{Name: "gov-4", State: agent.AgentUnknown, Leader: true},
	}})
	must.Eq(t, `  NAME              ADDRESS               STATE    LEADER                     VERSION  RUNS SINCE           HISTORY
  gov-1 (this one)  http://10.0.0.5:4640  alive    -                          1.2.3    2026-03-10 11:30:00  complete to 2026-03-10 10:30:00, 2h0m0s ago
  gov-2             http://10.0.0.6:4640  alive    since 2026-03-10 11:30:00  1.2.4    2026-03-10 11:30:00  complete
  gov-3             http://10.0.0.7:4640  failed   -                          -        -                    -
  gov-4             -                     unknown  yes                        -        -                    -

Note: one note
Note: agent gov-1 may miss something: agent gov-3 at http://10.0.0.7:4640 has not answered yet: what it recorded since may be missing
Note: agent gov-3 does not answer: connection refused
Note: the ledger has 3 usage records that this agent's history does not have yet
`, out.String())
	out.Reset()
	printAgents(&out, agent.AgentsView{Agents: []agent.AgentInfo{{Name: "gov-1", State: agent.AgentAlive, Self: true}}})
	must.StrContains(t, out.String(), "none\n\nNote: nobody leads now: one of them does within half a minute\n")
}

func TestTheLeadIsGivenUp(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		answer       agent.Handover
		args         []string
		code         int
		stdout, told string
	}{
		"to another agent": {agent.Handover{From: "gov-1", To: "gov-2", TookMS: 41}, nil, 0, "Agent gov-1 gave the lead up. 41ms later agent gov-2 leads.\n", ""},
		"to nobody":        {agent.Handover{From: "gov-1"}, []string{"-force"}, 1, "", "gave the lead up, and no agent leads yet"},
		"and comes back":   {agent.Handover{From: "gov-1", To: "gov-1", TookMS: 15_100}, nil, 0, "Agent gov-1 gave the lead up and leads again: there was no other agent to take over.\n", ""},
		"told to programs": {agent.Handover{From: "gov-1", To: "gov-2", TookMS: 41}, []string{"-json"}, 0, "{\n  \"from\": \"gov-1\",\n  \"to\": \"gov-2\",\n  \"took_ms\": 41\n}\n", ""},
	} {
		var asked string
		server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			body, _ := io.ReadAll(r.Body)
			asked = fmt.Sprintf("%s %s %s", r.Method, r.URL.Path, body)
			_ = json.NewEncoder(w).Encode(c.answer)
		}))
		env, stdout, stderr := silent(server.URL)
		must.Eq(t, c.code, stepDownCommand(env).run(c.args), must.Sprint(name, stderr))
		server.Close()
		must.Eq(t, c.stdout, stdout.String(), must.Sprint(name))
		must.StrContains(t, stderr.String(), c.told, must.Sprint(name))
		want := "{}"
		if len(c.args) > 0 && c.args[0] == "-force" {
			want = `{"force":true}`
		}
		must.Eq(t, "POST /governor/v1/operator/step-down "+want, asked)
	}
}
