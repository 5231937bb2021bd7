package acl

import (
	"slices"
	"strings"
)

// deny is the capability, and the policy, that takes everything.
const deny = "deny"

// ReadJob is Nomad's capability to read the jobs of a namespace.
const ReadJob = "read-job"

// Rights are what somebody's policies allow together. The zero value allows nothing.
type Rights struct {
	everything bool
	// namespaces and volumes are capabilities by pattern.
	namespaces, volumes map[string][]string
	// plugin is the level of the plugin policy.
	plugin string
}

// Everything are the rights of a management token.
func Everything() Rights { return Rights{everything: true} }

// Combine returns what several policies allow together: the union, unless one denies
// (acl/acl.go, NewACL).
func Combine(policies ...Rules) Rights {
	r := Rights{namespaces: map[string][]string{}, volumes: map[string][]string{}}
	for _, p := range policies {
		for _, ns := range p.Namespaces {
			add(r.namespaces, ns.Name, ns.Policy, ns.Capabilities)
		}
		for _, v := range p.HostVolumes {
			add(r.volumes, v.Name, v.Policy, v.Capabilities)
		}
		if p.Plugin != nil {
			r.plugin = higher(r.plugin, p.Plugin.Policy)
		}
	}
	return r
}

func add(to map[string][]string, pattern, policy string, capabilities []string) {
	have := to[pattern]
	switch {
	case slices.Contains(have, deny):
	case policy == deny, slices.Contains(capabilities, deny):
		to[pattern] = []string{deny}
	default:
		to[pattern] = append(have, capabilities...)
	}
}

// higher is the policy that grants more; deny beats all (acl/acl.go, maxPrivilege).
func higher(a, b string) string {
	for _, policy := range [...]string{deny, "write", "read", "list"} {
		if a == policy || b == policy {
			return policy
		}
	}
	return ""
}

// Namespaces are the capabilities that were named, by pattern of namespaces. Do not
// change them.
func (r Rights) Namespaces() map[string][]string { return r.namespaces }

// Decides is the pattern that decides about a namespace: its own name, or else the
// glob that is nearest to it in length.
func (r Rights) Decides(namespace string) (pattern string, ok bool) {
	return decides(r.namespaces, namespace)
}

// decides finds the pattern of a name by Nomad's rule (acl/acl.go,
// findClosestMatchingGlob). Of globs that are equally near it takes the last in the
// order of their text: its sort turns equal ones around.
func decides(patterns map[string][]string, name string) (string, bool) {
	if _, own := patterns[name]; own {
		return name, true
	}
	best, found, least := "", false, 0
	for pattern := range patterns {
		if !strings.Contains(pattern, "*") || !Matches(pattern, name) {
			continue
		}
		difference := len(name) - len(pattern) + strings.Count(pattern, "*")
		if !found || difference < least || difference == least && pattern > best {
			best, found, least = pattern, true, difference
		}
	}
	return best, found
}

// Allows reports whether one of the capabilities is granted in a namespace.
func (r Rights) Allows(namespace string, anyOf ...string) bool {
	return r.everything || allows(r.namespaces, namespace, anyOf)
}

// MountsHostVolume reports whether a job may mount a host volume by its source, to
// write to it or only to read.
func (r Rights) MountsHostVolume(source string, write bool) bool {
	anyOf := []string{"mount-readwrite"}
	if !write {
		anyOf = append(anyOf, "mount-readonly")
	}
	return r.everything || allows(r.volumes, source, anyOf)
}

// MountsCSIVolumes reports whether jobs of a namespace may mount CSI volumes. The
// plugin policy must be exactly "read" (acl/acl.go, AllowPluginRead): "write" exists
// and allows less.
func (r Rights) MountsCSIVolumes(namespace string) bool {
	return r.everything || r.plugin == "read" && allows(r.namespaces, namespace, []string{"csi-mount-volume"})
}

func allows(patterns map[string][]string, name string, anyOf []string) bool {
	pattern, ok := decides(patterns, name)
	return ok && slices.ContainsFunc(patterns[pattern], func(c string) bool { return slices.Contains(anyOf, c) })
}

// Matches reports whether a glob, in which * is any text, matches.
func Matches(glob, text string) bool {
	parts := strings.Split(glob, "*")
	if len(parts) == 1 {
		return glob == text
	}
	if !strings.HasPrefix(text, parts[0]) {
		return false
	}
	text = text[len(parts[0]):]
	for _, part := range parts[1 : len(parts)-1] {
		at := strings.Index(text, part)
		if at < 0 {
			return false
		}
		text = text[at+len(part):]
	}
	return strings.HasSuffix(text, parts[len(parts)-1])
}
