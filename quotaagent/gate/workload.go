package gate

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"time"

	"github.com/hashicorp/nomad/api"
)

// clockSkew is how far the clocks of Nomad's servers and of this agent may be apart.
const clockSkew = time.Minute

// claims are what a workload identity says (nomad/structs/workload_id.go,
// WorkloadIdentityClaims). The job is the template where the allocation is of a
// launched job.
type claims struct {
	Namespace  string   `json:"nomad_namespace"`
	JobID      string   `json:"nomad_job_id"`
	Allocation string   `json:"nomad_allocation_id"`
	Expires    *float64 `json:"exp"`
	NotBefore  *float64 `json:"nbf"`
}

// expires is the end of the identity; zero for one without.
func (c claims) expires() time.Time {
	if c.Expires == nil {
		return time.Time{}
	}
	return time.Unix(int64(*c.Expires), 0)
}

// check says what is wrong with verified claims at now.
func (c claims) check(now time.Time) error {
	switch {
	case c.Namespace == "" || c.JobID == "" || c.Allocation == "":
		return fmt.Errorf("%w: it is not the identity of a task", errNotVerified)
	case c.Expires != nil && !now.Before(c.expires().Add(clockSkew)):
		return fmt.Errorf("%w: it has expired", errNotVerified)
	case c.NotBefore != nil && now.Add(clockSkew).Before(time.Unix(int64(*c.NotBefore), 0)):
		return fmt.Errorf("%w: it is not valid yet", errNotVerified)
	}
	return nil
}

// workload is whose identity a token is that Nomad accepts and that is no ACL token.
// The gate looks for itself: at the signature, at the end, and at the allocation. For
// what does not bear that, theirs is the answer: Nomad's own, that it has no such
// token.
func (i *identities) workload(ctx context.Context, token string, theirs *answer) (Identity, time.Time, error) {
	raw, err := i.keys.verify(ctx, token)
	var c claims
	if err == nil {
		if err = json.Unmarshal(raw, &c); err != nil {
			err = fmt.Errorf("%w: its claims cannot be read", errNotVerified)
		}
	}
	if err == nil {
		err = c.check(i.now())
	}
	if err != nil {
		return Identity{}, time.Time{}, notVerified(err, theirs)
	}
	w := Workload{Namespace: c.Namespace, JobID: c.JobID, ParentID: c.JobID, Allocation: c.Allocation}
	if w.JobID, err = i.runningJob(ctx, w, token); err != nil {
		return Identity{}, time.Time{}, notVerified(err, theirs)
	}
	return Identity{Accessor: w.Name(), Names: []string{NameWorkload, w.Name()}, Workload: &w}, c.expires(), nil
}

// runningJob is the job of the allocation, which must not have ended. Where neither
// the agent nor the task may read it, Nomad's word is taken: it does not accept the
// identity of an allocation that has ended (nomad/auth, verifyWorkloadIdentityClaim).
func (i *identities) runningJob(ctx context.Context, w Workload, token string) (string, error) {
	var allocation struct{ Namespace, JobID, ClientStatus string }
	tokens := []string{i.nomad.reader, token}
	if i.nomad.reader == "" {
		tokens = tokens[1:]
	}
	for _, reader := range tokens {
		a, err := i.nomad.get(ctx, "/v1/allocation/"+url.PathEscape(w.Allocation), url.Values{"namespace": {w.Namespace}}, reader)
		switch {
		case err != nil:
			return "", err
		case a.status == http.StatusForbidden:
			continue
		case a.status == http.StatusNotFound:
			return "", fmt.Errorf("%w: its allocation is gone", errNotVerified)
		case a.status != http.StatusOK:
			return "", a
		}
		if err := json.Unmarshal(a.body, &allocation); err != nil {
			return "", fmt.Errorf("read allocation of nomad: %w", err)
		}
		ended := []string{api.AllocClientStatusComplete, api.AllocClientStatusFailed, api.AllocClientStatusLost}
		if allocation.Namespace != w.Namespace || allocation.JobID == "" || slices.Contains(ended, allocation.ClientStatus) {
			return "", fmt.Errorf("%w: its allocation has ended", errNotVerified)
		}
		return allocation.JobID, nil
	}
	return w.JobID, nil
}
