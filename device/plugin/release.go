package plugin

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/nomad-governor/governor/device/inventory"
)

// releaseFile asks the plugin to let go of the driver while it is there.
const releaseFile = "released"

// releasedReason is the health of every device meanwhile.
const releasedReason = "driver_released: the driver was released for maintenance: run nomad-device-gpu resume when it is back"

// ReleasePath is the file that asks a plugin with this state directory to let
// go of the driver.
func ReleasePath(stateDir string) string { return filepath.Join(stateDir, releaseFile) }

// SetReleased asks the plugin to let go of the driver, so that its kernel modules
// can be unloaded, or to take it again. The plugin notices within seconds.
func SetReleased(stateDir string, released bool) error {
	if !released {
		if err := os.Remove(ReleasePath(stateDir)); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("resume: %w", err)
		}
		return nil
	}
	if err := os.MkdirAll(stateDir, 0o700); err != nil {
		return fmt.Errorf("release the driver: %w", err)
	}
	if err := os.WriteFile(ReleasePath(stateDir), nil, 0o600); err != nil {
		return fmt.Errorf("release the driver: %w", err)
	}
	return nil
}

// released reports whether the driver is to be left alone.
func (m *monitor) released() bool {
	_, err := os.Stat(ReleasePath(m.settings.StateDir))
	return err == nil
}

// release makes every device unhealthy and ends what holds the driver.
func (m *monitor) release() {
	prev := m.all()
	m.complain(errors.New(releasedReason), len(prev.Devices))
	m.store(inventory.Fail(prev, releasedReason))
	m.source.Release()
	m.readyOnce.Do(func() { close(m.ready) })
}
