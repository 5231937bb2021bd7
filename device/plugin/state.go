package plugin

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/nomad-governor/governor/device/inventory"
)

// identityFile holds the topology group of each GPU of this node.
const identityFile = "groups.json"

// IdentityPath is the file that keeps group identities below a state directory.
func IdentityPath(stateDir string) string { return filepath.Join(stateDir, identityFile) }

// LoadIdentity reads the group identities; none are kept yet when there is no
// file. A file that cannot be understood is an error: guessing would move GPUs
// between groups under running allocations.
func LoadIdentity(stateDir string) (inventory.Identity, error) {
	var id inventory.Identity
	name := IdentityPath(stateDir)
	text, err := os.ReadFile(name)
	if errors.Is(err, fs.ErrNotExist) {
		return id, nil
	}
	if err != nil {
		return id, fmt.Errorf("read the group identities: %w", err)
	}
	if err := json.Unmarshal(text, &id); err != nil {
		return inventory.Identity{}, fmt.Errorf("read the group identities: %s is damaged (%w); drain the node and remove the file", name, err)
	}
	return id, nil
}

// saveIdentity replaces the file. The rename makes it whole or absent.
func saveIdentity(stateDir string, id inventory.Identity) error {
	if err := os.MkdirAll(stateDir, 0o700); err != nil {
		return fmt.Errorf("keep the group identities: %w", err)
	}
	text, err := json.MarshalIndent(id, "", "  ")
	if err != nil {
		return fmt.Errorf("keep the group identities: %w", err)
	}
	temp, err := os.CreateTemp(stateDir, ".groups-*")
	if err != nil {
		return fmt.Errorf("keep the group identities: %w", err)
	}
	_, err = temp.Write(append(text, '\n'))
	err = errors.Join(err, temp.Sync(), temp.Close())
	if err == nil {
		err = os.Rename(temp.Name(), IdentityPath(stateDir))
	}
	if err != nil {
		_ = os.Remove(temp.Name()) // of no use
		return fmt.Errorf("keep the group identities: %w", err)
	}
	return nil
}
