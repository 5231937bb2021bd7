package gate

import (
	"errors"
	"net/http"
	"strings"

	"github.com/hashicorp/nomad/api"
)

const tokenHeader = "X-Nomad-Token"

// resolveToken finds the ACL token exactly as Nomad does: the header, then a
// bearer token, then the one in the body (command/agent/http.go, parseToken).
func resolveToken(h http.Header, body string) string {
	if t := h.Get(tokenHeader); t != "" {
		return strings.TrimSpace(t)
	}
	scheme, value, ok := strings.Cut(h.Get("Authorization"), " ")
	if ok && strings.ToLower(scheme) == "bearer" {
		first, _, _ := strings.Cut(strings.TrimSpace(value), " ")
		return strings.TrimSpace(first)
	}
	return body
}

// checkToken refuses a token that no header can carry. Nomad has none like it, and
// without a word here the gate would find Nomad unreachable.
func checkToken(token string) error {
	if strings.ContainsFunc(token, func(r rune) bool { return r < ' ' && r != '\t' || r == 0x7f }) {
		return errors.New("the token in its body has control characters, which no token of Nomad has")
	}
	return nil
}

// scope is where a request takes effect.
type scope struct {
	namespace string
	// region may be empty: the agent's own.
	region string
}

// registerScope is Nomad's rule for register and plan: for the namespace the
// query beats the body and the body the job; for the region the body beats the
// query (command/agent/job_endpoint.go, namespaceForJob and regionForJob).
func registerScope(job *api.Job, query scope, body api.WriteRequest, agentRegion string) scope {
	out := scope{namespace: firstOf(query.namespace, body.Namespace, value(job.Namespace), api.DefaultNamespace)}
	out.region = firstOf(body.Region, query.region, value(job.Region))
	if out.region == "" || out.region == api.GlobalRegion {
		out.region = agentRegion
	}
	if job.Multiregion == nil || len(job.Multiregion.Regions) == 0 {
		return out
	}
	for _, r := range job.Multiregion.Regions {
		if r != nil && r.Name == out.region {
			return out
		}
	}
	if first := job.Multiregion.Regions[0]; first != nil {
		out.region = first.Name
	}
	return out
}

// validateScope is Nomad's rule for validate: the job's own namespace, and
// the query's region before the body's.
func validateScope(job *api.Job, query scope, body api.WriteRequest, agentRegion string) scope {
	return scope{
		namespace: firstOf(value(job.Namespace), api.DefaultNamespace),
		region:    firstOf(query.region, body.Region, agentRegion),
	}
}

// writeScope is Nomad's rule for every other write (parseWriteRequest).
func writeScope(query, body scope, agentRegion string) scope {
	return scope{
		namespace: firstOf(query.namespace, body.namespace, api.DefaultNamespace),
		region:    firstOf(query.region, body.region, agentRegion),
	}
}

func queryScope(r *http.Request) scope {
	q := r.URL.Query()
	return scope{namespace: q.Get("namespace"), region: q.Get("region")}
}

func firstOf(values ...string) string {
	for _, v := range values {
		if v != "" {
			return v
		}
	}
	return ""
}

func value(s *string) string {
	if s == nil {
		return ""
	}
	return *s
}
