package ledger_test

import (
	"encoding/json"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/shoenig/test/must"

	"github.com/nomad-governor/governor/e2e/toolchain"
)

// consul runs Consul's own CLI.
func (s *scene) consul(args ...string) {
	s.t.Helper()
	binary, _, err := toolchain.Find(s.t.Context(), toolchain.Consul())
	must.NoError(s.t, err)
	cmd := exec.CommandContext(s.t.Context(), binary, args...)
	cmd.Env = []string{"CONSUL_HTTP_ADDR=" + s.ConsulAddr}
	out, err := cmd.CombinedOutput()
	must.NoError(s.t, err, must.Sprint(string(out)))
}

// backup copies the agent's history, and takes a snapshot of Consul right after: see
// docs/recovery.md for the order.
func (s *scene) backup() (dir string) {
	s.t.Helper()
	dir = s.t.TempDir()
	must.NoError(s.t, s.Governor.Stop())
	s.copyHistory(filepath.Join(s.Dir, "governor"), dir)
	must.NoError(s.t, s.Governor.Start(s.t.Context()))
	s.consul("snapshot", "save", filepath.Join(dir, "consul.snap"))
	return dir
}

// copyHistory replaces the history in a directory by that of another one.
func (s *scene) copyHistory(from, to string) {
	s.t.Helper()
	old, err := filepath.Glob(filepath.Join(to, "history.db*"))
	must.NoError(s.t, err)
	for _, file := range old {
		must.NoError(s.t, os.Remove(file))
	}
	files, err := filepath.Glob(filepath.Join(from, "history.db*"))
	must.NoError(s.t, err)
	must.SliceNotEmpty(s.t, files)
	for _, file := range files {
		text, err := os.ReadFile(file)
		must.NoError(s.t, err)
		must.NoError(s.t, os.WriteFile(filepath.Join(to, filepath.Base(file)), text, 0o600))
	}
}

// restore brings Consul and the history back, as docs/recovery.md says: the agents are
// stopped meanwhile.
func (s *scene) restore(dir string) {
	s.t.Helper()
	must.NoError(s.t, s.Consul.Start(s.t.Context()))
	s.consul("snapshot", "restore", filepath.Join(dir, "consul.snap"))
	s.forgetSessions()
	s.copyHistory(dir, filepath.Join(s.Dir, "governor"))
	must.NoError(s.t, s.Governor.Start(s.t.Context()))
}

// forgetSessions ends the sessions that the snapshot had. They would end by themselves
// after half a minute, for which this test does not wait.
func (s *scene) forgetSessions() {
	s.t.Helper()
	response, err := http.Get(s.ConsulAddr + "/v1/session/list")
	must.NoError(s.t, err)
	defer response.Body.Close()
	var sessions []struct{ ID string }
	must.NoError(s.t, json.NewDecoder(response.Body).Decode(&sessions))
	for _, session := range sessions {
		request, err := http.NewRequestWithContext(s.t.Context(), http.MethodPut, s.ConsulAddr+"/v1/session/destroy/"+session.ID, nil)
		must.NoError(s.t, err)
		answer, err := http.DefaultClient.Do(request)
		must.NoError(s.t, err)
		must.NoError(s.t, answer.Body.Close())
	}
}

// Consul is lost with all its data, and the history with it. Both come back from a backup
// that is older than what happened: jobs were admitted and ended after it was taken.
func TestConsulIsLostAndRestored(t *testing.T) {
	s := alone(t, "recovery")
	s.meterEvery("5s")
	s.apply(routesPolicy("recovery", 8))
	s.governing()
	s.run(job{id: "before", gpus: 1})
	s.run(job{id: "ended", gpus: 1})
	s.holding("ended", 2)
	backup := s.backup()

	s.run(job{id: "after", gpus: 2})
	s.holding("after", 4)
	must.Eq(t, 0, s.nomad("job", "stop", "-detach", "ended").ExitCode)
	s.settled("ended")

	must.NoError(t, s.Governor.Stop())
	s.Consul.Kill()
	must.NoError(t, os.RemoveAll(filepath.Join(s.Dir, "consul")))
	must.NoError(t, os.Mkdir(filepath.Join(s.Dir, "consul"), 0o755))
	s.restore(backup)
	began := time.Now()

	// What was admitted after the snapshot is found at Nomad, and what ended settles again.
	s.holding("after", 3)
	t.Logf("held again %v after the agent was started", time.Since(began).Round(time.Millisecond))
	must.StrContains(t, s.audited("out_of_band.governed", "after").Text, "is held in budget recovery")
	s.settled("ended")
	must.NotNil(t, s.hold("before"))
	must.Len(t, 1, s.running("before", 1), must.Sprint("nothing that runs is touched"))
	must.Len(t, 1, s.running("after", 1))

	for _, id := range []string{"before", "after"} {
		must.Eq(t, 0, s.nomad("job", "stop", "-detach", id).ExitCode)
		s.settled(id)
	}
	s.paid("before", "ended", "after")
	s.eventually("the history agrees with the balances", func() error {
		verified := s.governor("usage", "verify")
		if verified.ExitCode != 0 || !strings.Contains(verified.Output(), "They agree.") {
			return errNotYet(verified.Output())
		}
		return nil
	})
}

// errNotYet is what is not yet as it shall be.
type errNotYet string

// Error implements error.
func (e errNotYet) Error() string { return string(e) }
