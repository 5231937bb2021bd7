package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/nomad-governor/governor/hcl/budgetspec"
	"github.com/nomad-governor/governor/internal/version"
	"github.com/nomad-governor/governor/quotaagent/agent"
	"github.com/nomad-governor/governor/quotaagent/bypass"
)

func operatorDebugCommand(env environment) command {
	return command{synopsis: "Collect what somebody needs who helps with an installation", help: `Usage: governor operator debug [options]

  Writes an archive (tar.gz) with what an agent, the ledger and Nomad say of
  themselves: versions, configuration, status, metrics, the policy with its
  diagnostics, the queue, alerts, the latest decisions, the comparison of history
  and balances, the findings of doctor, the agents, and profiles of the goroutines
  and the memory. It changes nothing. A manifest lists the files, and what could
  not be had and why. Needs a management token.

  Tokens and keys are not in it, and addresses lose what follows the host. The names
  of jobs, budgets, machines and people are: look through it before you send it to
  anybody.

      $ governor operator debug
      $ governor operator debug -output=/tmp/governor.tar.gz -agent=http://10.0.0.6:4640

  -output=<file>   Where to write it. Default: governor-debug-<time>.tar.gz in the
                   present folder. A file that is there is not overwritten.
  -agent=<url>     Also look into this agent. Can be given several times;
                   "governor operator agents" lists them.
  -json            Print the manifest as JSON.` + clientHelp,
		run: func(args []string) int {
			fs := flags("operator debug")
			c := clientFlags(env, fs)
			var others []string
			fs.Func("agent", "", func(text string) error {
				others = append(others, text)
				return nil
			})
			output, asJSON := fs.String("output", "", ""), fs.Bool("json", false, "")
			if !parse(env, fs, args, 0, 0) {
				return 1
			}
			b := newBundle(time.Now(), c.address, version.String(), c.token, env.getenv("CONSUL_HTTP_TOKEN"))
			if err := collect(c, b, others); err != nil {
				return env.fail(err)
			}
			path := *output
			if path == "" {
				path = b.folder() + ".tar.gz"
			}
			size, err := writeBundle(path, b)
			if err != nil {
				return env.fail(err)
			}
			if *asJSON {
				printJSON(env.stdout, b.manifest())
				return 0
			}
			printBundle(env.stdout, path, size, b.manifest())
			return 0
		}}
}

// writeBundle writes a new file that only its owner may read, and says how large it is.
// What was written in part is removed.
func writeBundle(path string, b *bundle) (int64, error) {
	file, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if errors.Is(err, os.ErrExist) {
		return 0, fmt.Errorf("%s is there already and is not overwritten: name another file with -output, or remove it", path)
	}
	if err != nil {
		return 0, fmt.Errorf("write the archive: %w", err)
	}
	err = b.write(file)
	size, sizeErr := file.Seek(0, io.SeekCurrent)
	if err = errors.Join(err, sizeErr, file.Close()); err != nil {
		return 0, fmt.Errorf("write the archive %s: %w", path, errors.Join(err, os.Remove(path)))
	}
	return size, nil
}

func printBundle(w io.Writer, path string, size int64, m bundleManifest) {
	fmt.Fprintf(w, "Wrote %s: %s and a manifest, %d KiB.\n", path, count(len(m.Files), "file"), (size+1023)/1024)
	if len(m.Missing) > 0 {
		fmt.Fprintln(w, "\nWhat could not be had")
		t := newTable("FILE", "WHY")
		for _, one := range m.Missing {
			t.row(one.Name, strings.ReplaceAll(one.Why, "\n", "; "))
		}
		t.write(w)
	}
	fmt.Fprintln(w)
	printWrapped(w, m.Note)
}

// inBundle are the files that any agent answers for all, by name, with where they come
// from. People's reasons, in the audit log, are not among them.
func inBundle() map[string]string {
	return map[string]string{
		"agents.json":         "/governor/v1/agents",
		"alerts.json":         "/governor/v1/alerts",
		"decisions.json":      "/governor/v1/decisions?own=true&limit=200",
		"overrides.json":      "/governor/v1/overrides",
		"policy-history.json": "/governor/v1/policy/history",
		"queue.json":          "/governor/v1/queue",
		"runs.json":           "/governor/v1/runs",
		"status.json":         "/governor/v1/status",
		"usage-verify.json":   "/governor/v1/usage/verify",
	}
}

// collect asks for everything, one after the other. It fails when the agent cannot be
// looked into at all.
func collect(c *client, b *bundle, others []string) error {
	if err := collectAgent(c, b); err != nil {
		return err
	}
	b.add("version.txt", []byte("governor "+version.String()+"\n"), nil)
	for _, name := range sortedNames(inBundle()) {
		content, err := c.text(inBundle()[name])
		b.add(name, content, err)
	}
	collectPolicy(c, b)
	findings, err := doctorFindings(c)
	b.add("doctor.json", findings, err)
	about, err := nomadVersion(c)
	b.add("nomad.json", about, err)
	for _, address := range others {
		other := &client{env: c.env, address: address, token: c.token}
		if err := collectAgent(other, b); err != nil {
			b.add("agents/"+fileName(address), nil, err)
		}
	}
	if c.env.ctx.Err() != nil {
		return errors.New("interrupted before everything was asked for; nothing was written")
	}
	return nil
}

// text is an answer as it is.
func (c *client) text(path string) ([]byte, error) {
	var answer []byte
	err := c.call("GET", path, nil, &answer)
	return answer, err
}

// collectAgent looks into one agent. It fails when that is not allowed, or it is none.
func collectAgent(c *client, b *bundle) error {
	text, err := c.text("/governor/v1/operator/debug")
	if err != nil {
		return err
	}
	var view agent.DebugView
	if err := json.Unmarshal(text, &view); err != nil {
		return fmt.Errorf("%s is not a governor agent: %w", c.address, err)
	}
	folder := "agents/" + fileName(view.Agent.Name)
	for n := 2; b.files[folder+"/debug.json"] != nil; n++ { // two of one name
		folder = fmt.Sprintf("agents/%s-%d", fileName(view.Agent.Name), n)
	}
	b.add(folder+"/debug.json", text, nil)
	metrics, err := c.text(agent.MetricsPath)
	b.add(folder+"/metrics.txt", metrics, err)
	goroutines, err := c.text("/governor/v1/operator/profile/goroutine")
	b.add(folder+"/goroutines.txt", goroutines, err)
	heap, err := c.text("/governor/v1/operator/profile/heap")
	b.addProfile(folder+"/heap.pprof", heap, err)
	return nil
}

// collectPolicy puts the policy in as files: in the agent's answer they are encoded, and
// nothing could be taken out of them.
func collectPolicy(c *client, b *bundle) {
	var policy struct {
		agent.PolicyStatus
		Files []budgetspec.File `json:"files"`
	}
	if _, err := fetch(c, "/governor/v1/policy", &policy); err != nil {
		b.add("policy.json", nil, err)
		return
	}
	var out bytes.Buffer
	printJSON(&out, policy.PolicyStatus)
	b.add("policy.json", out.Bytes(), nil)
	for _, file := range policy.Files {
		parts := strings.Split(file.Name, "/")
		for i := range parts {
			parts[i] = fileName(parts[i])
		}
		b.add("policy/"+strings.Join(parts, "/"), file.Content, nil)
	}
}

func doctorFindings(c *client) ([]byte, error) {
	findings, err := examine(c, "")
	if err != nil {
		return nil, err
	}
	var out bytes.Buffer
	printJSON(&out, diagnosis{Open: bypass.Count(findings, bypass.Open), NotChecked: bypass.Count(findings, bypass.NotChecked), Findings: findings})
	return out.Bytes(), nil
}

// nomadVersion is what the Nomad agent behind the gate is. The rest of what it says of
// itself is left where it is.
func nomadVersion(c *client) ([]byte, error) {
	var self struct {
		Config struct {
			Region, Datacenter string
			Version            struct{ Version, VersionPrerelease, VersionMetadata string }
		} `json:"config"`
	}
	text, err := c.text("/v1/agent/self")
	if err != nil {
		return nil, err
	}
	if err := json.Unmarshal(text, &self); err != nil {
		return nil, fmt.Errorf("read Nomad's answer: %w", err)
	}
	var regions []string
	if text, err = c.text("/v1/regions"); err == nil {
		err = json.Unmarshal(text, &regions)
	}
	if err != nil {
		return nil, fmt.Errorf("read Nomad's regions: %w", err)
	}
	slices.Sort(regions)
	var out bytes.Buffer
	v := self.Config.Version
	printJSON(&out, map[string]any{"version": v.Version, "prerelease": v.VersionPrerelease, "metadata": v.VersionMetadata,
		"region": self.Config.Region, "datacenter": self.Config.Datacenter, "regions": regions})
	return out.Bytes(), nil
}
