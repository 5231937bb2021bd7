package main

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"strings"

	"github.com/nomad-governor/governor/quotaagent/agent"
	"github.com/nomad-governor/governor/quotaagent/api"
	"github.com/nomad-governor/governor/quotaagent/gate"
)

// jobMax bounds a job, in bytes: as much as the gate reads of one.
const jobMax = 32 << 20

const estimatePath = "/governor/v1/jobs/estimate"

// estimateRoute answers what would become of a job. It takes the body of Nomad's own
// plan, and decides as the gate does.
func estimateRoute(g *gate.Gate) api.Route {
	return api.Route{Method: "POST", Path: estimatePath, Right: api.Read, BodyMax: jobMax, Serve: func(_ context.Context, c api.Call) (any, error) {
		body, err := c.Body()
		if err != nil {
			return nil, err
		}
		verdict, err := g.Explain(c.Request(), body)
		if err != nil {
			status, text := gate.Told(err)
			return nil, &api.Problem{Status: status, Text: text}
		}
		if verdict.Account == nil {
			return nil, &api.Problem{Status: http.StatusForbidden, Text: cmp.Or(verdict.Message, "the job is for another region, of which this Governor knows nothing")}
		}
		return verdict.Account, nil
	}}
}

const jobFileHelp = `
  -var=<name=value> Value of a variable of the job file. Can be given several
                   times.
  -var-file=<file> File with values of variables. Can be given several times.
  -namespace=<ns>  Namespace, instead of the one in the job. Default:
                   NOMAD_NAMESPACE.
  -json            Print the agent's answer as JSON.` + clientHelp

func jobEstimateCommand(env environment) command {
	return command{synopsis: "Say what a job would cost, and whether it would run now", help: `Usage: governor job estimate [options] <job file>

  Says what a job would cost in its worst case, which limits it would meet on
  the way from its budget to the root, whether it would run now, wait or be
  refused and why, and where it would run. It is decided exactly as by
  "nomad job run", but nothing is registered, held or spared for it.

  The file is HCL, which Nomad parses, or JSON as "nomad job run -output" prints
  it; "-" is the standard input.

      $ governor job estimate train.nomad.hcl

  -policy-override  Estimate it as "nomad job run -policy-override" would be.` + jobFileHelp,
		run: func(args []string) int { return estimateJob(env, "job estimate", args, printEstimate) }}
}

func jobExplainCommand(env environment) command {
	return command{synopsis: "Say where a job would run, and of every node why or why not", help: `Usage: governor job explain [options] <job file>

  Says where a job would run if it were submitted now, best node first: which
  GPUs it would get there, what connects them, and the bandwidth of their ring.
  Then why each of the other nodes was passed over. "governor job estimate"
  says what it would cost.

      $ governor job explain train.nomad.hcl
` + jobFileHelp,
		run: func(args []string) int { return estimateJob(env, "job explain", args, printExplanation) }}
}

// estimateJob asks the agent about a job file.
func estimateJob(env environment, name string, args []string, write func(io.Writer, agent.Estimate) error) int {
	fs := flags(name)
	c := clientFlags(env, fs)
	var vars variables
	fs.Func("var", "", vars.add)
	fs.Func("var-file", "", vars.addFile)
	namespace := fs.String("namespace", env.getenv("NOMAD_NAMESPACE"), "")
	override, asJSON := new(bool), fs.Bool("json", false, "")
	if name == "job estimate" {
		override = fs.Bool("policy-override", false, "")
	}
	if !parse(env, fs, args, 1, 1) {
		return 1
	}
	query := ""
	if *namespace != "" {
		query = "?namespace=" + url.QueryEscape(*namespace)
	}
	job, err := readJob(c, fs.Arg(0), query, &vars)
	if err != nil {
		return env.fail(err)
	}
	var raw json.RawMessage
	var e agent.Estimate
	body := map[string]any{"Job": job, "PolicyOverride": *override}
	if err := c.call("POST", estimatePath+query, body, &raw); err != nil {
		return env.failWith(err)
	}
	if *asJSON {
		_, _ = env.stdout.Write(append(raw, '\n'))
		return 0
	}
	if err := json.Unmarshal(raw, &e); err != nil {
		return env.fail(fmt.Errorf("read the agent's answer: %w", err))
	}
	if err := write(env.stdout, e); err != nil {
		return env.fail(err)
	}
	return 0
}

// readJob reads a job file as JSON. The query names the namespace to parse it in.
func readJob(c *client, name, query string, vars *variables) (json.RawMessage, error) {
	var content []byte
	var err error
	if name == "-" {
		content, err = io.ReadAll(io.LimitReader(c.env.stdin, jobMax+1))
	} else {
		content, err = os.ReadFile(name)
	}
	switch {
	case err != nil:
		return nil, fmt.Errorf("read job: %w", err)
	case len(content) > jobMax:
		return nil, fmt.Errorf("the job has more than %d bytes, the most that Governor reads of one", jobMax)
	case len(bytes.TrimSpace(content)) == 0:
		return nil, fmt.Errorf("%s is empty: it must hold a job", name)
	}
	if bytes.HasPrefix(bytes.TrimSpace(content), []byte("{")) {
		if vars.text.Len() > 0 {
			return nil, errors.New("a job in JSON has no variables: leave out -var and -var-file")
		}
		return jobOfJSON(name, content)
	}
	request := map[string]any{"JobHCL": string(content), "Variables": vars.text.String(), "Canonicalize": false}
	var job json.RawMessage
	if err := c.call("POST", "/v1/jobs/parse"+query, request, &job); err != nil {
		return nil, fmt.Errorf("parse %s: %w", name, err)
	}
	return job, nil
}

// jobOfJSON is the job of a file that holds one, or one in a member "Job".
func jobOfJSON(name string, content []byte) (json.RawMessage, error) {
	var members map[string]json.RawMessage
	if err := json.Unmarshal(content, &members); err != nil {
		return nil, fmt.Errorf("%s is not JSON: %w", name, err)
	}
	if job, nested := members["Job"]; nested {
		return job, nil
	}
	return content, nil
}

// variables are values of a job file's variables, in the language of a file of them.
type variables struct{ text strings.Builder }

// add takes name=value. A value is a text, of which Nomad makes the variable's own type,
// but a list, a map or an object is written as in a file.
func (v *variables) add(text string) error {
	name, value, ok := strings.Cut(text, "=")
	if !ok || name == "" {
		return errors.New("it must be name=value")
	}
	if !strings.HasPrefix(value, "[") && !strings.HasPrefix(value, "{") {
		value = quoteHCL(value)
	}
	fmt.Fprintf(&v.text, "%s = %s\n", name, value)
	return nil
}

func (v *variables) addFile(name string) error {
	content, err := os.ReadFile(name)
	if err != nil {
		return err
	}
	fmt.Fprintf(&v.text, "%s\n", content)
	return nil
}

// quoteHCL writes a text as HCL does.
func quoteHCL(text string) string {
	return `"` + strings.NewReplacer(`\`, `\\`, `"`, `\"`, "\n", `\n`, "\r", `\r`, "\t", `\t`, "${", "$${", "%{", "%%{").Replace(text) + `"`
}
