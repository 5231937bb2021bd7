package gate

import (
	"net/http"

	"github.com/nomad-governor/governor/quotaagent/jobspec"
)

// stable decides about marking a version of a job as stable. Nomad writes the
// version that is marked over the one that is registered, whichever is newer
// (nomad/state/state_store.go, updateJobStabilityImpl): an old version comes back
// with its count, and without a new index or an evaluation by which it would be
// seen. A version that is registered now may be old when Nomad gets to it, so that
// none which asks for GPUs can be marked.
func (g *Gate) stable(w http.ResponseWriter, r *http.Request, route Route) error {
	s, body, err := g.readStored(w, r, route)
	if err != nil {
		return err
	}
	if route.JobID != "" && body.JobID == route.JobID {
		raw, err := g.nomad.version(r.Context(), route.JobID, body.JobVersion, s.scope, s.token)
		if err != nil {
			return err
		}
		if raw != nil && versionWantsGPU(raw) {
			return refuse(http.StatusForbidden, ReasonStable,
				"Version %d of job %q asks for GPUs and cannot be marked as stable: Nomad would make it the job's current version\n"+
					"by that, whatever has been registered since. Nothing was changed.\nTo go back to it, use: nomad job revert %s %d",
				body.JobVersion, route.JobID, route.JobID, body.JobVersion)
		}
	}
	g.pass(w, r, s.body(), s.token)
	return nil
}

// versionWantsGPU is true for a version that asks for GPUs or reaches them without;
// also for one that cannot be read.
func versionWantsGPU(raw []byte) bool {
	old, err := jobspec.ParseStored(raw)
	if err != nil {
		return true
	}
	ask, err := jobspec.Extract(old.Job, jobspec.Defaults{})
	return err != nil || len(ask.Groups) > 0 || len(ask.Undeclared) > 0
}
