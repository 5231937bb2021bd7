package plugin

import (
	"bytes"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/shoenig/test/must"
	"github.com/shoenig/test/wait"

	"github.com/nomad-governor/governor/device/inventory"
	"github.com/nomad-governor/governor/hcl/deviceconfig"
)

func TestReleasedDriverIsLetGoUntilItIsResumed(t *testing.T) {
	n, dir := newNode(2), t.TempDir()
	p := start(t, n, func(b *deviceconfig.Block) { b.StateDir = dir })
	f := fingerprint(t, p)
	eventually(t, f, map[string]string{id(0): "", id(1): ""})
	must.NoError(t, SetReleased(dir, true))
	eventually(t, f, map[string]string{id(0): releasedReason, id(1): releasedReason})
	_, err := p.Reserve([]string{id(0)})
	must.ErrorContains(t, err, "driver_released")
	must.Wait(t, wait.InitialSuccess(wait.BoolFunc(func() bool {
		n.mu.Lock()
		defer n.mu.Unlock()
		return n.released > 0
	}), wait.Timeout(10*time.Second), wait.Gap(time.Millisecond)))
	n.mu.Lock()
	reads := n.reads
	n.mu.Unlock()
	must.NoError(t, SetReleased(dir, true), must.Sprint("asking twice is asking once"))
	must.NoError(t, SetReleased(dir, false))
	eventually(t, f, map[string]string{id(0): "", id(1): ""})
	n.mu.Lock()
	defer n.mu.Unlock()
	must.Greater(t, reads, n.reads)
	must.NoError(t, SetReleased(dir, false))
}

func TestConfigurationFileCountsWhileThePluginRuns(t *testing.T) {
	n, file := newNode(3), filepath.Join(t.TempDir(), "gpu.hcl")
	write := func(text string) { must.NoError(t, os.WriteFile(file, []byte(text), 0o644)) }
	write("ignored_gpus = [\"2\"]\n")
	p := start(t, n, func(b *deviceconfig.Block) { b.ConfigFile = file })
	f := fingerprint(t, p)
	eventually(t, f, map[string]string{id(0): "", id(1): ""})

	write("health {\n  ignore = [\"xid_79\"]\n}\n")
	eventually(t, f, map[string]string{id(0): "", id(1): "", id(2): ""})
	n.xids <- inventory.Event{UUID: id(1), XID: 79}
	n.xids <- inventory.Event{UUID: id(0), XID: 95}
	eventually(t, f, map[string]string{id(0): "xid_95: uncontained memory error", id(1): "", id(2): ""})

	write("health {\n  ignore = [\"smoke\"]\n}\nignored_gpus = [\"*\"]\n") // wrong: changes nothing
	n.set(func() { n.lost[2] = "gpu_lost" })
	eventually(t, f, map[string]string{id(0): "", id(1): "", id(2): "gpu_lost"})

	must.NoError(t, os.Remove(file))
	n.set(func() { n.lost[2] = "" })
	healthOf := func(device, want string) {
		t.Helper()
		must.Wait(t, wait.InitialSuccess(wait.BoolFunc(func() bool { return f.health()[device] == want }),
			wait.Timeout(10*time.Second), wait.Gap(time.Millisecond)))
	}
	healthOf(id(2), "") // by a reading, and each begins with a look at the file
	n.xids <- inventory.Event{UUID: id(1), XID: 79}
	healthOf(id(1), "xid_79: the GPU has fallen off the bus")
}

func TestConfigurationFileThatIsWrongKeepsTheClientFromStarting(t *testing.T) {
	t.Parallel()
	file := filepath.Join(t.TempDir(), "gpu.hcl")
	must.NoError(t, os.WriteFile(file, []byte("mig_strategy = \"some\"\n"), 0o644))
	block := deviceconfig.Default()
	block.ConfigFile, block.StateDir = file, t.TempDir()
	s, err := block.Check()
	must.NoError(t, err)
	p := New(hclog.NewNullLogger(), Parts{}, time.Now)
	must.ErrorContains(t, p.Configure(s), `gpu.hcl: mig_strategy is "some"`)
	must.NoError(t, os.WriteFile(file, []byte("config_file = \"/etc/other.hcl\"\n"), 0o644))
	must.ErrorContains(t, p.Configure(s), "config_file cannot name another file")
	must.NoError(t, os.Remove(file))
	must.NoError(t, p.Configure(s), must.Sprint("a file may come later"))
}

func TestReloadSaysWhatOnlyAStartCanChange(t *testing.T) {
	t.Parallel()
	file := filepath.Join(t.TempDir(), "gpu.hcl")
	block := deviceconfig.Default()
	block.ConfigFile, block.StateDir = file, t.TempDir()
	s, err := block.Check()
	must.NoError(t, err)
	var log bytes.Buffer
	logger := hclog.New(&hclog.LoggerOptions{Output: &log, DisableTime: true})
	started := s
	started.Layout.Islands, started.Layout.Names = map[string]string{id(0): "numa0"}, map[string]string{id(0): "Card"}
	m := newMonitor(newNode(1), nil, s, started, inventory.Identity{}, logger, time.Now, time.Second)
	for _, step := range []struct{ text, want string }{
		{"fingerprint_period = \"20s\"\n", "[INFO]  the configuration file was read: file=" + file + "\n"},
		{"fingerprint_period = \"20s\"\nmig_strategy = \"none\"\n", "[WARN]  the configuration file changes what counts only from the next start of the client; health, periods and ignored GPUs count now: file=" + file + "\n"},
		{"fingerprint_period = 20\n", "[ERROR] the configuration file is wrong; what was in force stays: file=" + file},
	} {
		log.Reset()
		must.NoError(t, os.WriteFile(file, []byte(step.text), 0o644))
		m.reload()
		must.StrHasPrefix(t, step.want, log.String())
		must.Eq(t, 20*time.Second, m.settings.FingerprintPeriod)
		must.Eq(t, inventory.MIGMixed, m.settings.Layout.MIG)
		must.Eq(t, "numa0", m.settings.Layout.Islands[id(0)])
		m.reload() // a file that did not change is not read again
	}
	log.Reset()
	m.reload()
	must.Eq(t, "", log.String())
}
