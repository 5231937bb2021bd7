package gate

import (
	"net/http"
	"slices"
	"strings"
)

// effect is what a request does in Nomad 1.11.3.
type effect uint8

const (
	// nothing: no handler, or one that refuses the method, or a redirect.
	nothing effect = iota
	reads
	writes
	// The rest start work, or dry-run it, and stand for the RouteKind of the same name.
	registers
	plans
	validates
	scales
	dispatches
	dispatchesPayload
	forces
	reverts
	marksStable // and makes the version the current one
)

// starts is true for what a budget must allow.
func (e effect) starts() bool { return e >= registers && e != plans && e != validates }

// kinds are the RouteKinds for effects that concern whole or stored jobs.
var kinds = map[effect]RouteKind{
	registers: RouteRegister, plans: RoutePlan, validates: RouteValidate, scales: RouteScale, dispatches: RouteDispatch,
	dispatchesPayload: RouteDispatchPayload, forces: RoutePeriodicForce, reverts: RouteRevert, marksStable: RouteStable,
}

// did is what one request did, and to which job.
type did struct {
	effect effect
	jobID  string
}

// rule says what a handler does with a method and the decoded path.
type rule func(method, path string) did

// nomadRoutes is what registerHandlers of Nomad 1.11.3 registers
// (command/agent/http.go), with each handler's own checks of the method. It is
// written from Nomad's source and shares nothing with route.go.
var nomadRoutes = map[string]rule{
	"/v1/jobs":          by("GET", reads, "PUT POST", registers),
	"/v1/jobs/parse":    by("PUT POST", reads),
	"/v1/jobs/statuses": by("GET POST", reads),
	"/v1/job/":          jobSpecific,
	"/v1/validate/job":  by("PUT POST", validates),

	"/v1/nodes":      by("GET", reads),
	"/v1/node/":      bySuffix(by("GET", reads), "/evaluate", "/drain", "/eligibility", "/purge"),
	"/v1/node/pools": by("GET", reads, "PUT POST", writes),
	"/v1/node/pool/": by("GET", reads, "PUT POST DELETE", writes),

	"/v1/allocations":       by("GET", reads),
	"/v1/allocation/":       allocSpecific,
	"/v1/evaluations":       by("GET", reads, "DELETE", writes),
	"/v1/evaluations/count": by("GET", reads),
	"/v1/evaluation/":       by("GET", reads),
	"/v1/deployments":       by("GET", reads),
	"/v1/deployment/":       deploymentSpecific,

	"GET /v1/volumes":      by("GET HEAD", reads),
	"/v1/volumes":          by("PUT POST", writes),
	"/v1/volumes/external": by("GET", reads),
	"/v1/volumes/snapshot": by("GET", reads, "PUT POST DELETE", writes),
	"/v1/volume/csi/":      by("GET", reads, "PUT DELETE", writes),
	"/v1/plugins":          by("GET", reads),
	"/v1/plugin/csi/":      by("GET", reads),
	"/v1/volume/host/":     by("GET", reads, "PUT POST DELETE", writes),
	"/v1/volumes/claims":   anyMethod(reads),
	"/v1/volumes/claim/":   by("DELETE", writes),

	"/v1/acl/policies":                           by("GET", reads),
	"/v1/acl/policy/":                            by("GET", reads, "PUT POST DELETE", writes),
	"/v1/acl/token/onetime":                      by("PUT POST", writes),
	"/v1/acl/token/onetime/exchange":             by("PUT POST", writes),
	"/v1/acl/bootstrap":                          by("PUT POST", writes),
	"/v1/acl/tokens":                             by("GET", reads),
	"/v1/acl/token":                              by("PUT POST", writes),
	"/v1/acl/token/":                             by("GET", reads, "PUT POST DELETE", writes),
	"/v1/acl/roles":                              by("GET", reads),
	"/v1/acl/role":                               by("PUT POST", writes),
	"/v1/acl/role/":                              by("GET", reads, "PUT POST DELETE", writes),
	"/v1/acl/auth-methods":                       by("GET", reads),
	"/v1/acl/auth-method":                        by("PUT POST", writes),
	"/v1/acl/auth-method/":                       by("GET", reads, "PUT POST DELETE", writes),
	"/v1/acl/binding-rules":                      by("GET", reads),
	"/v1/acl/binding-rule":                       by("PUT POST", writes),
	"/v1/acl/binding-rule/":                      by("GET", reads, "PUT POST DELETE", writes),
	"/v1/acl/oidc/auth-url":                      by("PUT POST", writes),
	"/v1/acl/oidc/complete-auth":                 by("PUT POST", writes),
	"/v1/acl/login":                              by("PUT POST", writes),
	"/v1/acl/identity/client-introduction-token": by("PUT POST", writes),

	"/v1/client/fs/":            anyMethod(reads),
	"/v1/client/gc":             anyMethod(writes),
	"/v1/client/stats":          anyMethod(reads),
	"/v1/client/allocation/":    clientAlloc,
	"/v1/client/metadata":       by("GET", reads, "POST", writes),
	"/v1/client/identity":       by("GET", reads),
	"/v1/client/identity/renew": by("PUT POST", writes),

	"/v1/agent/self":              by("GET", reads),
	"/v1/agent/join":              by("PUT POST", writes),
	"/v1/agent/members":           by("GET", reads),
	"/v1/agent/force-leave":       by("PUT POST", writes),
	"/v1/agent/servers":           by("GET", reads, "PUT POST", writes),
	"/v1/agent/schedulers":        by("GET", reads),
	"/v1/agent/schedulers/config": by("GET", reads, "PUT POST", writes),
	"/v1/agent/keyring/":          agentKeyring,
	"/v1/agent/health":            by("GET", reads),
	"/v1/agent/host":              by("GET", reads),
	"/v1/agent/monitor":           anyMethod(reads),
	"/v1/agent/monitor/export":    anyMethod(reads),
	"/v1/agent/pprof/":            anyMethod(reads),
	"/v1/metrics":                 by("GET", reads),
	"/v1/services":                by("GET", reads),
	"/v1/service/":                by("GET", reads, "DELETE", writes),
	"/v1/regions":                 by("GET", reads),
	"/v1/scaling/policies":        by("GET", reads),
	"/v1/scaling/policy/":         by("GET", reads),
	"/v1/status/leader":           by("GET", reads),
	"/v1/status/peers":            by("GET", reads),
	"/v1/search/fuzzy":            by("PUT POST", reads),
	"/v1/search":                  by("PUT POST", reads),

	"/v1/operator/license":                 by("GET", reads, "PUT POST", writes),
	"/v1/operator/raft/":                   by("GET", reads, "PUT POST DELETE", writes),
	"/v1/operator/keyring/":                by("GET", reads, "PUT POST DELETE", writes),
	"/v1/operator/autopilot/configuration": by("GET", reads, "PUT", writes),
	"/v1/operator/autopilot/health":        by("GET", reads),
	"/v1/operator/snapshot":                by("GET", reads, "PUT POST", writes),
	"/v1/operator/upgrade-check/":          by("GET", reads),
	"/v1/operator/utilization":             by("GET", reads, "PUT POST", writes),
	"/v1/operator/scheduler/configuration": by("GET", reads, "PUT POST", writes),
	"/v1/system/gc":                        by("PUT", writes),
	"/v1/system/reconcile/summaries":       by("PUT", writes),
	"/v1/event/stream":                     by("GET", reads),
	"/v1/namespaces":                       by("GET", reads),
	"/v1/namespace":                        by("PUT POST", writes),
	"/v1/namespace/":                       by("GET", reads, "PUT POST DELETE", writes),
	"/v1/vars":                             by("GET", reads),
	"/v1/var/":                             by("GET", reads, "PUT POST DELETE", writes),

	// Nomad Enterprise's own, which others answer with 501.
	"/v1/sentinel/policies": by("GET", reads),
	"/v1/sentinel/policy/":  by("GET", reads, "PUT POST DELETE", writes),
	"/v1/quotas":            by("GET", reads),
	"/v1/quota-usages":      by("GET", reads),
	"/v1/quota/":            by("GET", reads, "PUT POST DELETE", writes),
	"/v1/quota":             by("PUT POST", writes),

	"/.well-known/jwks.json":            by("GET", reads),
	"/.well-known/openid-configuration": by("GET", reads),
	"/ui/":                              anyMethod(reads),
	"/":                                 anyMethod(nothing),
}

// by lists methods and what a handler does on them; other methods it refuses.
func by(pairs ...any) rule {
	return func(method, _ string) did {
		for i := 0; i < len(pairs); i += 2 {
			if slices.Contains(strings.Fields(pairs[i].(string)), method) {
				return did{effect: pairs[i+1].(effect)}
			}
		}
		return did{}
	}
}

func anyMethod(e effect) rule { return func(string, string) did { return did{effect: e} } }

// bySuffix is for handlers that write under some suffixes.
func bySuffix(otherwise rule, suffixes ...string) rule {
	return func(method, path string) did {
		for _, s := range suffixes {
			if strings.HasSuffix(path, s) {
				return by("PUT POST", writes)(method, path)
			}
		}
		return otherwise(method, path)
	}
}

// nomadHandler is a literal reading of JobSpecificRequest in Nomad 1.11.3: it
// names the handler and the job id that it gets.
func nomadHandler(path string) (handler, jobID string) {
	path = strings.TrimPrefix(path, "/v1/job/")
	for _, suffix := range []string{
		"/evaluate", "/allocations", "/evaluations", "/periodic/force", "/plan", "/summary", "/dispatch",
		"/dispatch/payload", "/versions", "/revert", "/deployments", "/deployment", "/stable", "/scale", "/services",
		"/submission", "/actions", "/action", "/tag",
	} {
		if strings.HasSuffix(path, suffix) {
			return suffix, strings.TrimSuffix(path, suffix)
		}
	}
	return "", path
}

// jobHandlers are the handlers that JobSpecificRequest calls. versions and summary
// do not look at the method; an action is a command in a running allocation.
var jobHandlers = map[string]rule{
	"/evaluate":         by("PUT POST", writes),
	"/allocations":      by("GET", reads),
	"/evaluations":      by("GET", reads),
	"/periodic/force":   by("PUT POST", forces),
	"/plan":             by("PUT POST", plans),
	"/summary":          anyMethod(reads),
	"/dispatch":         by("PUT POST", dispatches),
	"/dispatch/payload": by("PUT POST", dispatchesPayload),
	"/versions":         anyMethod(reads),
	"/revert":           by("PUT POST", reverts),
	"/deployments":      by("GET", reads),
	"/deployment":       by("GET", reads),
	"/stable":           by("PUT POST", marksStable),
	"/scale":            by("GET", reads, "PUT POST", scales),
	"/services":         by("GET", reads),
	"/submission":       by("GET", reads),
	"/actions":          by("GET", reads),
	"/action":           by("GET", reads), // a websocket: the upgrader takes GET only
	"/tag":              tag,
	"":                  by("GET", reads, "PUT POST", registers, "DELETE", writes),
}

func jobSpecific(method, path string) did {
	handler, id := nomadHandler(path)
	out := jobHandlers[handler](method, path)
	if out.jobID = id; id == "" && out.effect >= scales {
		return did{} // "missing job ID": no stored job is without one
	}
	return out
}

func tag(method, path string) did {
	if strings.Count(strings.TrimPrefix(path, "/v1/job/"), "/") != 3 {
		return did{}
	}
	return by("PUT POST DELETE", writes)(method, path)
}

func allocSpecific(method, path string) did {
	switch parts := strings.Split(strings.TrimPrefix(path, "/v1/allocation/"), "/"); {
	case len(parts) == 1:
		return by("GET", reads)(method, path)
	case len(parts) > 2:
		return did{}
	case parts[1] == "stop":
		return by("PUT POST", writes)(method, path)
	case parts[1] == "checks":
		return did{effect: reads}
	}
	return by("GET", reads)(method, path)
}

func deploymentSpecific(method, path string) did {
	rest := strings.TrimPrefix(path, "/v1/deployment/")
	for _, p := range []string{"fail/", "pause/", "promote/", "allocation-health/", "unblock/"} {
		if strings.HasPrefix(rest, p) {
			return by("PUT POST", writes)(method, path)
		}
	}
	return by("GET", reads)(method, path)
}

// clientAlloc: restart and gc do not look at the method; snapshot, stats and
// checks neither, but they only read.
func clientAlloc(method, path string) did {
	parts := strings.Split(strings.TrimPrefix(path, "/v1/client/allocation/"), "/")
	if len(parts) != 2 {
		return did{}
	}
	switch parts[1] {
	case "restart", "gc":
		return did{effect: writes}
	case "signal":
		return by("PUT POST", writes)(method, path)
	case "pause":
		return by("GET", reads, "PUT POST", writes)(method, path)
	case "exec":
		return by("GET", reads)(method, path) // a websocket
	case "stats", "checks", "snapshot":
		return did{effect: reads}
	}
	return did{}
}

func agentKeyring(_, path string) did {
	switch strings.TrimPrefix(path, "/v1/agent/keyring/") {
	case "list":
		return did{effect: reads}
	case "install", "use", "remove":
		return did{effect: writes}
	}
	return did{}
}

// nomadMux routes as Nomad does, with the same net/http, and tells what was done.
type nomadMux struct {
	mux  *http.ServeMux
	last did
}

func newNomadMux() *nomadMux {
	n := &nomadMux{mux: http.NewServeMux()}
	for pattern, does := range nomadRoutes {
		n.mux.HandleFunc(pattern, func(_ http.ResponseWriter, r *http.Request) { n.last = does(r.Method, r.URL.Path) })
	}
	return n
}

// serve says what the request does.
func (n *nomadMux) serve(w http.ResponseWriter, r *http.Request) did {
	n.last = did{}
	n.mux.ServeHTTP(w, r)
	return n.last
}
