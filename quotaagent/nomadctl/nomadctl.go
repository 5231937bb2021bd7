package nomadctl

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/url"
	"strings"

	"github.com/hashicorp/nomad/api"
)

// Client acts on Nomad with the agent's own token. It is safe for concurrent use.
type Client struct{ nomad *api.Client }

// New returns a Client over an API client.
func New(nomad *api.Client) *Client { return &Client{nomad: nomad} }

// Spec is a job as Nomad has it.
type Spec struct {
	// Job is Nomad's own JSON of it, with every field that this Nomad knows.
	Job json.RawMessage
	// Index is its JobModifyIndex, Version its version.
	Index, Version uint64
	// Stopped says that it was stopped and starts nothing.
	Stopped bool
	// Submission is the source that its author sent, as Nomad keeps it; nil when
	// Nomad keeps none.
	Submission json.RawMessage
}

// Registration is a job to be registered in place of the one at Index.
type Registration struct {
	Namespace, JobID string
	Job              json.RawMessage
	// Index is the JobModifyIndex that the stored job must have.
	Index uint64
	// Submission is kept beside the new version, as in Spec.
	Submission json.RawMessage
}

// Scaling is a new count for one group.
type Scaling struct {
	Namespace, JobID, Group string
	Count                   int
	// Index is the JobModifyIndex that the stored job must have; 0 for any.
	Index uint64
	// Message is shown with the job's scaling events.
	Message string
}

// SignalAllocation sends a signal ("SIGUSR1") to one task of an allocation, or
// to all of them when task is "". Tasks that do not run are ErrNotFound. The name
// must be right: Nomad 1.11.3 accepts any, and interrupts the task for one that it
// does not know.
func (c *Client) SignalAllocation(ctx context.Context, alloc, task, signal string) error {
	err := c.nomad.Allocations().Signal(&api.Allocation{ID: alloc}, (&api.QueryOptions{}).WithContext(ctx), task, signal)
	return classify(fmt.Sprintf("signal allocation %s", alloc), err)
}

// StopAllocation stops one allocation. Nomad replaces it if its job still wants
// it.
func (c *Client) StopAllocation(ctx context.Context, alloc string) error {
	_, err := c.nomad.Allocations().Stop(&api.Allocation{ID: alloc}, (&api.QueryOptions{}).WithContext(ctx))
	return ignoreGone(classify(fmt.Sprintf("stop allocation %s", alloc), err))
}

// StopJob deregisters a job. It is not purged: its allocations stay readable
// until they are settled. A job that is gone or stopped is no error. Nomad keeps
// no reason with a stop; here it only says in an error what was wanted.
func (c *Client) StopJob(ctx context.Context, namespace, jobID, reason string) error {
	what := fmt.Sprintf("stop job %q (%s)", jobID, reason)
	if misrouted(jobID) {
		return ignoreGone(c.stopByRegistration(ctx, what, namespace, jobID))
	}
	_, _, err := c.nomad.Jobs().Deregister(jobID, false, write(ctx, namespace))
	return ignoreGone(classify(what, err))
}

// stopByRegistration stops a job whose id ends like one of Nomad's routes: a
// DELETE of it would be taken for something else.
func (c *Client) stopByRegistration(ctx context.Context, what, namespace, jobID string) error {
	spec, err := c.JobSpec(ctx, namespace, jobID)
	if err != nil {
		return err
	}
	if spec.Stopped {
		return nil
	}
	var job map[string]json.RawMessage
	if err := json.Unmarshal(spec.Job, &job); err != nil {
		return fmt.Errorf("%s: read it: %w", what, err)
	}
	job["Stop"] = json.RawMessage("true")
	stopped, err := json.Marshal(job)
	if err != nil {
		return fmt.Errorf("%s: encode it: %w", what, err)
	}
	_, err = c.Register(ctx, Registration{Namespace: namespace, JobID: jobID, Job: stopped, Index: spec.Index, Submission: spec.Submission})
	return err
}

// Scale changes the count of a group and returns the job's new JobModifyIndex.
func (c *Client) Scale(ctx context.Context, s Scaling) (uint64, error) {
	count := int64(s.Count)
	response, _, err := c.nomad.Jobs().ScaleWithRequest(s.JobID, &api.ScalingRequest{
		Count: &count, Target: map[string]string{"Job": s.JobID, "Group": s.Group}, Message: s.Message, JobModifyIndex: s.Index,
	}, write(ctx, s.Namespace))
	if err != nil {
		return 0, classify(fmt.Sprintf("scale group %q of job %q to %d", s.Group, s.JobID, s.Count), err)
	}
	return response.JobModifyIndex, nil
}

// Register registers a job in place of the one that the caller read, and returns
// its new JobModifyIndex.
func (c *Client) Register(ctx context.Context, r Registration) (uint64, error) {
	what := fmt.Sprintf("register job %q", r.JobID)
	body := map[string]any{"Job": r.Job, "EnforceIndex": true, "JobModifyIndex": r.Index}
	if len(r.Submission) > 0 {
		body["Submission"] = r.Submission
	}
	var response api.JobRegisterResponse
	if _, err := c.nomad.Raw().Write("/v1/jobs", body, &response, write(ctx, r.Namespace)); err != nil {
		return 0, classify(what, err)
	}
	return response.JobModifyIndex, nil
}

// JobSpec reads a job. ErrNotFound when Nomad does not know it.
func (c *Client) JobSpec(ctx context.Context, namespace, jobID string) (Spec, error) {
	what := fmt.Sprintf("read job %q", jobID)
	raw, err := c.readJob(ctx, namespace, jobID)
	if err != nil {
		return Spec{}, classify(what, err)
	}
	if raw == nil {
		return Spec{}, fmt.Errorf("%s: %w", what, ErrNotFound)
	}
	var head struct {
		JobModifyIndex, Version uint64
		Stop                    bool
	}
	if err := json.Unmarshal(raw, &head); err != nil {
		return Spec{}, fmt.Errorf("%s: %w", what, err)
	}
	spec := Spec{Job: raw, Index: head.JobModifyIndex, Version: head.Version, Stopped: head.Stop}
	var submission json.RawMessage
	_, err = c.nomad.Raw().Query(fmt.Sprintf("/v1/job/%s/submission?version=%d", escape(jobID), head.Version), &submission, read(ctx, namespace))
	if err = classify(what, err); err != nil && !errors.Is(err, ErrNotFound) {
		return Spec{}, err
	}
	if string(submission) != "null" {
		spec.Submission = submission
	}
	return spec, nil
}

// ACLs reports whether Nomad checks tokens. Without ACLs it answers every question
// about a token alike (seen on 1.11.3; older versions answer with an error).
func (c *Client) ACLs(ctx context.Context) (bool, error) {
	token, _, err := c.nomad.ACLTokens().Self((&api.QueryOptions{}).WithContext(ctx))
	switch {
	case err != nil && strings.Contains(err.Error(), "ACL support disabled"):
		return false, nil
	case err != nil:
		return false, classify("ask whether ACLs are on", err)
	}
	return token.AccessorID != "acls-disabled", nil
}

// JobsIndex is Nomad's index of the last change of any job.
func (c *Client) JobsIndex(ctx context.Context) (uint64, error) {
	q := read(ctx, "*")
	q.PerPage = 1
	_, meta, err := c.nomad.Jobs().List(q)
	if err != nil {
		return 0, classify("read the index of all jobs", err)
	}
	return meta.LastIndex, nil
}

// readJob reads the newest version of a job; nil when there is none. The list of
// versions is routed rightly for every id.
func (c *Client) readJob(ctx context.Context, namespace, jobID string) (json.RawMessage, error) {
	if !misrouted(jobID) {
		var raw json.RawMessage
		_, err := c.nomad.Raw().Query("/v1/job/"+escape(jobID), &raw, read(ctx, namespace))
		return raw, err
	}
	var list struct{ Versions []json.RawMessage }
	if _, err := c.nomad.Raw().Query("/v1/job/"+escape(jobID)+"/versions", &list, read(ctx, namespace)); err != nil {
		return nil, err
	}
	var newest json.RawMessage
	best := uint64(0)
	for _, raw := range list.Versions {
		var head struct{ Version uint64 }
		if err := json.Unmarshal(raw, &head); err != nil {
			return nil, err
		}
		if newest == nil || head.Version > best {
			newest, best = raw, head.Version
		}
	}
	return newest, nil
}

func write(ctx context.Context, namespace string) *api.WriteOptions {
	return (&api.WriteOptions{Namespace: namespace}).WithContext(ctx)
}

func read(ctx context.Context, namespace string) *api.QueryOptions {
	return (&api.QueryOptions{Namespace: namespace}).WithContext(ctx)
}

func ignoreGone(err error) error {
	if errors.Is(err, ErrNotFound) {
		return nil
	}
	return err
}

// escape encodes a job id as one path segment. Dots on their own would be taken
// for a relative path.
func escape(id string) string {
	if strings.Trim(id, ".") == "" {
		return strings.ReplaceAll(id, ".", "%2E")
	}
	return url.PathEscape(id)
}

// misrouted reports whether Nomad would take the path of a job for one of its
// other routes: it goes by the end of the decoded path
// (command/agent/job_endpoint.go, JobSpecificRequest).
func misrouted(jobID string) bool {
	for _, suffix := range [...]string{"/evaluate", "/allocations", "/evaluations", "/periodic/force", "/plan", "/summary", "/dispatch",
		"/dispatch/payload", "/versions", "/revert", "/deployments", "/deployment", "/stable", "/scale", "/services", "/submission",
		"/actions", "/action", "/tag"} {
		if strings.HasSuffix(jobID, suffix) {
			return true
		}
	}
	return false
}
