package plugin

import (
	"errors"
	"io/fs"
	"os"
	"reflect"
)

// follower notices when a file changes.
type follower struct {
	path string
	seen fs.FileInfo // nil when there was no file
}

// changed reports whether the file is another one than at the call before, or
// changed, came or went.
func (f *follower) changed() bool {
	if f.path == "" {
		return false
	}
	now, err := os.Stat(f.path)
	if err != nil {
		now = nil // a file that cannot be looked at is told of when it is read
	}
	same := now == nil && f.seen == nil ||
		now != nil && f.seen != nil && os.SameFile(now, f.seen) && now.Size() == f.seen.Size() && now.ModTime().Equal(f.seen.ModTime())
	f.seen = now
	return !same
}

// Merge lays the configuration file over the block that names it; without a file
// the block counts.
func Merge(s Settings) (Settings, error) {
	if s.ConfigFile == "" {
		return s, nil
	}
	src, err := os.ReadFile(s.ConfigFile)
	if errors.Is(err, fs.ErrNotExist) {
		return s, nil
	}
	if err != nil {
		return Settings{}, err
	}
	return s.Over(src, s.ConfigFile)
}

// reload applies a changed configuration file, as far as it can be applied to a
// plugin that runs. A file that is wrong changes nothing.
func (m *monitor) reload() {
	if !m.file.changed() {
		return
	}
	next, err := Merge(m.block)
	if err != nil {
		m.logger.Error("the configuration file is wrong; what was in force stays", "file", m.file.path, "error", err)
		return
	}
	now := m.settings
	now.FingerprintPeriod, now.HealthPeriod, now.Policy = next.FingerprintPeriod, next.HealthPeriod, next.Policy
	now.Layout.Ignored, now.Layout.IgnoredGPUs = next.Layout.Ignored, next.Layout.IgnoredGPUs
	next.Layout.Islands, next.Layout.Names = now.Layout.Islands, now.Layout.Names // of this node, not of a file
	if !reflect.DeepEqual(now.WithoutSource(), next.WithoutSource()) {
		m.logger.Warn("the configuration file changes what counts only from the next start of the client; health, periods and ignored GPUs count now", "file", m.file.path)
	} else {
		m.logger.Info("the configuration file was read", "file", m.file.path)
	}
	m.settings = now
	m.healthPeriod.Store(int64(now.HealthPeriod))
	m.mu.Lock()
	m.layout.Ignored, m.layout.IgnoredGPUs = now.Layout.Ignored, now.Layout.IgnoredGPUs
	m.inventory.Policy = now.Policy
	m.mu.Unlock()
}
