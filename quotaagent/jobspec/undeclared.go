package jobspec

import (
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strings"

	"github.com/hashicorp/nomad/api"

	"github.com/nomad-governor/governor/internal/gpu"
)

// Undeclared is one way by which a task can reach GPUs that it was not given.
type Undeclared struct {
	// Group and Task say where.
	Group, Task string
	// What is written there, for people: "docker option privileged = true".
	What string
	// Fix is what to do about it.
	Fix string
}

// undeclared lists the ways by which a job can reach GPUs without asking for
// devices, or others than it was given, in the order of the job. It looks for
// what is written in the job; docs/reasons.md says what it cannot see. A stopped
// job reaches nothing.
func undeclared(j *api.Job) []Undeclared {
	if *j.Stop {
		return nil
	}
	var out []Undeclared
	for _, g := range j.TaskGroups {
		for _, t := range g.Tasks {
			meta := mergedMeta(j.Meta, g.Meta, t.Meta)
			l := lint{group: *g.Name, task: t.Name, driver: t.Driver, config: t.Config, env: t.Env, meta: meta,
				asked: len(deviceAsks(t.Name, t.Resources)) > 0}
			l.all()
			l.templates(t.Templates)
			l.volumes(g.Volumes, t.VolumeMounts)
			out = append(out, l.found...)
		}
		for _, s := range g.Services {
			if t := sidecar(s); t != nil {
				name := connectProxyPrefix + s.Name
				l := lint{group: *g.Name, task: name, driver: sidecarDriver(t), config: t.Config, env: t.Env,
					meta: mergedMeta(j.Meta, g.Meta, t.Meta), asked: len(deviceAsks(name, t.Resources)) > 0}
				l.all()
				out = append(out, l.found...)
			}
		}
	}
	return out
}

// sidecarDriver is docker unless the job says otherwise
// (nomad/job_endpoint_hook_connect.go).
func sidecarDriver(t *api.SidecarTask) string {
	if t.Driver == "" {
		return "docker"
	}
	return t.Driver
}

// mergedMeta is the meta that a task sees, by the names of its variables: as
// written and in upper case.
func mergedMeta(levels ...map[string]string) map[string]string {
	merged := map[string]string{}
	for _, l := range levels {
		maps.Copy(merged, l)
	}
	out := make(map[string]string, 2*len(merged))
	for _, k := range slices.Sorted(maps.Keys(merged)) {
		out["NOMAD_META_"+strings.ToUpper(k)] = merged[k]
	}
	for k, v := range merged {
		out["NOMAD_META_"+k] = v
	}
	return out
}

// lint looks at one task.
type lint struct {
	group, task, driver string
	config              map[string]any
	env, meta           map[string]string
	// asked says that the task has a device block for GPUs.
	asked bool
	found []Undeclared
}

func (l *lint) report(fix, format string, args ...any) {
	l.found = append(l.found, Undeclared{Group: l.group, Task: l.task, What: fmt.Sprintf(format, args...), Fix: fix})
}

// What to do about each kind of finding.
const (
	fixDevice   = `ask for GPUs with a device block, such as device "nvidia/gpu" { count = 1 }, and remove this`
	fixVariable = "remove the variable: Governor's device plugin sets it to the GPUs of the task"
	fixPower    = "remove the option, and ask for GPUs with a device block if the task needs any"
)

// all looks at what is written for the driver and in the environment.
func (l *lint) all() {
	for _, key := range slices.Sorted(maps.Keys(l.config)) {
		l.option(key, l.config[key])
	}
	for _, name := range slices.Sorted(maps.Keys(l.env)) {
		l.variable(name, l.resolve(l.env[name]))
	}
}

// option judges one option of the task's driver. Drivers name them alike; what a
// driver does not know it refuses itself.
func (l *lint) option(key string, value any) {
	values := l.texts(value)
	switch strings.ToLower(key) {
	case "privileged":
		if !isOff(values) {
			l.report(fixPower, "%s option %s = %.40s", l.driver, key, values[0])
		}
		return
	case "runtime":
		if !l.asked && !l.hidden() {
			l.anyText(key, values, fixDevice, func(s string) bool { return strings.Contains(strings.ToLower(s), "nvidia") || unresolved(s) })
		}
		return
	case "gpus", "gpu", "device_requests", "nv", "nvccli":
		if !isOff(values) {
			l.report(fixDevice, "%s option %s = %.40q", l.driver, key, values[0])
		}
		return
	case "cap_add":
		if isExec(l.driver) {
			l.anyText(key, values, fixPower, isSysAdmin)
		}
		return
	case "command", "args":
		l.command(key, values)
		return
	}
	l.anyText(key, values, fixDevice, reachesGPU)
}

// command judges what a task runs outside any container, where nothing but its
// own good will keeps it from the GPUs.
func (l *lint) command(key string, values []string) {
	switch l.driver {
	case "raw_exec":
		if !l.asked {
			l.anyText(key, values, fixDevice, func(s string) bool {
				return strings.Contains(strings.ToLower(s), "nvidia") || strings.Contains(s, "--gpus") || strings.Contains(s, "CUDA_VISIBLE_DEVICES")
			})
		}
	case "qemu":
		l.anyText(key, values, fixDevice, func(s string) bool { return strings.Contains(s, "vfio") })
	}
}

// anyText reports the first text that is one of those looked for.
func (l *lint) anyText(key string, values []string, fix string, is func(string) bool) {
	if i := slices.IndexFunc(values, is); i >= 0 {
		l.report(fix, "%s option %s has %.60q", l.driver, key, values[i])
	}
}

// variable judges one variable of the task's environment.
func (l *lint) variable(name, value string) {
	visible := name == gpu.EnvNVIDIAVisible || name == gpu.EnvCUDAVisible
	switch {
	case visible && showsNothing(value):
	case name == gpu.EnvCUDAVisible && l.asked && isContainer(l.driver) && strings.Trim(value, "0123456789,") == "":
		// Numbers count within what the container was given.
	case visible, strings.HasPrefix(name, "NVIDIA_") && l.driver == "raw_exec" && !l.asked:
		l.report(fixVariable, "env %s = %.40q", name, value)
	}
}

// templates judges templates that are read into the environment: they come after
// what the device plugin sets, and win (client/taskenv/env.go).
func (l *lint) templates(templates []*api.Template) {
	for _, t := range templates {
		if t == nil || !deref(t.Envvars, false) {
			continue
		}
		text := deref(t.EmbeddedTmpl, "")
		for _, name := range []string{gpu.EnvNVIDIAVisible, gpu.EnvCUDAVisible} {
			if assigns(text, name) {
				l.report(fixVariable, "a template with env = true sets %s", name)
			}
		}
	}
}

// assigns reports whether a template's text gives the variable a value that shows
// GPUs.
func assigns(text, name string) bool {
	for line := range strings.Lines(text) {
		_, after, found := strings.Cut(line, name)
		if !found {
			continue
		}
		value, plain := strings.CutPrefix(strings.TrimSpace(after), "=")
		if !plain || !showsNothing(strings.Trim(strings.TrimSpace(value), `"'`)) {
			return true
		}
	}
	return false
}

// volumes judges host volumes, whose paths only the nodes know, by their names
// and by where they are mounted.
func (l *lint) volumes(group map[string]*api.VolumeRequest, mounts []*api.VolumeMount) {
	for _, m := range mounts {
		if m == nil {
			continue
		}
		source := deref(m.Volume, "")
		if v := group[source]; v != nil {
			if v.Type != "host" {
				continue
			}
			source = v.Source
		}
		if strings.Contains(strings.ToLower(source), "nvidia") || source == "dev" || isGPUPath(deref(m.Destination, "")) {
			l.report(fixDevice, "host volume %.40q at %.60q", source, deref(m.Destination, ""))
		}
	}
}

// hidden reports whether the task's own environment hides every GPU from the
// nvidia runtime.
func (l *lint) hidden() bool {
	value, set := l.env[gpu.EnvNVIDIAVisible]
	return set && showsNothing(l.resolve(value))
}

// texts are all texts in a value of any shape, in the order of their keys: HCL
// blocks come as objects, lists of objects or lists of lists of objects.
func (l *lint) texts(value any) []string {
	switch v := value.(type) {
	case nil:
		return nil
	case string:
		return []string{l.resolve(v)}
	case []any:
		var out []string
		for _, item := range v {
			out = append(out, l.texts(item)...)
		}
		return out
	case map[string]any:
		var out []string
		for _, key := range slices.Sorted(maps.Keys(v)) {
			out = append(out, l.texts(v[key])...)
		}
		return out
	}
	return []string{fmt.Sprint(value)}
}

// reference is how a text names a variable: ${NAME} or ${env.NAME}.
var reference = regexp.MustCompile(`\$\{(?:env\.)?([^${}]+)\}`)

// resolve fills in the variables that the job itself sets: its environment and
// meta. Others, which nodes set, stay.
func (l *lint) resolve(text string) string {
	for range 4 { // variables in values of variables
		if !unresolved(text) || len(text) > maxResolved {
			break
		}
		replaced := reference.ReplaceAllStringFunc(text, func(ref string) string {
			if value, ok := l.known(reference.FindStringSubmatch(ref)[1]); ok {
				return value
			}
			return ref
		})
		if replaced == text {
			break
		}
		text = replaced
	}
	return text[:min(len(text), maxResolved)]
}

// maxResolved keeps variables that hold each other from growing without end.
const maxResolved = 16 << 10

// known is the value of a variable that the job itself sets.
func (l *lint) known(name string) (string, bool) {
	if value, ok := l.env[name]; ok {
		return value, true
	}
	value, ok := l.meta[name]
	return value, ok
}
