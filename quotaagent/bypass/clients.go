package bypass

import (
	"slices"
	"strings"
)

// clients looks at the drivers of the clients with GPUs: what a task may do there
// beyond its devices.
func (e *examiner) clients() {
	if e.facts.missing(CheckNodes) {
		return
	}
	e.driver(RawExec, Open, "raw_exec", func(a map[string]string) bool { return true },
		"clients with GPUs run raw_exec tasks",
		"Such a task is not isolated and can open every GPU of its node without a device block; what it does cannot be read from its job.",
		inFiles(`/plugin *"raw_exec"/,/^}/ s/enabled *= *true/enabled = false/`))
	on := func(attribute string) func(map[string]string) bool {
		return func(a map[string]string) bool { return a[attribute] == "true" || a[attribute] == "1" }
	}
	refused := " The gate refuses jobs in which it is written; past the gate nobody does."
	e.driver(DockerPrivileged, e.reached(), "docker", on("driver.docker.privileged.enabled"),
		"docker runs privileged containers on clients with GPUs", "A privileged container has every GPU of its node."+refused,
		inFiles(`s/allow_privileged *= *true/allow_privileged = false/`))
	e.driver(DockerVolumes, e.reached(), "docker", on("driver.docker.volumes.enabled"),
		"docker mounts directories of the host on clients with GPUs", "A container that mounts /dev or the driver's sockets reaches GPUs that it was not given."+refused,
		inFiles(`/volumes *{/,/}/ s/enabled *= *true/enabled = false/`))
	e.driver(DockerRuntime, e.reached(), "docker", func(a map[string]string) bool {
		return slices.Contains(strings.FieldsFunc(a["driver.docker.runtimes"], func(r rune) bool { return r == ',' || r == ' ' }), "nvidia")
	}, "docker has the runtime nvidia on clients with GPUs",
		"With NVIDIA_VISIBLE_DEVICES=all in its image or environment a container gets every GPU."+refused,
		`sed -i 's/^#\? *accept-nvidia-visible-devices-envvar-when-unprivileged *=.*/accept-nvidia-visible-devices-envvar-when-unprivileged = false/' /etc/nvidia-container-runtime/config.toml`)
	e.untold()
}

// driver adds one finding for all clients of which something holds.
func (e *examiner) driver(code string, s Severity, driver string, holds func(map[string]string) bool, what, why, command string) {
	var who []string
	for _, c := range e.facts.Clients {
		if attributes, has := c.Drivers[driver]; has && holds(attributes) {
			who = append(who, "node "+c.Name)
		}
	}
	if len(who) == 0 {
		return
	}
	slices.Sort(who)
	e.add(Finding{Code: code, Severity: s, Check: CheckNodes, What: what, Who: who, Why: why, Close: []string{command}})
}

// untold lists what Nomad does not say of docker.
func (e *examiner) untold() {
	var who []string
	for _, c := range e.facts.Clients {
		if _, has := c.Drivers["docker"]; has {
			who = append(who, "node "+c.Name)
		}
	}
	if len(who) == 0 {
		return
	}
	slices.Sort(who)
	e.add(Finding{Code: DockerUntold, Severity: Unknown, Check: CheckNodes, Who: who,
		What: "which runtimes docker may use (allow_runtimes), and whether the NVIDIA toolkit obeys NVIDIA_VISIBLE_DEVICES of an image",
		Why:  "Nomad does not tell; an image that asks for all GPUs gets them where the toolkit obeys it.",
		Close: []string{"grep -rn allow_runtimes /etc/nomad.d/",
			"grep -n accept-nvidia-visible-devices /etc/nvidia-container-runtime/config.toml"}})
}
