package gate

import (
	"context"
	"net/http"

	"github.com/nomad-governor/governor/quotaagent/jobspec"
)

// storedRequest is what the bodies of dispatch and revert may say about whose
// request it is and which job it means.
type storedRequest struct {
	JobID      string
	JobVersion uint64
	Namespace  string
	Region     string
	AuthToken  string
}

// ungoverned lets requests pass that start work from a stored job, unless that
// job asks for GPUs.
func (g *Gate) ungoverned(w http.ResponseWriter, r *http.Request, route Route) error {
	var body storedRequest
	var doc *jobspec.Document
	if route.Kind == RouteDispatch || route.Kind == RouteRevert {
		raw, err := g.readBody(w, r)
		if err != nil {
			return err
		}
		if doc, body, err = jobspec.ParseObject[storedRequest](raw); err != nil {
			return refuseBody(err)
		}
		if doc.Has("AuthToken") {
			doc.SetText("AuthToken", "")
		}
	}
	at := writeScope(queryScope(r), scope{namespace: body.Namespace, region: body.Region}, g.config.Region)
	token := resolveToken(r.Header, body.AuthToken)
	gpus, err := g.storedGPUs(r.Context(), route, body.JobVersion, at, token)
	if err != nil {
		return err
	}
	if gpus > 0 {
		return refuseRoute(route.Kind, route.JobID, gpus)
	}
	if doc != nil {
		g.pass(w, r, doc.Encode(), token)
		return nil
	}
	g.proxy.ServeHTTP(w, r)
	return nil
}

// storedGPUs is how many GPUs the stored job asks for that a request names.
func (g *Gate) storedGPUs(ctx context.Context, route Route, version uint64, at scope, token string) (int, error) {
	if route.JobID == "" {
		return 0, nil // Nomad finds no such job
	}
	if route.Kind != RouteRevert {
		job, err := g.nomad.job(ctx, route.JobID, at, token)
		return jobGPUs(job), err
	}
	versions, err := g.nomad.versions(ctx, route.JobID, at, token)
	for _, v := range versions {
		if v != nil && jobVersion(v) == version {
			return jobGPUs(v), err
		}
	}
	return 0, err
}
