package jobspec

import (
	"path"
	"slices"
	"strconv"
	"strings"
)

// reachesGPU reports whether a text of a driver's option names NVIDIA's devices:
// a path of theirs, alone or before a colon as in a volume, or a CDI name.
func reachesGPU(text string) bool {
	if strings.Contains(text, "nvidia.com/gpu") || strings.Contains(text, "nvidia.com/mig") {
		return true
	}
	host, _, _ := strings.Cut(text, ":")
	return isGPUPath(host) || isGPUPath(text)
}

// isGPUPath reports whether a path on the host holds NVIDIA's devices or the
// sockets of its daemons: all of /dev, a device, or what stands for one.
func isGPUPath(p string) bool {
	if !strings.HasPrefix(p, "/") {
		return false
	}
	p = path.Clean(p)
	if p == "/dev" || p == "/dev/char" {
		return true
	}
	p = strings.TrimPrefix(p, "/var")
	for _, prefix := range []string{"/dev/nvidia", "/dev/char/195:", "/run/nvidia", "/tmp/nvidia-mps", "/proc/driver/nvidia"} {
		if strings.HasPrefix(p, prefix) {
			return true
		}
	}
	return false
}

// isOff reports whether an option is left out or turned off. What cannot be
// judged is on.
func isOff(values []string) bool {
	return !slices.ContainsFunc(values, func(s string) bool {
		if n, err := strconv.ParseFloat(s, 64); err == nil {
			return n != 0
		}
		if on, err := strconv.ParseBool(s); err == nil {
			return on
		}
		return s != "" && s != "none"
	})
}

func isSysAdmin(capability string) bool {
	c := strings.TrimPrefix(strings.ToLower(capability), "cap_")
	return c == "sys_admin" || c == "all" || unresolved(capability)
}

// isExec is true for the drivers that isolate with the host's own file systems.
func isExec(driver string) bool { return driver == "exec" || driver == "exec2" || driver == "java" }

// isContainer is true for the drivers whose tasks see the devices that they were
// given, and no others.
func isContainer(driver string) bool {
	return driver == "docker" || driver == "podman" || driver == "containerd-driver"
}

// showsNothing reports whether a value of a visible-devices variable hides every
// GPU.
func showsNothing(value string) bool {
	switch strings.ToLower(strings.TrimSpace(value)) {
	case "", "void", "none", "-1", "nodevfiles":
		return true
	}
	return false
}

// unresolved reports whether a text still holds a variable, which may become
// anything.
func unresolved(text string) bool { return strings.Contains(text, "${") }
