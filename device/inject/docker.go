package inject

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"path/filepath"
	"slices"
	"strings"
)

// dockerConfigFile is where the Docker daemon's configuration is, below the
// host root.
const dockerConfigFile = "/etc/docker/daemon.json"

// containerRuntime is the program of NVIDIA's container runtime.
const containerRuntime = "nvidia-container-runtime"

// docker is what the Docker daemon's configuration says of runtimes.
type docker struct {
	runtimes       []string // names, sorted
	defaultRuntime string   // empty for Docker's own
}

func (d docker) has(runtime string) bool { return slices.Contains(d.runtimes, runtime) }

// parseDockerConfig reads daemon.json. A file of white space alone is one
// without settings, as for dockerd.
func parseDockerConfig(text string) (docker, error) {
	text = strings.TrimPrefix(text, "\ufeff")
	if strings.TrimSpace(text) == "" {
		return docker{}, nil
	}
	var config struct {
		Runtimes       map[string]json.RawMessage `json:"runtimes"`
		DefaultRuntime string                     `json:"default-runtime"`
	}
	if err := json.Unmarshal([]byte(text), &config); err != nil {
		return docker{}, err
	}
	return docker{runtimes: slices.Sorted(maps.Keys(config.Runtimes)), defaultRuntime: config.DefaultRuntime}, nil
}

// readDocker reads the configuration below a root; no file is no setting.
func readDocker(root string) (docker, []Finding) {
	file := filepath.Join(root, dockerConfigFile)
	text, err := readText(file)
	if errors.Is(err, fs.ErrNotExist) {
		return docker{}, nil
	}
	if err != nil {
		return docker{}, []Finding{{
			What:   fmt.Sprintf("read Docker's runtimes: %v", err),
			Advice: "Run the Nomad client as root, or set the mode instead of auto."}}
	}
	config, err := parseDockerConfig(text)
	if err != nil {
		return docker{}, []Finding{{
			What:   fmt.Sprintf("read Docker's runtimes: %s: %v", file, err),
			Advice: "Correct the file: Docker does not start with it either."}}
	}
	return config, nil
}

// runtimeInstalled reports whether the runtime's program is there, whatever
// Docker knows of it.
func runtimeInstalled(root string) bool { return programInstalled(root, containerRuntime) }

// dockerInstalled reports whether the node can run Docker's daemon.
func dockerInstalled(root string) bool { return programInstalled(root, "dockerd") }

func programInstalled(root, name string) bool {
	for _, dir := range programDirs {
		if _, ok := regularFile(root, filepath.Join(root, dir, name), 0o111); ok {
			return true
		}
	}
	return false
}
