package passage_test

import (
	"bufio"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/shoenig/test/must"

	"github.com/nomad-governor/governor/e2e/cluster"
)

// cpuJob is a job without GPUs under the side's own name.
func cpuJob(attributes string) string {
	return `{"Job": {"ID": "@", "Name": "@", "Datacenters": ["nowhere"], ` + attributes + `"Type": "batch", ` + cpuGroup + `}}`
}

// writes are made once directly and once through the gate, in this order.
func (th things) writes() []exchange {
	token := th["TOKEN"]
	stored := strings.NewReplacer(`"@"`, `"@-p"`).Replace(cpuJob(`"ParameterizedJob": {"Payload": "optional", "MetaOptional": ["k"]}, `))
	cron := strings.NewReplacer(`"@"`, `"@-c"`).Replace(cpuJob(`"Periodic": {"Enabled": true, "Spec": "0 0 1 1 *", "SpecType": "cron"}, `))
	all := []exchange{
		{method: "PUT", target: "/v1/jobs", body: cpuJob(""), want: 200},
		{method: "POST", target: "/v1/job/@?pretty", body: cpuJob(`"Priority": 60, `), want: 200},
		{method: "PUT", target: "/v1/jobs?namespace=default&region=global", body: cpuJob(`"Priority": 61, `), chunked: true, want: 200},
		{method: "PUT", target: "/v1/job/@/versions/golden/tag", body: `{"Version": 0, "Description": "d"}`, want: 200},
		{method: "DELETE", target: "/v1/job/@/versions/golden/tag", want: 200},
		{method: "DELETE", target: "/v1/job/@/versions/golden/tag"},
		{method: "POST", target: "/v1/job/@/revert", body: `{"JobID": "@", "JobVersion": 0}`, want: 200},
		{method: "PUT", target: "/v1/jobs", body: cpuJob(`"Priority": 62, `), expect: true, want: 200},
		{method: "PUT", target: "/v1/jobs", body: cpuJob(`"Priority": 63, `), header: []string{"Accept-Encoding: gzip"}, want: 200},
		{method: "PUT", target: "/v1/jobs", body: cpuJob(`"Priority": 1000, `)},
		{method: "PUT", target: "/v1/jobs?namespace=nope", body: cpuJob("")},
		{method: "PUT", target: "/v1/jobs?region=nope", body: cpuJob("")},
		{method: "PUT", target: "/v1/jobs", body: strings.Replace(cpuJob(""), `{"Job"`, `{"EnforceIndex": true, "JobModifyIndex": 1, "Job"`, 1)},
		{method: "PUT", target: "/v1/jobs", body: strings.Replace(cpuJob(""), `{"Job"`, `{"PreserveCounts": true, "EvalPriority": 500, "Job"`, 1)},
		{method: "PUT", target: "/v1/job/@/plan", body: strings.Replace(cpuJob(`"Priority": 64, `), `{"Job"`, `{"Diff": true, "Job"`, 1), want: 200},
		{method: "PUT", target: "/v1/validate/job", body: cpuJob(""), want: 200},
		{method: "POST", target: "/v1/validate/job", body: cpuJob(`"Priority": -3, `), want: 200},
		{method: "PUT", target: "/v1/job/@/evaluate", body: `{"JobID": "@"}`, want: 200},
		{method: "PUT", target: "/v1/job/@/scale", body: `{"Count": 0, "Target": {"Group": "g"}, "Message": "m"}`, want: 200},
		{method: "PUT", target: "/v1/job/@/scale", body: `{"Count": 3, "Target": {"Group": "nope"}}`},
		{method: "PUT", target: "/v1/job/@/scale", body: `{"Error": true, "Message": "m", "Target": {"Group": "g"}}`, want: 200},
		{method: "PUT", target: "/v1/job/@-none/scale", body: `{"Count": 3, "Target": {"Group": "g"}}`},
		{method: "POST", target: "/v1/job/@/revert", body: `{"JobID": "@", "JobVersion": 99}`},
		{method: "POST", target: "/v1/job/@/revert", body: `{"JobID": "other", "JobVersion": 0}`},
		// Nomad makes the version that it marks the current one.
		{method: "POST", target: "/v1/job/@/stable", body: `{"JobID": "@", "JobVersion": 5, "Stable": true}`, want: 200},
		{method: "PUT", target: "/v1/jobs", body: stored, want: 200},
		{method: "PUT", target: "/v1/job/@-p/dispatch", body: `{"Meta": {"k": "v"}, "Payload": "aGk="}`, want: 200},
		{method: "PUT", target: "/v1/job/@-p/dispatch?idempotency_token=@", body: `{}`, want: 200},
		{method: "PUT", target: "/v1/job/@-p/dispatch?idempotency_token=@", body: `{}`, want: 200},
		{method: "PUT", target: "/v1/job/@-p/dispatch", body: `{"Meta": {"other": "v"}}`},
		{method: "PUT", target: "/v1/job/@-p/dispatch/payload", body: "\x00raw", chunked: true, want: 200},
		{method: "PUT", target: "/v1/job/@/dispatch", body: `{}`},
		{method: "PUT", target: "/v1/jobs", body: cron, want: 200},
		{method: "PUT", target: "/v1/job/@-c/periodic/force", want: 200},
		{method: "PUT", target: "/v1/job/@/periodic/force"},
		{method: "DELETE", target: "/v1/job/@?purge=x"},
		{method: "DELETE", target: "/v1/job/@-p", want: 200}, {method: "DELETE", target: "/v1/job/@-c?purge=true", want: 200},
		{method: "DELETE", target: "/v1/job/@", want: 200}, {method: "DELETE", target: "/v1/job/@-none"},

		{method: "PUT", target: "/v1/namespace", body: `{"Name": "@", "Description": "d"}`, want: 200},
		{method: "POST", target: "/v1/namespace/@", body: `{"Name": "@", "Meta": {"a": "b"}}`, want: 200},
		{method: "PUT", target: "/v1/namespace/@", body: `{"Name": "other"}`}, {method: "PUT", target: "/v1/namespace", body: `{"Name": "b@d name"}`},
		{method: "GET", target: "/v1/namespace/@", want: 200}, {method: "DELETE", target: "/v1/namespace/@", want: 200}, {method: "DELETE", target: "/v1/namespace/@"},
		{method: "PUT", target: "/v1/node/pools", body: `{"Name": "@"}`, want: 200}, {method: "PUT", target: "/v1/node/pool/@", body: `{"Name": "@"}`},
		{method: "DELETE", target: "/v1/node/pool/@", want: 200}, {method: "DELETE", target: "/v1/node/pool/default"},
		{method: "PUT", target: "/v1/node/NODE/eligibility", body: `{"Eligibility": "ineligible"}`, want: 200},
		{method: "PUT", target: "/v1/node/NODE/eligibility", body: `{"Eligibility": "eligible"}`, want: 200},
		{method: "PUT", target: "/v1/node/NODE/drain", body: `{"DrainSpec": null, "MarkEligible": true}`, want: 200},
		{method: "PUT", target: "/v1/node/nope/drain", body: `{}`},

		{method: "PUT", target: "/v1/var/a/@", body: `{"Path": "a/@", "Items": {"k": "v"}}`, want: 200},
		{method: "PUT", target: "/v1/var/a/@?cas=1", body: `{"Path": "a/@", "Items": {"k": "w"}}`, want: 409},
		{method: "PUT", target: "/v1/var/a/@?cas=x", body: `{"Path": "a/@", "Items": {"k": "w"}}`},
		{method: "POST", target: "/v1/var/a/@", body: `{"Path": "other", "Items": {"k": "w"}}`},
		{method: "PUT", target: "/v1/var/a/@?lock-acquire", body: `{"Path": "a/@", "Items": {"k": "v"}, "Lock": {"TTL": "15s"}}`, chunked: true, want: 200},
		{method: "GET", target: "/v1/var/a/@", want: 200}, {method: "DELETE", target: "/v1/var/a/@"},
		{method: "PUT", target: "/v1/var/b/@", body: `{"Path": "b/@", "Items": {"k": "` + strings.Repeat("x", 70000) + `"}}`},
		{method: "PUT", target: "/v1/var/b/@", body: `{"Path": "b/@", "Items": {"k": "v"}}`, expect: true, want: 200}, {method: "DELETE", target: "/v1/var/b/@", want: 204},

		{method: "PUT", target: "/v1/acl/policy/@", body: `{"Name": "@", "Rules": "namespace \"default\" { policy = \"read\" }"}`, want: 200},
		{method: "PUT", target: "/v1/acl/policy/@", body: `{"Name": "@", "Rules": "nonsense {"}`},
		{method: "PUT", target: "/v1/acl/token", body: `{"Name": "@", "Type": "client", "Policies": ["@"]}`, want: 200},
		{method: "PUT", target: "/v1/acl/token", body: `{"Name": "@", "Type": "client"}`},
		{method: "PUT", target: "/v1/acl/role", body: `{"Name": "@", "Policies": [{"Name": "@"}]}`, want: 200},
		{method: "PUT", target: "/v1/acl/auth-method", body: `{"Name": "@"}`}, {method: "PUT", target: "/v1/acl/binding-rule", body: `{}`},
		{method: "PUT", target: "/v1/acl/bootstrap"}, {method: "PUT", target: "/v1/acl/token/onetime", want: 200},
		{method: "PUT", target: "/v1/acl/token/onetime/exchange", body: `{"OneTimeSecretID": "nope"}`},
		{method: "PUT", target: "/v1/acl/login", body: `{"AuthMethodName": "nope", "LoginToken": "x"}`},
		{method: "POST", target: "/v1/acl/oidc/auth-url", body: `{"AuthMethodName": "nope"}`}, {method: "DELETE", target: "/v1/acl/policy/@", want: 200},

		{method: "PUT", target: "/v1/operator/scheduler/configuration", body: `{"SchedulerAlgorithm": "nonsense"}`},
		{method: "PUT", target: "/v1/operator/autopilot/configuration", body: `{"CleanupDeadServers": true}`, want: 200},
		{method: "PUT", target: "/v1/agent/schedulers/config", body: `{"num_schedulers": 900}`}, {method: "PUT", target: "/v1/agent/join?address=nope"},
		{method: "PUT", target: "/v1/agent/force-leave?node=nope"}, {method: "PUT", target: "/v1/system/reconcile/summaries", want: 200},
		{method: "POST", target: "/v1/system/gc"}, {method: "PUT", target: "/v1/allocation/nope/stop"}, {method: "PUT", target: "/v1/deployment/promote/nope", body: `{}`},
		{method: "PUT", target: "/v1/deployment/fail/nope"}, {method: "PUT", target: "/v1/client/allocation/nope/signal", body: `{"Signal": "SIGHUP"}`},
		{method: "GET", target: "/v1/client/allocation/nope/restart"}, {method: "DELETE", target: "/v1/evaluations", body: `{"EvalIDs": []}`},
		{method: "DELETE", target: "/v1/service/nope/nope"}, {method: "PUT", target: "/v1/volume/csi/nope/create", body: `{}`},
		{method: "PUT", target: "/v1/volume/host/create", body: `{}`}, {method: "DELETE", target: "/v1/volumes/claim/nope"},
		{method: "PUT", target: "/v1/operator/keyring/nope"}, {method: "PUT", target: "/v1/quota", body: `{}`}, {method: "PUT", target: "/v1/sentinel/policy/x", body: `{}`},
		{method: "PUT", target: "/v1/operator/snapshot", body: "no snapshot", chunked: true, racy: []int{403, 500}},
		{method: "POST", target: "/ui/jobs"}, {method: "DELETE", target: "/"},
		{method: "PUT", target: "//v1/jobs", body: cpuJob("")},
	}
	var out []exchange
	for _, e := range all {
		with := th.fill(e)
		with.token = token
		out = append(out, with)
	}
	for _, e := range all { // and what Nomad's ACLs say to nobody, and to a made-up token
		// Of a body with two faults Nomad names another first: the gate asks about the
		// stored job, and so about the token, before Nomad sees the body.
		twice := strings.Contains(e.body, "EvalPriority") || strings.Contains(e.body, `"JobID": "other"`)
		if !e.expect && !twice {
			without, madeUp := th.fill(e), th.fill(e)
			without.want, madeUp.want, madeUp.token = 0, 0, "11111111-2222-3333-4444-555555555555"
			out = append(out, without, madeUp)
		}
	}
	return out
}

// spoken is a request that the gate answers itself, beside Nomad's answer.
type spoken struct {
	exchange
	nomad, gate int
}

// spoken are the reasons why the two differ: a body that the gate cannot judge, and
// a write of which it cannot know what a later Nomad does with it.
func (th things) spoken() []spoken {
	token := th["TOKEN"]
	twice := strings.Replace(cpuJob(""), `"Name"`, `"ID": "x", "Name"`, 1)
	return []spoken{
		{exchange{method: "PUT", target: "/v1/jobs", token: token}, 400, 400},
		{exchange{method: "PUT", target: "/v1/jobs", token: token, body: "nonsense"}, 400, 400},
		{exchange{method: "PUT", target: "/v1/jobs", token: token, body: `{}`}, 400, 400},
		{exchange{method: "PUT", target: "/v1/job/other", token: token, body: cpuJob("")}, 400, 400},
		{exchange{method: "PUT", target: "/v1/validate/job", token: token, body: cpuJob("") + "trailing"}, 200, 400},
		{exchange{method: "PUT", target: "/v1/validate/job", token: token, body: twice}, 200, 400},
		{exchange{method: "PUT", target: "/v1/nodes", token: token}, 405, 403},
		{exchange{method: "DELETE", target: "/v1/jobs", token: token}, 405, 403},
		{exchange{method: "PATCH", target: "/v1/job/ticking", token: token}, 405, 403},
		{exchange{method: "PUT", target: "/v1/job", token: token}, 307, 403},
		{exchange{method: "PUT", target: "/v1/x/../jobs", token: token}, 307, 403},
		{exchange{method: "PUT", target: "/v1/future", token: token}, 404, 403},
	}
}

// sameStreams opens each stream on both sides at once: they show the same.
func sameStreams(t *testing.T, c *cluster.Cluster, s sides, th things) {
	fresh := 0
	log := "/v1/client/fs/logs/" + th["ALLOC"] + "?task=t&type=stdout&follow=true&origin=start&plain="
	for target, keep := range map[string]func(string) bool{
		// An index that is still to come: from the oldest one on, Nomad may drop what is
		// pruned from its buffer meanwhile, and ends the stream.
		"/v1/event/stream?topic=Job&index=999999999": func(line string) bool { return strings.Contains(line, "stream-") },
		log + "true": func(line string) bool { return strings.HasPrefix(line, "line ") },
		"/v1/agent/monitor?log_level=debug&plain=true": func(line string) bool {
			_, marker, found := strings.Cut(line, "/v1/jobs?prefix=marker")
			return found && marker != ""
		},
	} {
		fresh++ // a job that is registered again and the same is no event
		t.Run(target, func(t *testing.T) {
			direct, through := openStream(t, s.direct.address+target, th["TOKEN"]), openStream(t, s.gated.address+target, th["TOKEN"])
			must.Eq(t, direct.header, through.header)
			done := make(chan struct{})
			go func() { // what the streams tell of
				defer close(done)
				time.Sleep(2 * time.Second) // until both are subscribed, which cannot be asked
				for i := range 5 {
					e := exchange{method: "PUT", target: "/v1/jobs", token: th["TOKEN"], body: strings.ReplaceAll(cpuJob(""), `"@"`, fmt.Sprintf(`"stream-%d-%d"`, fresh, i))}
					_, _ = s.direct.do(e)
					_, _ = s.direct.do(exchange{method: "GET", target: "/v1/jobs?prefix=marker" + fmt.Sprint(i), token: th["TOKEN"]})
				}
			}()
			want, got := direct.lines(keep, 5), through.lines(keep, 5)
			<-done
			must.Len(t, 5, want)
			if strings.Contains(target, "monitor") { // Nomad stamps a line for each that listens
				want, got = []string{ages.ReplaceAllString(strings.Join(want, "\n"), "<when>")}, []string{ages.ReplaceAllString(strings.Join(got, "\n"), "<when>")}
			}
			must.Eq(t, want, got)
		})
	}
}

// stream is an answer that does not end.
type stream struct {
	header http.Header
	body   io.Reader
}

func openStream(t *testing.T, address, token string) stream {
	t.Helper()
	request, err := http.NewRequestWithContext(t.Context(), http.MethodGet, address, nil)
	must.NoError(t, err)
	request.Header.Set("X-Nomad-Token", token)
	client := http.Client{Transport: &http.Transport{DisableCompression: true}}
	response, err := client.Do(request)
	must.NoError(t, err)
	t.Cleanup(func() { response.Body.Close() })
	must.EqOp(t, http.StatusOK, response.StatusCode)
	stop := time.AfterFunc(30*time.Second, func() { response.Body.Close() })
	t.Cleanup(func() { stop.Stop() })
	header := response.Header.Clone()
	for _, h := range volatile {
		header.Del(h)
	}
	// Nomad ends a stream with the connection, the gate with a last chunk.
	return stream{header, response.Body}
}

// lines are the first lines of a stream that are kept.
func (s stream) lines(keep func(string) bool, n int) []string {
	var out []string
	lines := bufio.NewScanner(s.body)
	lines.Buffer(nil, 8<<20)
	for len(out) < n && lines.Scan() {
		if keep(lines.Text()) {
			out = append(out, lines.Text())
		}
	}
	return out
}
