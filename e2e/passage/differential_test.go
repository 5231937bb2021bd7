package passage_test

import (
	"regexp"
	"strings"
	"testing"

	"github.com/hashicorp/nomad/api"
	"github.com/shoenig/test/must"

	"github.com/nomad-governor/governor/e2e/cluster"
	"github.com/nomad-governor/governor/e2e/clustertest"
)

// TestTheGateIsInvisible sends the same requests to Nomad and through the gate:
// status, headers, framing and body are the same, except for what volatile and the
// masks name, and for the page of Nomad's UI.
func TestTheGateIsInvisible(t *testing.T) {
	c := clustertest.Start(t, cluster.Options{Governor: true, ACL: true, Clients: []cluster.ClientOptions{{Name: "client1"}}})
	ctx := t.Context()
	_, err := c.Register(ctx, c.NomadAddr, ticking)
	must.NoError(t, err)
	allocations, err := c.WaitAllocations(ctx, "ticking", 1, api.AllocClientStatusRunning)
	must.NoError(t, err)
	s := sides{direct: &wire{address: c.NomadAddr, name: "direct1"}, gated: &wire{address: c.GovernorAddr, name: "gated01"}}
	t.Cleanup(s.direct.close)
	t.Cleanup(s.gated.close)

	things := things{
		"NODE": c.Clients[0].NodeID, "ALLOC": allocations[0].ID, "EVAL": allocations[0].EvalID, "TOKEN": c.Token, "ALLOCPREFIX": allocations[0].ID[:8],
	}
	t.Run("reads", func(t *testing.T) {
		count := 0
		for e := range things.reads() {
			s.same(t, e)
			count++
		}
		t.Logf("%d reads compared", count)
	})
	t.Run("writes", func(t *testing.T) {
		for _, e := range things.writes() {
			s.sameWrite(t, e)
		}
		t.Logf("%d writes compared", len(things.writes()))
	})
	t.Run("where the gate speaks", func(t *testing.T) {
		for _, spoken := range things.spoken() {
			direct, err := s.direct.do(spoken.exchange)
			must.NoError(t, err)
			must.EqOp(t, spoken.nomad, direct.code, must.Sprint(spoken, direct.body))
			through, err := s.gated.do(spoken.exchange)
			must.NoError(t, err)
			must.EqOp(t, spoken.gate, through.code, must.Sprint(spoken, through.body))
			must.NotEq(t, "", through.header.Get("X-Governor-Reason"), must.Sprint(spoken))
		}
	})
	t.Run("the page of the UI", func(t *testing.T) { samePage(t, s) })
	t.Run("streams", func(t *testing.T) { sameStreams(t, c, s, things) })
}

// things are what stands for a word in capitals in the tables.
type things map[string]string

func (th things) fill(e exchange) exchange {
	for _, word := range []string{"NODE", "ALLOCPREFIX", "ALLOC", "EVAL", "TOKEN"} {
		e.target = strings.ReplaceAll(e.target, word, th[word])
		e.body = strings.ReplaceAll(e.body, word, th[word])
	}
	return e
}

// readPaths are the reads of Nomad 1.11.3 (shared with nobody: command/agent/http.go).
var readPaths = strings.Fields(`
	/v1/jobs /v1/job/ticking /v1/job/nope /v1/job/ticking/allocations /v1/job/ticking/evaluations /v1/job/ticking/summary /v1/job/ticking/versions
	/v1/job/ticking/deployments /v1/job/ticking/deployment /v1/job/ticking/scale /v1/job/ticking/services /v1/job/ticking/submission
	/v1/job/ticking/actions /v1/job/a%2Fb /v1/job/a/b/plan /v1/job/ticking/plan /v1/jobs/statuses /v1/nodes /v1/node/NODE /v1/node/NODE/allocations
	/v1/node/pools /v1/node/pool/default /v1/node/pool/default/nodes /v1/node/pool/default/jobs /v1/node/nope /v1/allocations /v1/allocation/ALLOC
	/v1/allocation/ALLOC/services /v1/allocation/ALLOC/checks /v1/allocation/nope /v1/evaluations /v1/evaluations/count /v1/evaluation/EVAL
	/v1/evaluation/EVAL/allocations /v1/deployments /v1/deployment/nope /v1/volumes /v1/volumes?type=host /v1/volumes?type=csi /v1/volumes/claims
	/v1/volumes/external /v1/volume/csi/nope /v1/volume/host/nope /v1/plugins /v1/plugin/csi/nope /v1/acl/policies /v1/acl/policy/nope
	/v1/acl/tokens /v1/acl/token/self /v1/acl/token/nope /v1/acl/roles /v1/acl/role/nope /v1/acl/auth-methods /v1/acl/auth-method/nope
	/v1/acl/binding-rules /v1/acl/binding-rule/nope /v1/client/fs/ls/ALLOC /v1/client/fs/ls/ALLOC?path=alloc/logs /v1/client/fs/stat/ALLOC?path=alloc
	/v1/client/fs/cat/ALLOC?path=local/nope /v1/client/fs/readat/ALLOC?path=alloc/logs/t.stdout.0&offset=0&limit=6
	/v1/client/fs/logs/ALLOC?task=nope&type=stdout /v1/client/fs/ls/nope /v1/client/allocation/nope/stats /v1/client/metadata?node_id=NODE
	/v1/agent/members /v1/agent/servers /v1/agent/schedulers /v1/agent/schedulers/config /v1/agent/keyring/list
	/v1/agent/health /v1/agent/health?type=server /v1/agent/pprof/nope /v1/services /v1/service/nope /v1/regions /v1/scaling/policies
	/v1/scaling/policy/nope /v1/status/leader /v1/status/peers /v1/operator/license /v1/operator/raft/configuration /v1/operator/keyring/keys
	/v1/operator/autopilot/configuration /v1/operator/upgrade-check/vault-workload-identity /v1/operator/utilization
	/v1/operator/scheduler/configuration /v1/namespaces /v1/namespace/default /v1/namespace/nope /v1/vars /v1/var/nomad/jobs/nope
	/.well-known/jwks.json /.well-known/openid-configuration /v1/sentinel/policies /v1/quotas /v1/quota/x /v1/recommendations
	/v1/future /v1/jobs/ /v1 /v1/ / /ui /ui/ /ui/jobs /ui/assets/nope.js /ui/favicon.ico /nope /v1/node/ /v1/job/ /v1/job
	//v1/jobs /v1//jobs /v1/./jobs /v1/x/../jobs /v1/x/%2e%2e/jobs /v1%2Fjobs /%76%31/jobs /v1/job/ticking/ /v1/job/%74icking /v1/job/ticking%2Fsummary
	/v1/job/tick%20ing /v1/job/tick%C3%A9 /v1/job/ticking;a=b /v1/jobs?a;b /v1/jobs?%zz /v1/jobs?prefix=%00 /V1/JOBS /v1/job/ticking/Summary
	http://nomad.example:4646/v1/jobs /v1/search /v1/validate/job /v1/system/gc /v1/acl/bootstrap /v1/event/stream?topic=a:b:c:d`)

// parameters are added to every read.
var parameters = strings.Fields(`pretty pretty=0 stale consistent region=nope region=global namespace=* namespace=nope per_page=1 per_page=x next_token=zzz prefix=t
	prefix=%2F reverse=true index=1&wait=50ms index=x wait=x index=1&wait=20ms&stale&pretty&prefix=tick filter=Status+%3D%3D+%22running%22 filter=nonsense filter=
	meta=true all=true resources=true os=true task_states=false diffs=true&diff_version=0 version=0 plain=true`)

// headers change how an answer is sent.
var headers = []string{
	"Accept-Encoding: gzip", "Accept-Encoding: deflate", "Accept-Encoding: gzip, deflate, br", "Accept-Encoding: br", "Accept-Encoding: identity;q=0",
	"Origin: http://ui.example", "If-None-Match: x", "If-Modified-Since: Mon, 02 Jan 2096 15:04:05 GMT", "Range: bytes=0-3", "Accept: text/html",
	"X-Forwarded-For: 1.2.3.4", "Te: trailers", "Cookie: a=b", "Authorization: Basic eDp5", "X-Nomad-Token: nonsense",
}

// ticks are numbers that grow by themselves: a running task's log, and the
// moments of a heartbeat.
var ticks = regexp.MustCompile(`"(Size|ModTime|StatusUpdatedAt|LastHeartbeat|LastContact)":\s*("[^"]*"|\d+)`)

func (th things) reads() func(yield func(exchange) bool) {
	return func(yield func(exchange) bool) {
		all := func(e exchange) bool {
			e = th.fill(e)
			if strings.Contains(e.target, "/client/fs/") || strings.Contains(e.target, "/node") {
				e.masks = append(e.masks, ticks)
			}
			if strings.HasSuffix(strings.Split(e.target, "?")[0], "jwks.json") {
				e.volatile = []string{"Cache-Control"} // how long the keys hold, with jitter
			}
			return asksForPage(e) || yield(e) // samePage compares those
		}
		for i, path := range readPaths {
			separator := "?"
			if strings.Contains(path, "?") {
				separator = "&"
			}
			many := []exchange{
				{method: "GET", target: path, token: th["TOKEN"]}, {method: "GET", target: path}, {method: "HEAD", target: path, token: th["TOKEN"]},
				{method: "OPTIONS", target: path, token: th["TOKEN"], header: []string{"Origin: http://ui.example", "Access-Control-Request-Method: GET"}},
				{method: "GET", target: path, header: []string{"Authorization: Bearer " + th["TOKEN"]}},
				{method: "GET", target: path, token: "11111111-2222-3333-4444-555555555555"},
			}
			// Three parameters and three headers for each path, so that all meet
			// many paths.
			for j := range 3 {
				many = append(many,
					exchange{method: "GET", target: path + separator + parameters[(i*3+j)%len(parameters)], token: th["TOKEN"]},
					exchange{method: "GET", target: path, token: th["TOKEN"], header: []string{headers[(i*3+j)%len(headers)]}})
			}
			for _, e := range many {
				if !all(e) {
					return
				}
			}
		}
		for _, p := range parameters { // and every parameter on the list of jobs
			if !all(exchange{method: "GET", target: "/v1/jobs?" + p, token: th["TOKEN"]}) {
				return
			}
		}
		for _, e := range th.otherReads() {
			if !all(e) {
				return
			}
		}
	}
}

// otherReads are those with a body, and those whose numbers change all the time.
func (th things) otherReads() []exchange {
	token, counters := th["TOKEN"], []*regexp.Regexp{regexp.MustCompile(`(?s).*`)}
	jobspec := `{"JobHCL":"job \"x\" {\n group \"g\" {\n task \"t\" {\n driver = \"exec\"\n}\n}\n}\n","Canonicalize":true}`
	return []exchange{
		{method: "POST", target: "/v1/jobs/parse", token: token, body: jobspec, want: 200},
		{method: "PUT", target: "/v1/jobs/parse", token: token, body: jobspec, chunked: true, want: 200},
		{method: "PUT", target: "/v1/jobs/parse", token: token, body: jobspec, expect: true, want: 200},
		{method: "POST", target: "/v1/jobs/parse", token: token, body: `{"JobHCL":"nonsense {"}`, want: 400},
		{method: "POST", target: "/v1/jobs/parse", token: token, body: jobspec + `trailing`, want: 200},
		{method: "POST", target: "/v1/jobs/parse", token: token},
		{method: "POST", target: "/v1/jobs/parse", token: token, header: []string{"Content-Encoding: gzip"}, body: "\x1f\x8b\x08\x00"},
		{method: "POST", target: "/v1/jobs/statuses", token: token, body: `{"Jobs":[{"ID":"ticking","Namespace":"default"}]}`, want: 200},
		{method: "POST", target: "/v1/jobs/statuses?per_page=1&index=1&wait=20ms", token: token, body: `{}`},
		{method: "POST", target: "/v1/search", token: token, body: `{"Prefix":"tick","Context":"all"}`, want: 200},
		{method: "PUT", target: "/v1/search?namespace=*", token: token, body: `{"Prefix":"ALLOCPREFIX","Context":"allocs"}`, want: 200},
		{method: "POST", target: "/v1/search", token: token, body: `{"Prefix":"x","Context":"nonsense"}`},
		{method: "POST", target: "/v1/search/fuzzy", token: token, body: `{"Text":"tick","Context":"all"}`, want: 200},
		{method: "POST", target: "/v1/client/fs/cat/ALLOC?path=local/nope", token: token},
		{method: "POST", target: "/v1/client/stats?node_id=nope", token: token},
		{method: "GET", target: "/v1/jobs?body", token: token, body: "a body on a read"},
		{method: "GET", target: "/v1/metrics?format=prometheus", token: token, want: 200, masks: counters},
		{method: "GET", target: "/v1/metrics", token: token, want: 200, masks: counters},
		{method: "GET", target: "/v1/metrics?pretty", token: token, want: 200, masks: counters},
		{method: "GET", target: "/v1/agent/self", token: token, want: 200, masks: []*regexp.Regexp{regexp.MustCompile(`"(stats)":.*`)}},
		{method: "GET", target: "/v1/agent/host", token: token, want: 200, masks: counters},
		{method: "GET", target: "/v1/client/stats?node_id=NODE", token: token, want: 200, masks: counters},
		{method: "GET", target: "/v1/client/allocation/ALLOC/stats", token: token, want: 200, masks: counters},
		{method: "GET", target: "/v1/client/allocation/ALLOC/checks", token: token, want: 200},
		{method: "GET", target: "/v1/operator/autopilot/health", token: token, want: 200, masks: []*regexp.Regexp{regexp.MustCompile(`"(LastContact|StableSince)":"[^"]*"`)}},
		{method: "GET", target: "/v1/operator/snapshot", token: token, want: 200, masks: counters, volatile: []string{"Digest"}},
		{method: "GET", target: "/v1/agent/pprof/cmdline", token: token},
		{method: "OPTIONS", target: "*"},
	}
}
