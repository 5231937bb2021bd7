package gate

import (
	"fmt"
	"net/http"
	"net/url"
	"strings"
)

// Reason codes of the gate's own refusals, sent in the header ReasonHeader.
// They are stable: scripts may depend on them.
const (
	// ReasonBadRequest is an unreadable or ambiguous body.
	ReasonBadRequest = "bad_request"
	// ReasonBodyTooLarge is a body over the cap of the governed routes.
	ReasonBodyTooLarge = "body_too_large"
	// ReasonBodyEncoding is a compressed body, which Nomad cannot read either.
	ReasonBodyEncoding = "body_encoding"
	// ReasonRegionNotGoverned is GPU work for another region.
	ReasonRegionNotGoverned = "region_not_governed"
	// ReasonUnknownRoute is a write that the gate does not know.
	ReasonUnknownRoute = "unknown_route"
	// ReasonStable is a mark that would bring back a version with GPUs.
	ReasonStable = "stable_version"
	// ReasonUndecided is GPU work while budgets or ledger cannot be read.
	ReasonUndecided = "ledger_unavailable"
	// ReasonPermission is a user whose policies do not allow it, where the gate looks at
	// them itself.
	ReasonPermission = "permission_denied"
	// ReasonOwnToken is a token of the gate that Nomad does not accept for it.
	ReasonOwnToken = "agent_token"
	// ReasonNomadUnreachable is an answer that Nomad did not give.
	ReasonNomadUnreachable = "nomad_unreachable"
	// ReasonInternal is a bug in Governor.
	ReasonInternal = "internal"
)

// ReasonHeader carries the stable code of a refusal beside its text.
const ReasonHeader = "X-Governor-Reason"

// refusal is an answer of the gate itself; it is also an error.
type refusal struct {
	status int
	reason string
	text   string
}

func (r *refusal) Error() string { return r.reason + ": " + r.text }

func refuse(status int, reason, format string, args ...any) *refusal {
	return &refusal{status: status, reason: reason, text: fmt.Sprintf(format, args...)}
}

// write sends the refusal as Nomad sends its errors: plain text, which the
// stock CLI prints and the UI shows.
func (r *refusal) write(w http.ResponseWriter) {
	h := w.Header()
	h.Set("Content-Type", "text/plain; charset=utf-8")
	h.Set("X-Content-Type-Options", "nosniff")
	h.Set(ReasonHeader, r.reason)
	w.WriteHeader(r.status)
	_, _ = w.Write([]byte(strings.TrimRight(r.text, "\n") + "\n"))
}

// fromUI reports whether a request comes from a page of Nomad's UI. For a 403 that
// shows a sentence of its own about the user's token, and not the text of the answer
// (ui/app/utils/message-from-adapter-error.js): it gets its refusals as 409.
func fromUI(r *http.Request) bool {
	referer, err := url.Parse(r.Referer())
	return err == nil && strings.HasPrefix(referer.Path, "/ui/") && strings.HasPrefix(r.UserAgent(), "Mozilla/")
}

func refuseBody(err error) *refusal {
	return refuse(http.StatusBadRequest, ReasonBadRequest, "Governor cannot read this request: %v.\nNothing was changed.", err)
}

func refuseRegion(jobID, region, own string) *refusal {
	return refuse(http.StatusForbidden, ReasonRegionNotGoverned,
		"Job %q asks for GPUs in region %q, but this Governor governs region %q only.\n"+
			"Nothing was registered. Submit the job to the Governor of region %q, or set region = %q in the job.",
		jobID, region, own, region, own)
}

func refuseUnknown(method, path string) *refusal {
	return refuse(http.StatusForbidden, ReasonUnknownRoute,
		"Governor does not know the request %s %s and cannot tell whether it would start GPU work.\n"+
			"Nothing was changed. If this Nomad version has a new endpoint, an operator can let unknown writes pass "+
			"in Governor's configuration.", method, path)
}

func refuseUndecided(jobID string, err error) *refusal {
	return refuse(http.StatusServiceUnavailable, ReasonUndecided,
		"Governor cannot decide about GPU job %q now: %v.\n"+
			"Nothing was registered. Running work is not affected, and jobs without GPUs are accepted. Try again shortly.",
		jobID, err)
}

func refuseUnreachable() *refusal {
	return refuse(http.StatusBadGateway, ReasonNomadUnreachable,
		"Governor got no answer from Nomad. Try again shortly; if it stays, an operator should look at Governor's log "+
			"and at the Nomad servers.")
}
