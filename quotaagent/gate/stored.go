package gate

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"fmt"
	"math"
	"net/http"
	"net/url"

	"github.com/hashicorp/nomad/api"

	"github.com/nomad-governor/governor/quotaagent/jobspec"
)

// storedRequest is what the bodies of scale, dispatch and revert say. Nomad reads
// JobID, Namespace, Region and AuthToken of dispatch and revert only.
type storedRequest struct {
	JobID     string
	Namespace string
	Region    string
	AuthToken string

	// Of a scale request.
	Count          *int64
	Target         map[string]string
	PolicyOverride bool
	JobModifyIndex uint64

	// Of a revert.
	JobVersion          uint64
	EnforcePriorVersion *uint64

	// Of a dispatch.
	Meta             map[string]string
	Priority         int
	IdempotencyToken string
}

// storedKinds are the kinds of the routes that start work from a stored job.
var storedKinds = map[RouteKind]Kind{
	RouteScale: Scale, RouteDispatch: Dispatch, RouteDispatchPayload: Dispatch, RoutePeriodicForce: PeriodicForce, RouteRevert: Revert,
	RouteStable: Revert, // its body says the same of where and whose
}

// stored decides about a request that starts work from a stored job. The whole
// request is read before the job is looked at: whoever sends it slowly could
// change the job meanwhile.
func (g *Gate) stored(w http.ResponseWriter, r *http.Request, route Route) error {
	s, body, err := g.readStored(w, r, route)
	if err != nil {
		return err
	}
	if err := g.resolveStored(r.Context(), s, route, body); err != nil {
		return err
	}
	switch {
	case s.kind == Scale:
		if err := bindScale(s.doc, body, s.stored); err != nil {
			return err
		}
	case s.kind == Revert && s.job == nil && body.EnforcePriorVersion == nil:
		// Nomad will refuse it, as long as the job is what it was when it was looked at.
		s.doc.SetUint("EnforcePriorVersion", jobVersion(s.stored))
	}
	wants := s.wantsGPU()
	if s.kind == Dispatch && wants {
		s.identifyLaunch(body.IdempotencyToken)
	}
	if err := g.authorize(r.Context(), s); err != nil {
		return err
	}
	if s.job == nil || !wants {
		return g.hand(w, r, s)
	}
	verdict, err := g.decide(r.Context(), s)
	if err != nil {
		return err
	}
	g.logger.Debug("decided", "namespace", s.ask.Namespace, "job_id", s.ask.JobID, "route", route.Kind.String(),
		"gpus", s.ask.GPUs(), "denied", verdict.Denied, "reason", verdict.Reason)
	return g.carryOut(w, r, s, verdict)
}

// readStored reads the body, and what it says about where and whose.
func (g *Gate) readStored(w http.ResponseWriter, r *http.Request, route Route) (*submission, storedRequest, error) {
	s, body := &submission{kind: storedKinds[route.Kind]}, storedRequest{}
	var err error
	if route.Kind == RouteDispatchPayload || route.Kind == RoutePeriodicForce {
		s.raw, err = g.readRaw(w, r)
	} else if s.raw, err = g.readBody(w, r); err == nil {
		if s.doc, body, err = jobspec.ParseObject[storedRequest](s.raw); err != nil {
			err = refuseBody(err)
		}
	}
	if err != nil {
		return nil, body, err
	}
	inBody := scope{namespace: body.Namespace, region: body.Region}
	if s.kind == Scale {
		inBody, body.AuthToken = scope{}, ""
	} else if s.doc != nil && s.doc.Has("AuthToken") {
		s.doc.SetText("AuthToken", "")
	}
	s.scope = writeScope(queryScope(r), inBody, g.config.Region)
	s.token = resolveToken(r.Header, body.AuthToken)
	if err := checkToken(s.token); err != nil {
		return nil, body, refuseBody(err)
	}
	s.request.PolicyOverride = body.PolicyOverride
	if token := r.URL.Query().Get("idempotency_token"); token != "" {
		body.IdempotencyToken = token // beats the one in the body (command/agent/http.go, parseWriteRequest)
	}
	return s, body, nil
}

// resolveStored finds the stored job and what the request makes of it. No job
// means that Nomad will refuse the request, or that it changes nothing.
func (g *Gate) resolveStored(ctx context.Context, s *submission, route Route, body storedRequest) error {
	if route.JobID == "" {
		return nil // Nomad finds no such job
	}
	var err error
	if s.stored, err = g.nomad.job(ctx, route.JobID, s.scope, s.token); err != nil || s.stored == nil {
		return err
	}
	switch s.kind {
	case Scale:
		s.job, err = scaled(s.stored, body)
	case Revert:
		s.job, err = g.reverted(ctx, s, route.JobID, body)
	case Dispatch:
		s.job, err = dispatched(s.stored, body)
	case PeriodicForce:
		s.job, err = launched(s.stored, s.stored.IsPeriodic())
	case Register, Plan, Validate:
	}
	if err != nil {
		return refuseBody(err)
	}
	return nil
}

// scaled is the stored job with the count that a request sets.
func scaled(stored *api.Job, body storedRequest) (*api.Job, error) {
	if body.Count == nil || *body.Count < 0 || *body.Count > countMax {
		return nil, nil // an event without a change, or nothing that Nomad accepts
	}
	job, err := jobspec.Canonicalize(stored)
	if err != nil {
		return nil, err
	}
	for _, group := range job.TaskGroups {
		if group.Name != nil && *group.Name == body.Target["Group"] {
			count := int(*body.Count)
			group.Count = &count
			return job, nil
		}
	}
	return nil, nil
}

// countMax is more allocations than any Nomad can run of one group; arithmetic on
// it cannot overflow.
const countMax = 1 << 24

// launched is the child that Nomad would make of a template; nil when the stored
// job is none.
func launched(stored *api.Job, template bool) (*api.Job, error) {
	if !template || (stored.Stop != nil && *stored.Stop) {
		return nil, nil
	}
	return jobspec.Canonicalize(stored)
}

// dispatched is the child of a parameterized job, with what the request adds.
func dispatched(stored *api.Job, body storedRequest) (*api.Job, error) {
	job, err := launched(stored, stored.IsParameterized())
	if job == nil || err != nil {
		return nil, err
	}
	if body.Priority != 0 {
		job.Priority = &body.Priority
	}
	for key, value := range body.Meta {
		job.SetMeta(key, value)
	}
	return job, nil
}

// reverted is the old version that a request brings back, with its document for
// the case that it must be changed on the way; nil when Nomad will refuse.
func (g *Gate) reverted(ctx context.Context, s *submission, jobID string, body storedRequest) (*api.Job, error) {
	if body.JobID != jobID || body.JobVersion == jobVersion(s.stored) ||
		(body.EnforcePriorVersion != nil && *body.EnforcePriorVersion != jobVersion(s.stored)) {
		return nil, nil
	}
	raw, err := g.nomad.version(ctx, jobID, body.JobVersion, s.scope, s.token)
	if err != nil || raw == nil {
		return nil, err
	}
	old, err := jobspec.ParseStored(raw)
	if err != nil {
		return nil, err
	}
	clean, pinned, err := old.Unpinned()
	if err != nil {
		return nil, err
	}
	s.old, s.version, s.unpinned = &clean, body.JobVersion, pinned
	return jobspec.Canonicalize(clean.Job)
}

// materialise sends a revert as the registration that Nomad would make of it, so
// that its placement is that of today. A version that needs no change is reverted to
// by Nomad itself.
func (g *Gate) materialise(ctx context.Context, s *submission, patch jobspec.Patch) error {
	if patch.Empty() && !s.unpinned {
		return nil
	}
	source, err := g.nomad.submission(ctx, s.ask.JobID, s.version, s.scope, s.token)
	if err != nil {
		return err
	}
	if s.registration, err = s.old.Registration(patch, jobModifyIndex(s.stored), source); err != nil {
		g.logger.Error("could not write an old version as a registration", "job_id", s.ask.JobID, "error", err)
		return refuseUndecided(s.ask.JobID, err)
	}
	s.materialised = true
	return nil
}

// body is what is forwarded.
func (s *submission) body() []byte {
	switch {
	case s.materialised:
		return s.registration
	case s.doc != nil:
		return s.doc.Encode()
	}
	return s.raw
}

// asked is the request as it is forwarded, without its body.
func (s *submission) asked(r *http.Request) *http.Request {
	switch {
	case s.materialised:
		r = r.Clone(r.Context())
		r.URL.Path, r.URL.RawPath = "/v1/jobs", ""
		r.URL.RawQuery = url.Values{"namespace": {s.scope.namespace}, "region": {s.scope.region}}.Encode()
	case s.ownToken:
		r = r.Clone(r.Context())
		if r.URL.RawQuery != "" {
			r.URL.RawQuery += "&"
		}
		r.URL.RawQuery += "idempotency_token=" + s.launch
	}
	return r
}

// identifyLaunch names a dispatch by the token of the client, or by one of its own.
func (s *submission) identifyLaunch(token string) {
	if s.launch = token; token == "" {
		s.launch, s.ownToken = "governor-"+rand.Text(), true
	}
}

// wantsGPU computes the ask, and says whether GPUs are involved in the job as it
// would be or, for one that changes, as it is.
func (s *submission) wantsGPU() bool {
	if s.job == nil {
		return false
	}
	s.job.Namespace, s.job.Region = &s.scope.namespace, &s.scope.region
	s.ask = jobspec.ExtractCanonical(s.job, s.defaults())
	if s.kind.Launches() {
		s.ask.ParentID, s.ask.Parameterized = s.ask.JobID, false
		if s.kind == PeriodicForce {
			s.ask.Periodic = false // a dispatch of a periodic job launches it later
		}
		return len(s.ask.Groups) > 0 || len(s.ask.Undeclared) > 0
	}
	return len(s.ask.Groups) > 0 || len(s.ask.Undeclared) > 0 || jobGPUs(s.stored) > 0
}

// bindScale makes Nomad refuse the request if the job has changed since it was
// looked at. One that was not there is bound to an index that no job has: Nomad
// itself says that it is not there, or that the user may not know.
func bindScale(doc *jobspec.Document, body storedRequest, stored *api.Job) error {
	if stored == nil {
		doc.SetUint("JobModifyIndex", math.MaxInt64)
		return nil
	}
	index := jobModifyIndex(stored)
	if body.JobModifyIndex != 0 && body.JobModifyIndex != index {
		return conflictingIndex(body.JobModifyIndex, index)
	}
	if index != 0 {
		doc.SetUint("JobModifyIndex", index)
	}
	return nil
}

// conflictingIndex is Nomad's own answer to a write that is bound to another
// state of the job (nomad/job_endpoint.go, doRegister).
func conflictingIndex(given, current uint64) *answer {
	text := fmt.Sprintf("%s %d: job exists with conflicting job modify index: %d", api.RegisterEnforceIndexErrPrefix, given, current)
	if current == 0 {
		text = fmt.Sprintf("%s %d: job does not exist", api.RegisterEnforceIndexErrPrefix, given)
	}
	if given == 0 {
		text = api.RegisterEnforceIndexErrPrefix + " 0: job already exists"
	}
	return asNomad(http.StatusInternalServerError, text)
}

// asNomad is an answer with the headers of Nomad's own.
func asNomad(status int, text string) *answer {
	return &answer{status: status, body: []byte(text),
		header: http.Header{"Content-Type": {"text/plain; charset=utf-8"}, "Vary": {"Accept-Encoding"}}}
}

func jobModifyIndex(j *api.Job) uint64 {
	if j == nil || j.JobModifyIndex == nil {
		return 0
	}
	return *j.JobModifyIndex
}

// launchAnswer is what Nomad says about a launch.
type launchAnswer struct {
	DispatchedJobID string
	EvalID          string
}

// child finds the job that Nomad has launched. What cannot be found out now, the
// leader does.
func (g *Gate) child(ctx context.Context, s *submission, a *answer) (*api.Job, error) {
	var said launchAnswer
	if err := json.Unmarshal(a.body, &said); err != nil {
		return nil, fmt.Errorf("read answer of nomad: %w", err)
	}
	id := said.DispatchedJobID
	if s.kind == PeriodicForce {
		var eval api.Evaluation
		found, err := g.nomad.read(ctx, "/v1/evaluation/"+escapeID(said.EvalID), s.scope, s.token, &eval)
		if err != nil || !found {
			return nil, err
		}
		id = eval.JobID
	}
	return g.nomad.job(ctx, id, s.scope, s.token)
}

// jobGPUs is how many GPUs a stored job asks for, at least 1 when it asks for
// any; a job that cannot be read counts as asking.
func jobGPUs(job *api.Job) int {
	if job == nil {
		return 0
	}
	ask, err := jobspec.Extract(job, jobspec.Defaults{})
	if err != nil {
		return 1
	}
	if len(ask.Groups) == 0 {
		return 0
	}
	return max(ask.GPUs(), 1)
}
