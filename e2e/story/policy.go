package story

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"time"

	"github.com/nomad-governor/governor/e2e/toolchain"
	"github.com/nomad-governor/governor/internal/quantity"
)

// policyFile is the file of hcl/examples that the story applies and edits.
const policyFile = "budgets.hcl"

// researchBudget is the leaf that claims the jobs of namespace "default".
const researchBudget = "acme/research"

// researchGPUs finds how many GPUs the example lets research hold at once.
var researchGPUs = regexp.MustCompile(`any = 12, h100 = 4`)

// examplePolicy is hcl/examples with research's GPUs limited to n.
func examplePolicy(n int) (string, error) {
	root, err := toolchain.Root()
	if err != nil {
		return "", err
	}
	text, err := os.ReadFile(filepath.Join(root, "hcl", "examples", policyFile))
	if err != nil {
		return "", fmt.Errorf("read the example policy: %w", err)
	}
	// The first is research's, the second serving's.
	at := researchGPUs.FindIndex(text)
	if at == nil {
		return "", fmt.Errorf("hcl/examples/%s no longer limits research by %q: change the story with it", policyFile, researchGPUs)
	}
	return string(text[:at[0]]) + fmt.Sprintf("any = %d", n) + string(text[at[1]:]), nil
}

// status is what the story reads of the agent's status document.
type status struct {
	Policy struct {
		Broken string `json:"broken"`
	} `json:"policy"`
	Leader  bool `json:"leader"`
	Budgets []struct {
		Path   string        `json:"path"`
		Limits []limitStatus `json:"limits"`
	} `json:"budgets"`
	Holds []holdStatus `json:"holds"`
}

type limitStatus struct {
	Window    string          `json:"window"`
	Dimension string          `json:"dimension"`
	Limit     quantity.Amount `json:"limit"`
	Posted    quantity.Amount `json:"posted"`
	Held      quantity.Amount `json:"held"`
	Available quantity.Amount `json:"available"`
	Source    string          `json:"source"`
}

type holdStatus struct {
	JobID       string   `json:"job_id"`
	State       string   `json:"state"`
	Allocations []string `json:"allocations"`
}

// hold returns the hold of a job, or nil.
func (s status) hold(jobID string) *holdStatus {
	for i := range s.Holds {
		if s.Holds[i].JobID == jobID {
			return &s.Holds[i]
		}
	}
	return nil
}

// limit returns one limit of a budget; the zero value when there is none.
func (s status) limit(path, window, dimension string) limitStatus {
	for _, b := range s.Budgets {
		for _, l := range b.Limits {
			if b.Path == path && l.Window == window && l.Dimension == dimension {
				return l
			}
		}
	}
	return limitStatus{}
}

// held lists the holds as "job" names, to compare before and after.
func (s status) held() []string {
	names := []string{}
	for _, h := range s.Holds {
		names = append(names, h.JobID)
	}
	return names
}

// The dimensions of the example's limits, as the status names them.
const (
	dayWindow        = "day"
	concurrentWindow = "concurrent"
	gpuTime          = "gpu_ms/any"
	gpus             = "gpus/any"
)

// fetch reads the agent's status.
func (s *Scene) fetch(ctx context.Context) (status, error) {
	result, err := s.GovernorCLI(ctx, "budget", "status", "-json")
	if err != nil {
		return status{}, err
	}
	if result.ExitCode != 0 {
		return status{}, fmt.Errorf("read the budgets' status: %s", result.Output())
	}
	var out status
	if err := json.Unmarshal([]byte(result.Stdout), &out); err != nil {
		return status{}, fmt.Errorf("decode the budgets' status: %w", err)
	}
	return out, nil
}

// decisionAbout is the ID of the latest decision about a job.
func (s *Scene) decisionAbout(ctx context.Context, jobID string) (string, error) {
	result, err := s.GovernorCLI(ctx, "decision", "show", "-json", jobID)
	if err != nil {
		return "", err
	}
	var out struct{ ID string }
	if result.ExitCode != 0 || json.Unmarshal([]byte(result.Stdout), &out) != nil || out.ID == "" {
		return "", fmt.Errorf("read the decision about job %q: %s", jobID, result.Output())
	}
	return out.ID, nil
}

// apply puts the example policy with n research GPUs into force.
func (s *Scene) apply(ctx context.Context, n int) error {
	text, err := examplePolicy(n)
	if err != nil {
		return err
	}
	return s.applyText(ctx, text)
}

// applyText puts a policy into force.
func (s *Scene) applyText(ctx context.Context, text string) error {
	if err := s.writePolicy(text); err != nil {
		return err
	}
	result, err := s.governorCLI(ctx, "budget", "apply", "-auto-approve", s.policyDir)
	if err != nil {
		return err
	}
	if result.ExitCode != 0 {
		return fmt.Errorf("apply the budgets: %s", result.Output())
	}
	return nil
}

// editKV replaces the policy in Consul's KV directly, as an operator might.
func (s *Scene) editKV(ctx context.Context, text string) error {
	url := s.ConsulAddr + "/v1/kv/governor/policy/" + policyFile
	request, err := http.NewRequestWithContext(ctx, http.MethodPut, url, bytes.NewReader([]byte(text)))
	if err != nil {
		return fmt.Errorf("edit Consul's KV: %w", err)
	}
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		return fmt.Errorf("edit Consul's KV: %w", err)
	}
	defer response.Body.Close()
	body, err := io.ReadAll(io.LimitReader(response.Body, 1<<16))
	if err != nil || response.StatusCode != http.StatusOK {
		return fmt.Errorf("edit Consul's KV: %d %s: %w", response.StatusCode, body, err)
	}
	s.printer.Note("Consul KV: governor/policy/%s replaced", policyFile)
	return nil
}

// within polls until the condition holds and returns how long that took, or
// an error after ten times the bound. The caller compares with the bound.
func within(ctx context.Context, bound time.Duration, condition func() (bool, error)) (time.Duration, error) {
	started := time.Now()
	for {
		ok, err := condition()
		took := time.Since(started)
		if err != nil {
			return took, err
		}
		if ok {
			return took, nil
		}
		if took > 10*bound {
			return took, fmt.Errorf("still not so after %s", took.Round(time.Millisecond))
		}
		select {
		case <-ctx.Done():
			return took, ctx.Err()
		case <-time.After(20 * time.Millisecond):
		}
	}
}
