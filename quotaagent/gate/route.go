package gate

import (
	"net/http"
	"strings"
)

// RouteKind says how the gate treats a request.
type RouteKind uint8

// The kinds of routes. The Admitter decides about all from RouteRegister to
// RouteRevert, when they concern GPUs.
const (
	// RouteOutside is everything that is not under /v1/: the UI and redirects.
	RouteOutside RouteKind = iota
	// RouteRead cannot change anything, whatever its method.
	RouteRead
	// RouteWrite is a known write that starts no GPU work of its own.
	RouteWrite
	// RouteRegister, RoutePlan and RouteValidate bring a whole job.
	RouteRegister
	RoutePlan
	RouteValidate
	// RouteScale and the rest up to RouteRevert start work from a stored job.
	RouteScale
	RouteDispatch
	RouteDispatchPayload
	RoutePeriodicForce
	RouteRevert
	// RouteStable marks a version, which Nomad then makes the current one.
	RouteStable
	// RouteUnknownWrite is a write that the gate does not know.
	RouteUnknownWrite
)

// governed is true for the routes that bring a whole job.
func (k RouteKind) governed() bool { return k >= RouteRegister && k <= RouteValidate }

// ofStored is true for the routes that start work from a stored job.
func (k RouteKind) ofStored() bool { return k >= RouteScale && k <= RouteRevert }

// String returns a stable name for logs and tests.
func (k RouteKind) String() string {
	return [...]string{
		"outside", "read", "write", "register", "plan", "validate", "scale", "dispatch", "dispatch_payload",
		"periodic_force", "revert", "stable", "unknown_write",
	}[k]
}

// Route is what Classify found out.
type Route struct {
	Kind RouteKind
	// JobID is the job that the path names; empty when it names none.
	JobID string
}

// Classify says what Nomad would do with a request. path is the decoded path:
// Nomad decides by the suffix of what follows /v1/job/, so that job ids may
// hold slashes, and its order of suffixes is repeated here
// (command/agent/job_endpoint.go, JobSpecificRequest). POST equals PUT.
func Classify(method, path string) Route {
	if !strings.HasPrefix(path, "/v1/") {
		if isWrite(method) && path == "/v1" {
			return Route{Kind: RouteUnknownWrite}
		}
		return Route{Kind: RouteOutside}
	}
	if kind, ok := ofAnyMethod(path); ok {
		return Route{Kind: kind}
	}
	if !isWrite(method) {
		return Route{Kind: RouteRead, JobID: jobOf(path)}
	}
	put := method == http.MethodPut || method == http.MethodPost
	if rest, ok := strings.CutPrefix(path, "/v1/job/"); ok {
		return classifyJob(method, rest)
	}
	switch {
	case readsByPost[path]:
		return Route{Kind: RouteRead}
	case path == "/v1/jobs" && put:
		return Route{Kind: RouteRegister}
	case path == "/v1/validate/job" && put:
		return Route{Kind: RouteValidate}
	case isKnownWrite(path):
		return Route{Kind: RouteWrite}
	}
	return Route{Kind: RouteUnknownWrite}
}

// isWrite is true for every method that Nomad does not serve as a read. None of
// its handlers starts work on GET, HEAD or OPTIONS; those that change something
// then are in ofAnyMethod.
func isWrite(method string) bool {
	return method != http.MethodGet && method != http.MethodHead && method != http.MethodOptions
}

// jobSuffixes in the order in which Nomad tries them. The kind is that of a
// PUT or POST; RouteRead stands for handlers that only read, or refuse, then.
var jobSuffixes = [...]struct {
	suffix string
	kind   RouteKind
}{
	{"/evaluate", RouteWrite},
	{"/allocations", RouteRead},
	{"/evaluations", RouteRead},
	{"/periodic/force", RoutePeriodicForce},
	{"/plan", RoutePlan},
	{"/summary", RouteRead},
	{"/dispatch", RouteDispatch},
	{"/dispatch/payload", RouteDispatchPayload},
	{"/versions", RouteRead},
	{"/revert", RouteRevert},
	{"/deployments", RouteRead},
	{"/deployment", RouteRead},
	{"/stable", RouteStable},
	{"/scale", RouteScale},
	{"/services", RouteRead},
	{"/submission", RouteRead},
	{"/actions", RouteRead},
	{"/action", RouteWrite},
	{"/tag", RouteWrite},
}

func classifyJob(method, rest string) Route {
	put := method == http.MethodPut || method == http.MethodPost
	for _, s := range jobSuffixes {
		id, ok := strings.CutSuffix(rest, s.suffix)
		switch {
		case !ok:
		case put:
			return Route{Kind: s.kind, JobID: id}
		case s.suffix == "/summary" || s.suffix == "/versions":
			return Route{Kind: RouteRead, JobID: id} // their handlers do not look at the method
		case method == http.MethodDelete && s.suffix == "/tag":
			return Route{Kind: RouteWrite, JobID: id}
		default:
			return Route{Kind: RouteUnknownWrite, JobID: id}
		}
	}
	switch {
	case put:
		return Route{Kind: RouteRegister, JobID: rest}
	case method == http.MethodDelete:
		return Route{Kind: RouteWrite, JobID: rest}
	}
	return Route{Kind: RouteUnknownWrite, JobID: rest}
}

func jobOf(path string) string {
	rest, ok := strings.CutPrefix(path, "/v1/job/")
	if !ok {
		return ""
	}
	return strings.TrimSuffix(rest, jobSuffix(rest))
}

// jobSuffix returns the suffix by which Nomad would route a job path, or the
// empty string for the job itself.
func jobSuffix(rest string) string {
	for _, s := range jobSuffixes {
		if strings.HasSuffix(rest, s.suffix) {
			return s.suffix
		}
	}
	return ""
}

// readsByPost change nothing although clients call them with POST.
var readsByPost = map[string]bool{
	"/v1/jobs/parse":    true,
	"/v1/jobs/statuses": true,
	"/v1/search":        true,
	"/v1/search/fuzzy":  true,
}

// knownWrites start no GPU work of their own: they end work, move work that
// was admitted, or administer the cluster under Nomad's own ACLs.
var knownWrites = map[string]bool{
	"/v1/client/identity/renew":            true,
	"/v1/client/metadata":                  true,
	"/v1/agent/join":                       true,
	"/v1/agent/force-leave":                true,
	"/v1/agent/servers":                    true,
	"/v1/agent/schedulers/config":          true,
	"/v1/agent/reload":                     true,
	"/v1/evaluations":                      true,
	"/v1/namespace":                        true,
	"/v1/namespaces":                       true,
	"/v1/operator/autopilot/configuration": true,
	"/v1/operator/license":                 true,
	"/v1/operator/scheduler/configuration": true,
	"/v1/operator/snapshot":                true,
	"/v1/operator/utilization":             true,
	"/v1/system/gc":                        true,
	"/v1/system/reconcile/summaries":       true,
	"/v1/node/pools":                       true,
	"/v1/quota":                            true, // of Nomad Enterprise, as are sentinel's
	"/v1/vars":                             true,
	"/v1/volumes":                          true,
	"/v1/volumes/external":                 true,
	"/v1/volumes/snapshot":                 true,
	"/v1/volumes/claims":                   true,
}

// knownWritePrefixes are families of known writes.
var knownWritePrefixes = [...]string{
	"/v1/acl/",
	"/v1/deployment/",
	"/v1/namespace/",
	"/v1/node/",
	"/v1/operator/keyring/",
	"/v1/operator/raft/",
	"/v1/plugin/csi/",
	"/v1/quota/",
	"/v1/sentinel/policy/",
	"/v1/service/",
	"/v1/var/",
	"/v1/volume/csi/",
	"/v1/volume/host/",
	"/v1/volumes/claim/",
}

// ofAnyMethod knows the handlers of Nomad that do not look at the method: a GET
// restarts an allocation, and a POST reads a log.
func ofAnyMethod(path string) (RouteKind, bool) {
	switch path {
	case "/v1/client/gc", "/v1/agent/keyring/install", "/v1/agent/keyring/use", "/v1/agent/keyring/remove":
		return RouteWrite, true
	case "/v1/client/stats", "/v1/agent/monitor", "/v1/agent/monitor/export", "/v1/agent/keyring/list", "/v1/volumes/claims":
		return RouteRead, true
	}
	if strings.HasPrefix(path, "/v1/client/fs/") || strings.HasPrefix(path, "/v1/agent/pprof/") {
		return RouteRead, true
	}
	if rest, ok := strings.CutPrefix(path, "/v1/client/allocation/"); ok {
		switch _, action, _ := strings.Cut(rest, "/"); action {
		case "restart", "gc":
			return RouteWrite, true
		case "stats", "checks", "snapshot":
			return RouteRead, true
		}
	}
	if rest, ok := strings.CutPrefix(path, "/v1/allocation/"); ok {
		_, action, _ := strings.Cut(rest, "/")
		return RouteRead, action == "checks"
	}
	return RouteOutside, false
}

func isKnownWrite(path string) bool {
	if knownWrites[path] {
		return true
	}
	for _, p := range knownWritePrefixes {
		if strings.HasPrefix(path, p) {
			return true
		}
	}
	if rest, ok := strings.CutPrefix(path, "/v1/allocation/"); ok {
		_, action, _ := strings.Cut(rest, "/")
		return action == "stop"
	}
	if rest, ok := strings.CutPrefix(path, "/v1/client/allocation/"); ok {
		switch _, action, _ := strings.Cut(rest, "/"); action {
		case "signal", "pause", "exec":
			return true
		}
	}
	return false
}
