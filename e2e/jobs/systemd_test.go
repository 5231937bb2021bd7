package jobs_test

import (
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"

	"github.com/shoenig/test/must"

	"github.com/nomad-governor/governor/e2e/toolchain"
	"github.com/nomad-governor/governor/hcl/agentconfig"
)

// The unit is one that systemd takes, with little for an attacker in it.
func TestTheUnitOfSystemd(t *testing.T) {
	t.Parallel()
	analyze, err := exec.LookPath("systemd-analyze")
	if err != nil {
		t.Fatal("systemd-analyze is not here: run make systemd, which make e2e does")
	}
	root, err := toolchain.Root()
	must.NoError(t, err)
	text, err := os.ReadFile(filepath.Join(root, "jobs", "systemd", "governor.service"))
	must.NoError(t, err)
	// It names a program and a user that only the package brings.
	here := strings.Replace(string(text), "/usr/bin/governor", filepath.Join(root, "bin", "governor"), 1)
	here = regexp.MustCompile(`(?m)^(User|Group)=.*$`).ReplaceAllString(here, "")
	unit := filepath.Join(t.TempDir(), "governor.service")
	must.NoError(t, os.WriteFile(unit, []byte(here), 0o644))
	said, err := exec.CommandContext(t.Context(), analyze, "verify", unit).CombinedOutput()
	must.NoError(t, err, must.Sprint(string(said)))
	must.Eq(t, "", string(said))

	said, err = exec.CommandContext(t.Context(), analyze, "security", "--offline=true", unit).CombinedOutput()
	must.NoError(t, err, must.Sprint(string(said)))
	level := regexp.MustCompile(`exposure level for \S+ ([0-9.]+)`).FindSubmatch(said)
	must.NotNil(t, level, must.Sprint(string(said)))
	exposure, err := strconv.ParseFloat(string(level[1]), 64)
	must.NoError(t, err)
	must.LessEq(t, 2.0, exposure, must.Sprint("of 10; a unit that says nothing has 9.2"))
}

// The configuration that the package installs is one that the agent takes.
func TestTheConfigurationOfThePackage(t *testing.T) {
	t.Parallel()
	root, err := toolchain.Root()
	must.NoError(t, err)
	file := filepath.Join(root, "jobs", "systemd", "agent.hcl")
	text, err := os.ReadFile(file)
	must.NoError(t, err)
	config, diags := agentconfig.Parse(file, text, agentconfig.Default())
	must.False(t, diags.HasErrors(), must.Sprint(diags))
	must.NoError(t, config.Validate())
	must.Eq(t, "/var/lib/governor", config.DataDir)
}
