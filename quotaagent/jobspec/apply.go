package jobspec

import (
	"errors"
	"fmt"
	"slices"
)

// connectProxyPrefix starts the name of the task that Nomad adds for a Consul
// Connect sidecar (nomad/structs/connect.go); all that it adds, gateways too,
// start with connectPrefix.
const (
	connectPrefix      = "connect-"
	connectProxyPrefix = connectPrefix + "proxy-"
)

// Apply adds the patch's constraints and affinities to the job in a register,
// plan or validate document, at the end of the lists that are there, after
// removing the constraints that it drops. Nothing else changes. After an error the document may be changed in part.
func Apply(doc *Document, patch Patch) error {
	if patch.Empty() {
		return nil
	}
	job := doc.root.field("Job")
	if job == nil || job.kind != '{' {
		return errors.New("patch job: the document has no Job object")
	}
	if patch.Drop != "" {
		dropConstraints(job, patch.Drop)
	}
	for _, gp := range patch.Groups {
		group, err := findNamed(job, "TaskGroups", gp.Group)
		if err != nil {
			return fmt.Errorf("patch task group %q: %w", gp.Group, err)
		}
		if err := applyGroup(group, gp); err != nil {
			return fmt.Errorf("patch task group %q: %w", gp.Group, err)
		}
	}
	return nil
}

// dropConstraints removes the constraints on a target from every task group.
func dropConstraints(job *node, target string) {
	groups := job.field("TaskGroups")
	if groups == nil {
		return
	}
	for _, group := range groups.items {
		constraints := group.field("Constraints")
		if constraints == nil {
			continue
		}
		constraints.items = slices.DeleteFunc(constraints.items, func(c *node) bool {
			on := c.field("LTarget")
			return on != nil && on.kind == '"' && decodeString(on.raw) == target
		})
	}
}

func applyGroup(group *node, gp GroupPatch) error {
	if err := appendConstraints(group, gp.Constraints); err != nil {
		return err
	}
	if err := appendAffinities(group, gp.Affinities); err != nil {
		return err
	}
	for _, dp := range gp.Devices {
		device, err := findDevice(group, dp)
		if err != nil {
			return fmt.Errorf("device %d of task %q: %w", dp.Index, dp.Task, err)
		}
		if err := appendConstraints(device, dp.Constraints); err != nil {
			return fmt.Errorf("device %d of task %q: %w", dp.Index, dp.Task, err)
		}
	}
	return nil
}

// findNamed returns the only object in parent's list whose Name is name.
func findNamed(parent *node, list, name string) (*node, error) {
	var found *node
	items := parent.field(list)
	if items == nil {
		return nil, fmt.Errorf("%s has no such entry", list)
	}
	for _, item := range items.items {
		n := item.field("Name")
		if n == nil || n.kind != '"' || decodeString(n.raw) != name {
			continue
		}
		if found != nil {
			return nil, fmt.Errorf("%s has two entries of that name", list)
		}
		found = item
	}
	if found == nil {
		return nil, fmt.Errorf("%s has no such entry", list)
	}
	return found, nil
}

func findDevice(group *node, dp DevicePatch) (*node, error) {
	task, err := findNamed(group, "Tasks", dp.Task)
	if err != nil {
		if task = findSidecar(group, dp.Task); task == nil {
			return nil, err
		}
	}
	devices := (*node)(nil)
	if resources := task.field("Resources"); resources != nil {
		devices = resources.field("Devices")
	}
	if devices == nil || dp.Index < 0 || dp.Index >= len(devices.items) {
		return nil, errors.New("the task has no such device block")
	}
	device := devices.items[dp.Index]
	if device.kind != '{' {
		return nil, errors.New("the device block is not an object")
	}
	return device, nil
}

// findSidecar returns the sidecar_task block that Nomad merges into the
// injected task of that name.
func findSidecar(group *node, task string) *node {
	services := group.field("Services")
	if services == nil {
		return nil
	}
	for _, s := range services.items {
		connect := s.field("Connect")
		if connect == nil {
			continue
		}
		sidecar, name := connect.field("SidecarTask"), s.field("Name")
		if sidecar == nil || sidecar.kind != '{' {
			continue
		}
		service := ""
		if name != nil && name.kind == '"' {
			service = decodeString(name.raw)
		}
		if connectProxyPrefix+service == task {
			return sidecar
		}
	}
	return nil
}

func appendConstraints(n *node, constraints []Constraint) error {
	if len(constraints) == 0 {
		return nil
	}
	l, err := n.list("Constraints")
	if err != nil {
		return err
	}
	for _, c := range constraints {
		l.items = append(l.items, object(
			pair("LTarget", stringNode(c.LTarget)),
			pair("RTarget", stringNode(c.RTarget)),
			pair("Operand", stringNode(c.Operand)),
		))
	}
	return nil
}

func appendAffinities(n *node, affinities []Affinity) error {
	if len(affinities) == 0 {
		return nil
	}
	l, err := n.list("Affinities")
	if err != nil {
		return err
	}
	for _, a := range affinities {
		l.items = append(l.items, object(
			pair("LTarget", stringNode(a.LTarget)),
			pair("RTarget", stringNode(a.RTarget)),
			pair("Operand", stringNode(a.Operand)),
			pair("Weight", intNode(a.Weight)),
		))
	}
	return nil
}
