package plugin

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
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
	name := IdentityPath(stateDir)
	text, err := os.ReadFile(name)
	if errors.Is(err, fs.ErrNotExist) {
		return inventory.Identity{}, nil
	}
	if err != nil {
		return inventory.Identity{}, fmt.Errorf("read the group identities: %w", err)
	}
	id, err := parseIdentity(text)
	if err != nil {
		return inventory.Identity{}, fmt.Errorf("read the group identities: %s is damaged (%w); drain the node and remove the file", name, err)
	}
	return id, nil
}

// parseIdentity refuses what saveIdentity does not write: half a file, and what
// only a later program understands.
func parseIdentity(text []byte) (inventory.Identity, error) {
	var id *inventory.Identity
	decoder := json.NewDecoder(bytes.NewReader(text))
	decoder.DisallowUnknownFields()
	if err := decoder.Decode(&id); err != nil {
		return inventory.Identity{}, err
	}
	if _, err := decoder.Token(); !errors.Is(err, io.EOF) {
		return inventory.Identity{}, errors.New("there is more in it than the groups")
	}
	if id == nil {
		return inventory.Identity{}, errors.New("there are no groups in it")
	}
	switch id.Grouping {
	case inventory.GroupOff, inventory.GroupNVLink, inventory.GroupNUMA, inventory.GroupPCIe:
		return *id, nil
	case "":
		if len(id.Islands) == 0 {
			return *id, nil // nothing was decided yet
		}
	case inventory.GroupAuto: // is decided before it is kept
	}
	return inventory.Identity{}, fmt.Errorf("its grouping is %q", id.Grouping)
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
