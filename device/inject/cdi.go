package inject

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
)

// specVersion is the oldest version of the CDI specification that has all
// fields we write, so that the most engines read the file.
const specVersion = "0.5.0"

// deviceNamePattern is the CDI specification's rule for a device's name.
var deviceNamePattern = regexp.MustCompile(`^[A-Za-z0-9]([A-Za-z0-9._:-]*[A-Za-z0-9])?$`)

// The parts of a CDI specification that we write.
type (
	cdiSpec struct {
		Version        string      `json:"cdiVersion"`
		Kind           string      `json:"kind"`
		Devices        []cdiDevice `json:"devices"`
		ContainerEdits cdiEdits    `json:"containerEdits"` // of every container with a device
	}
	cdiDevice struct {
		Name           string   `json:"name"`
		ContainerEdits cdiEdits `json:"containerEdits"`
	}
	cdiEdits struct {
		Env         []string   `json:"env,omitempty"`
		DeviceNodes []cdiNode  `json:"deviceNodes,omitempty"`
		Mounts      []cdiMount `json:"mounts,omitempty"`
	}
	cdiNode struct {
		Path        string `json:"path"`
		HostPath    string `json:"hostPath"`
		Permissions string `json:"permissions"`
	}
	cdiMount struct {
		HostPath      string   `json:"hostPath"`
		ContainerPath string   `json:"containerPath"`
		Options       []string `json:"options"`
	}
)

// mountOptions are those of a file that the task only reads.
var mountOptions = []string{"ro", "nosuid", "nodev", "rbind", "rprivate"}

// Spec is the CDI specification of devices: one entry each, named by its UUID,
// sorted. Shares of a GPU are one entry. A device whose nodes are missing has
// none; Reserve says why. It is nil when no device is left, because a
// specification must have one.
func (h Host) Spec(devices []Device) ([]byte, error) {
	common, missing := h.existing(h.sharedNodes())
	if len(missing) > 0 || len(h.missingLibraries()) > 0 {
		return nil, nil // no device works
	}
	spec := cdiSpec{Version: specVersion, Kind: h.options.Kind}
	spec.ContainerEdits.DeviceNodes = h.cdiNodes(common)
	if !searchedAnyway(h.options.LibraryDir) {
		spec.ContainerEdits.Env = []string{EnvLibraryPath + "=" + h.options.LibraryDir}
	}
	for _, m := range h.libraryMounts() {
		spec.ContainerEdits.Mounts = append(spec.ContainerEdits.Mounts,
			cdiMount{HostPath: m.HostPath, ContainerPath: m.TaskPath, Options: mountOptions})
	}
	for _, d := range devices {
		wanted, err := h.nodesOf(d)
		if err != nil || !deviceNamePattern.MatchString(d.UUID) {
			continue
		}
		own, missing := h.existing(wanted)
		if len(missing) > 0 {
			continue
		}
		spec.Devices = append(spec.Devices, cdiDevice{Name: d.UUID, ContainerEdits: cdiEdits{DeviceNodes: h.cdiNodes(own)}})
	}
	slices.SortFunc(spec.Devices, func(a, b cdiDevice) int { return strings.Compare(a.Name, b.Name) })
	spec.Devices = slices.CompactFunc(spec.Devices, func(a, b cdiDevice) bool { return a.Name == b.Name })
	if len(spec.Devices) == 0 {
		return nil, nil
	}
	text, err := json.MarshalIndent(spec, "", "  ")
	if err != nil {
		return nil, fmt.Errorf("write the CDI specification: %w", err)
	}
	return append(text, '\n'), nil
}

func (h Host) cdiNodes(nodes []node) []cdiNode {
	var out []cdiNode
	for _, n := range h.granted(nodes) {
		out = append(out, cdiNode{Path: n.TaskPath, HostPath: n.HostPath, Permissions: n.Permissions})
	}
	return out
}

// WriteSpec keeps the specification of devices in SpecPath: it replaces the
// file at once, leaves one with the same content alone, and removes it when no
// device is left. It reports whether it changed something. Only one process may
// keep one file.
func (h Host) WriteSpec(devices []Device) (changed bool, err error) {
	file := h.SpecPath()
	spec, err := h.Spec(devices)
	if err != nil {
		return false, err
	}
	if spec == nil {
		err := os.Remove(file)
		if errors.Is(err, fs.ErrNotExist) {
			return false, nil
		}
		if err != nil {
			return false, fmt.Errorf("remove the CDI specification: %w", err)
		}
		return true, nil
	}
	if present, err := os.ReadFile(file); err == nil && bytes.Equal(present, spec) {
		return false, nil
	}
	if err := replaceFile(file, spec); err != nil {
		return false, fmt.Errorf("write the CDI specification: %w", err)
	}
	return true, nil
}

// replaceFile writes a file so that a reader sees the old or the new content,
// never a part. Engines watch the directory for .json and .yaml alone.
func replaceFile(file string, content []byte) error {
	if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
		return err
	}
	partial, err := os.CreateTemp(filepath.Dir(file), filepath.Base(file)+".*.partial")
	if err != nil {
		return err
	}
	defer os.Remove(partial.Name()) // gone when it was renamed
	_, err = partial.Write(content)
	err = errors.Join(err, partial.Chmod(0o644), partial.Sync(), partial.Close())
	if err != nil {
		return err
	}
	return os.Rename(partial.Name(), file)
}
