package ledger_test

import (
	"errors"
	"strings"
	"testing"

	"github.com/shoenig/test/must"
)

// A job that names the state that it loads is drawn to the node that has it: in a host
// volume, or as somebody says who put it there, until that runs out.
func TestJobsAreDrawnToTheirState(t *testing.T) {
	s := alone(t, "state") // others would take the GPUs beside it
	s.apply(routesPolicy("state", 4))
	on := func(id, state string) (node, told string) {
		sent := s.submit(job{id: id, gpus: 1, meta: map[string]string{"governor_state": state}})
		must.Eq(t, 0, sent.ExitCode, must.Sprint(sent.Output()))
		return s.running(id, 1)[0].NodeName, sent.Output()
	}
	node, told := on("served", hostVolume+"=140GiB")
	must.Eq(t, "hopper3", node)
	s.says(told, "state there: llama-3-70b (140 GiB) is read from disk in about 30s", `state: group "g" will load for about 30s before there is anything to compute`)

	register := func(args ...string) {
		done := s.governor(append([]string{"state", "register"}, args...)...)
		must.Eq(t, 0, done.ExitCode, must.Sprint(done.Output()))
	}
	register("-node=hopper1", "-tier=gpu", "-size=8GiB", "-ttl=1s", "team/kv")
	register("-node=hopper2", "-tier=memory", "-size=8GiB", "-ttl=10m", "team/kv")
	s.eventually("what nobody renews is gone", func() error {
		if text := s.governor("state", "list").Output(); strings.Contains(text, "hopper1") || !strings.Contains(text, "hopper2") {
			return errors.New(text)
		}
		return nil
	})
	node, told = on("chat", "team/kv")
	must.Eq(t, "hopper2", node)
	s.says(told, "team/kv (8.0 GiB) is read from memory")
	plan := s.submit(job{id: "wrong", gpus: 1, meta: map[string]string{"governor_state": "team/kv=lots"}})
	must.Eq(t, 1, plan.ExitCode)
	s.says(plan.Output(), `job meta governor_state is "team/kv=lots": size of team/kv: "lots" is no size`, "placement_unknown")

	for _, id := range []string{"served", "chat"} {
		must.Eq(t, 0, s.nomad("job", "stop", "-detach", id).ExitCode)
		s.settled(id)
	}
}
