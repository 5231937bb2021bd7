package jobspec

import "slices"

// What placement writes into a job (scheduler/rewrite): a pin at the end of a device
// block, always with the escape in its group, and the preference for a node. The
// operand of the preference, which nobody writes by hand, is its mark.
const (
	nodeTarget       = "${node.unique.id}"
	devicesTarget    = "${device.ids}"
	pinOperand       = "set_contains_any"
	escapeOperand    = "is_set"
	preferredOperand = "is"
)

// Unpinned takes out what placement wrote into the job, so that it can be placed
// anew; changed says whether there was anything.
func (s Stored) Unpinned() (out Stored, changed bool, err error) {
	raw, err := s.job()
	if err != nil {
		return Stored{}, false, err
	}
	if out, err = ParseStored(raw); err != nil {
		return Stored{}, false, err
	}
	groups := out.doc.root.field("Job").field("TaskGroups")
	if groups == nil {
		return s, false, nil
	}
	for _, group := range groups.items {
		changed = unpinGroup(group) || changed
	}
	if !changed {
		return s, false, nil
	}
	if raw, err = out.job(); err != nil {
		return Stored{}, false, err
	}
	out, err = ParseStored(raw)
	return out, true, err
}

func unpinGroup(group *node) bool {
	preferred := removeFrom(group, "Affinities", func(_ int, a *node) bool {
		return a.says("LTarget", nodeTarget) && a.says("Operand", preferredOperand)
	})
	escape := func(_ int, c *node) bool { return c.says("LTarget", nodeTarget) && c.says("Operand", escapeOperand) }
	constraints := group.field("Constraints")
	if constraints == nil || !slices.ContainsFunc(constraints.items, func(c *node) bool { return escape(0, c) }) {
		return preferred
	}
	pinned := false
	for _, device := range groupDeviceNodes(group) {
		list := device.field("Constraints")
		if list == nil {
			continue
		}
		last := len(list.items) - 1
		pinned = removeFrom(device, "Constraints", func(i int, c *node) bool {
			return i == last && c.says("LTarget", devicesTarget) && c.says("Operand", pinOperand)
		}) || pinned
	}
	if pinned {
		removeFrom(group, "Constraints", escape)
	}
	return preferred || pinned
}

// groupDeviceNodes are the device blocks of a group's tasks.
func groupDeviceNodes(group *node) []*node {
	var out []*node
	tasks := group.field("Tasks")
	if tasks == nil {
		return nil
	}
	for _, task := range tasks.items {
		resources := task.field("Resources")
		if resources == nil {
			continue
		}
		if devices := resources.field("Devices"); devices != nil {
			out = append(out, devices.items...)
		}
	}
	return out
}

// says reports whether a field of the object is this text.
func (n *node) says(name, text string) bool {
	f := n.field(name)
	return f != nil && f.kind == '"' && decodeString(f.raw) == text
}

// removeFrom removes the items of a list of the object that match.
func removeFrom(object *node, name string, match func(i int, item *node) bool) bool {
	list := object.field(name)
	if list == nil {
		return false
	}
	kept := make([]*node, 0, len(list.items))
	for i, item := range list.items {
		if !match(i, item) {
			kept = append(kept, item)
		}
	}
	removed := len(kept) < len(list.items)
	list.items = kept
	return removed
}

// Registration is the body of a request that registers the job with a patch, bound
// to the job being registered at index, with the submission that belongs to it; nil
// for none. Call it once.
func (s Stored) Registration(patch Patch, index uint64, submission []byte) ([]byte, error) {
	if err := Apply(s.doc, patch); err != nil {
		return nil, err
	}
	for _, name := range [...]string{"VersionTag", "Version", "Status", "StatusDescription"} {
		s.doc.root.field("Job").removeField(name)
	}
	s.doc.SetBool("EnforceIndex", true)
	s.doc.SetUint("JobModifyIndex", index)
	if submission != nil {
		sub, err := Parse(submission, ResponseLimits)
		if err != nil {
			return nil, err
		}
		s.doc.root.setField("Submission", sub.root)
	}
	return s.doc.Encode(), nil
}
