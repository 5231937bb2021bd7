package gate

import (
	"context"
	"fmt"
	"net/http"

	"github.com/hashicorp/nomad/api"

	"github.com/nomad-governor/governor/quotaagent/jobspec"
)

// storedRequest is what the bodies of dispatch, revert and scale may say about
// whose request it is and which job it means. Nomad reads the last three of
// dispatch and revert only.
type storedRequest struct {
	JobID          string
	JobVersion     uint64
	JobModifyIndex uint64
	Namespace      string
	Region         string
	AuthToken      string
}

// ungoverned lets requests pass that start work from a stored job, unless that
// job asks for GPUs. The whole request is read before the job is looked at:
// whoever sends it slowly could change the job meanwhile.
func (g *Gate) ungoverned(w http.ResponseWriter, r *http.Request, route Route) error {
	raw, doc, body, err := g.readStored(w, r, route.Kind)
	if err != nil {
		return err
	}
	var inBody scope
	if route.Kind != RouteScale {
		inBody = scope{namespace: body.Namespace, region: body.Region}
		if doc != nil && doc.Has("AuthToken") {
			doc.SetText("AuthToken", "")
		}
	} else {
		body.AuthToken = ""
	}
	at := writeScope(queryScope(r), inBody, g.config.Region)
	token := resolveToken(r.Header, body.AuthToken)
	stored, err := g.storedJob(r.Context(), route, body.JobVersion, at, token)
	if err != nil {
		return err
	}
	if gpus := jobGPUs(stored); gpus > 0 {
		return refuseRoute(route.Kind, route.JobID, gpus)
	}
	if route.Kind == RouteScale {
		if err := bindScale(doc, body, route.JobID, stored); err != nil {
			return err
		}
	}
	if doc != nil {
		raw = doc.Encode()
	}
	g.pass(w, r, raw, token)
	return nil
}

// readStored reads the body; doc is nil where Nomad reads none, or takes it as
// it is.
func (g *Gate) readStored(w http.ResponseWriter, r *http.Request, kind RouteKind) (raw []byte, doc *jobspec.Document, body storedRequest, err error) {
	if kind == RouteDispatchPayload || kind == RoutePeriodicForce {
		raw, err = g.readRaw(w, r)
		return raw, nil, body, err
	}
	if raw, err = g.readBody(w, r); err != nil {
		return nil, nil, body, err
	}
	if doc, body, err = jobspec.ParseObject[storedRequest](raw); err != nil {
		return nil, nil, body, refuseBody(err)
	}
	return raw, doc, body, nil
}

// bindScale makes Nomad refuse the request if the job has changed since it was
// looked at. A job that is not there cannot be bound to: the answer is Nomad's.
func bindScale(doc *jobspec.Document, body storedRequest, jobID string, stored *api.Job) error {
	if stored == nil && jobID != "" {
		return &answer{status: http.StatusNotFound, header: http.Header{"Content-Type": {"text/plain; charset=utf-8"}},
			body: fmt.Appendf(nil, "job %q not found", jobID)}
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
	return &answer{status: http.StatusInternalServerError, body: []byte(text),
		header: http.Header{"Content-Type": {"text/plain; charset=utf-8"}}}
}

func jobModifyIndex(j *api.Job) uint64 {
	if j == nil || j.JobModifyIndex == nil {
		return 0
	}
	return *j.JobModifyIndex
}

// storedJob is the stored job that a request would start work from, or nil.
func (g *Gate) storedJob(ctx context.Context, route Route, version uint64, at scope, token string) (*api.Job, error) {
	if route.JobID == "" {
		return nil, nil // Nomad finds no such job
	}
	if route.Kind != RouteRevert {
		return g.nomad.job(ctx, route.JobID, at, token)
	}
	versions, err := g.nomad.versions(ctx, route.JobID, at, token)
	for _, v := range versions {
		if v != nil && jobVersion(v) == version {
			return v, err
		}
	}
	return nil, err
}
