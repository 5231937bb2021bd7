package bypass

import (
	"encoding/json"
	"slices"
	"strings"

	"github.com/nomad-governor/governor/quotaagent/acl"
)

// quote makes one word of the shell of a text.
func quote(text string) string {
	plain := func(r rune) bool {
		return r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || strings.ContainsRune("-_./:@=,", r)
	}
	if text != "" && strings.IndexFunc(text, func(r rune) bool { return !plain(r) }) < 0 {
		return text
	}
	return "'" + strings.ReplaceAll(text, "'", `'\''`) + "'"
}

// withoutStarting is the command that takes from a policy what starts work, and
// leaves the rest as it is. Whoever could submit jobs may still plan, stop,
// evaluate and promote them, where this Nomad tells these apart (1.11.2), and may
// submit them through a gate that has a token of its own: through is what it takes.
func withoutStarting(p Policy, fine bool, through string) string {
	rules := rewritten(p.Rules, fine, through)
	if len(rules) == 0 {
		return "nomad acl policy delete " + quote(p.Name)
	}
	encoded, err := json.Marshal(rules)
	if err != nil { // maps of texts always encode
		return "nomad acl policy delete " + quote(p.Name)
	}
	command := "echo " + quote(string(encoded)) + " | nomad acl policy apply"
	if p.Description != "" {
		command += " -description=" + quote(p.Description)
	}
	if p.Job != nil {
		for _, o := range [][2]string{{"namespace", p.Job.Namespace}, {"job", p.Job.JobID}, {"group", p.Job.Group}, {"task", p.Job.Task}} {
			if o[1] != "" {
				command += " -" + o[0] + "=" + quote(o[1])
			}
		}
	}
	return command + " " + quote(p.Name) + " -"
}

// remaining are what submit-job contains besides, and starts nothing.
var remaining = [...]string{"deregister-job", "evaluate-job", "plan-job", "promote-deployment"}

func rewritten(r acl.Rules, fine bool, through string) map[string]any {
	out := map[string]any{}
	namespaces := map[string]any{}
	for _, ns := range joined(r.Namespaces) {
		if block := rewrittenNamespace(ns, fine, through); len(block) > 0 {
			namespaces[ns.Name] = block
		}
	}
	if len(namespaces) > 0 {
		out["namespace"] = namespaces
	}
	named := func(kind string, rules []acl.NamedRule) {
		blocks := map[string]any{}
		for _, n := range rules {
			blocks[n.Name] = map[string]any{"capabilities": unique(n.Capabilities)}
		}
		if len(blocks) > 0 {
			out[kind] = blocks
		}
	}
	named("node_pool", r.NodePools)
	named("host_volume", r.HostVolumes)
	for kind, l := range map[string]*acl.LevelRule{"agent": r.Agent, "node": r.Node, "operator": r.Operator, "quota": r.Quota, "plugin": r.Plugin, "sentinel": r.Sentinel} {
		if l == nil {
			continue
		}
		block := map[string]any{}
		if l.Policy != "" {
			block["policy"] = l.Policy
		}
		if len(l.Capabilities) > 0 {
			block["capabilities"] = unique(l.Capabilities)
		}
		out[kind] = block
	}
	return out
}

// joined are the rules with one for each name: a policy may have several blocks
// for a namespace, which count together.
func joined(rules []acl.NamespaceRule) []acl.NamespaceRule {
	var out []acl.NamespaceRule
	for _, r := range rules {
		i := slices.IndexFunc(out, func(o acl.NamespaceRule) bool { return o.Name == r.Name })
		if i < 0 {
			r.Capabilities = slices.Clone(r.Capabilities)
			out = append(out, r)
			continue
		}
		out[i].Capabilities = append(out[i].Capabilities, r.Capabilities...)
		if out[i].Variables == nil {
			out[i].Variables = r.Variables
		} else if r.Variables != nil {
			both := *out[i].Variables
			both.Paths = slices.Concat(both.Paths, r.Variables.Paths)
			out[i].Variables = &both
		}
	}
	return out
}

func rewrittenNamespace(ns acl.NamespaceRule, fine bool, through string) map[string]any {
	block := map[string]any{}
	have := slices.DeleteFunc(slices.Clone(ns.Capabilities), func(c string) bool { return slices.Contains(starting[:], c) })
	if fine && slices.Contains(ns.Capabilities, "submit-job") {
		have = append(have, remaining[:]...)
	}
	if fine && through != "" && startsAny(ns.Capabilities, starting[:]) {
		have = append(have, through)
	}
	if have = unique(have); len(have) > 0 {
		block["capabilities"] = have
	}
	if ns.Variables != nil && len(ns.Variables.Paths) > 0 {
		paths := map[string]any{}
		for _, p := range ns.Variables.Paths {
			paths[p.PathSpec] = map[string]any{"capabilities": unique(p.Capabilities)}
		}
		block["variables"] = map[string]any{"path": paths}
	}
	return block
}

func unique(list []string) []string {
	sorted := slices.Clone(list)
	slices.Sort(sorted)
	return slices.Compact(sorted)
}

// configure is the command that gives a Nomad agent a further file of
// configuration, which Nomad merges with the others, and starts it anew.
func configure(file, hcl string) string {
	return "echo " + quote(hcl) + " > /etc/nomad.d/governor-" + file + ".hcl && systemctl restart nomad"
}

// inFiles is the command that changes what was turned on in the configuration of a
// Nomad agent: of two blocks of one plugin Nomad takes the last alone.
func inFiles(edit string) string {
	return "sed -i " + quote(edit) + " /etc/nomad.d/*.hcl && systemctl restart nomad"
}
