package bypass

import (
	"fmt"
	"regexp"
	"slices"
	"strings"

	"github.com/nomad-governor/governor/quotaagent/acl"
)

// namedMost bounds how many names and commands one finding has.
const namedMost = 20

// acls looks at who may start work by Nomad's own rules.
func (e *examiner) acls() {
	if e.facts.missing(CheckACL) {
		return
	}
	if e.facts.ACLsOff {
		e.add(Finding{Code: ACLsDisabled, Severity: Open, Check: CheckACL, What: "ACLs are off: everybody may do everything", Who: []string{"everybody"},
			Why:   "Who reaches Nomad, or runs a task, submits what they like, and changes whatever keeps others from it.",
			Close: []string{configure("acl", "acl { enabled = true }") + " && nomad acl bootstrap"}})
		return
	}
	e.anonymous()
	e.workloads()
	e.management()
	if !e.facts.missing(CheckTokens, CheckRoles, CheckPolicies) {
		e.tokens()
	}
	if !e.facts.missing(CheckBindings, CheckRoles, CheckPolicies) {
		e.logins()
	}
	if !e.facts.missing(CheckTokens, CheckBindings, CheckRoles, CheckPolicies) {
		e.unheld()
	}
}

// fine reports whether this Nomad tells apart what submit-job contains.
func (e *examiner) fine() bool {
	v := e.facts.Agent.Version
	return v != "" && !older(v, 1, 11, 2)
}

func (e *examiner) policy(name string) (Policy, bool) {
	i := slices.IndexFunc(e.facts.Policies, func(p Policy) bool { return p.Name == name })
	if i < 0 {
		return Policy{}, false
	}
	return e.facts.Policies[i], true
}

func (e *examiner) anonymous() {
	p, there := e.policy("anonymous")
	if !there {
		return
	}
	if g := e.facts.grants([]Policy{p}); len(g) > 0 {
		e.add(Finding{Code: AnonymousSubmits, Severity: Open, Check: CheckAnonymous, Subject: "policy anonymous", What: "without any token: " + text(g),
			Who: []string{"everybody who reaches Nomad"}, Why: "It takes no more than the address to go around the gate, and nobody is named.",
			Close: []string{withoutStarting(p, false, "")}})
	}
}

// workloads are tasks: each has Nomad's whole API on a socket, wherever it runs.
func (e *examiner) workloads() {
	for _, p := range e.facts.Policies {
		if p.Job == nil {
			continue
		}
		if g := e.facts.grants([]Policy{p}); len(g) > 0 {
			e.add(Finding{Code: WorkloadSubmits, Severity: Open, Check: CheckPolicies, Subject: "policy " + p.Name, What: "policy " + p.Name + " allows " + text(g),
				Who: []string{workload(*p.Job)}, Why: "A task reaches Nomad's API through its own socket (NOMAD_SECRETS_DIR/api.sock), which no firewall closes.",
				Close: []string{withoutStarting(p, e.fine(), e.facts.Delegated)}})
		}
	}
}

func workload(j JobACL) string {
	text := "tasks of every job"
	if j.JobID != "" {
		text = "tasks of job " + j.JobID
	}
	if j.Group != "" {
		text += ", group " + j.Group
	}
	if j.Task != "" {
		text += ", task " + j.Task
	}
	return text + " in namespace " + j.Namespace
}

func tokenName(t Token) string { return fmt.Sprintf("token %s (%.8s)", t.Name, t.Accessor) }

func (e *examiner) own(t Token) bool { return slices.Contains(e.facts.Own, t.Accessor) }

// management names who can always go around, and the agents' own tokens.
func (e *examiner) management() {
	var who, agents []string
	for _, t := range e.facts.Tokens {
		switch {
		case t.Expired:
		case t.Management:
			who = append(who, tokenName(t))
		case e.own(t):
			agents = append(agents, tokenName(t))
		}
	}
	if len(agents) > 0 {
		e.add(Finding{Code: AgentTokens, Severity: Note, Check: CheckTokens, What: plural(len(agents), "token") + " of Governor's agents", Who: atMost(agents),
			Why: "They submit the jobs that waited; who reads one from an agent's configuration can go around the gate."})
	}
	if len(who) == 0 {
		return
	}
	e.add(Finding{Code: ManagementTokens, Severity: Note, Check: CheckTokens,
		What: plural(len(who), "management token"), Who: atMost(who), Close: []string{"nomad acl token list | grep management"},
		Why: "Who has one can always go around the gate, and can open every other way; keep as few as you need."})
}

func plural(n int, noun string) string {
	if n == 1 {
		return "1 " + noun
	}
	return fmt.Sprintf("%d %ss", n, noun)
}

// atMost is the sorted list, cut where it is too long to read.
func atMost(list []string) []string {
	slices.Sort(list)
	if len(list) <= namedMost {
		return list
	}
	return append(slices.Clone(list[:namedMost]), fmt.Sprintf("# and %d more", len(list)-namedMost))
}

// through are the policies that names of policies and roles lead to, each once.
func (e *examiner) through(policies, roles []string) []Policy {
	names := slices.Clone(policies)
	for _, r := range e.facts.Roles {
		if slices.Contains(roles, r.Name) {
			names = append(names, r.Policies...)
		}
	}
	var out []Policy
	for _, name := range unique(names) {
		if p, there := e.policy(name); there {
			out = append(out, p)
		}
	}
	return out
}

// holders are tokens with the same policies and roles.
type holders struct {
	policies, roles []string
	tokens          []Token
}

func (h holders) subject() string {
	var parts []string
	for _, r := range h.roles {
		parts = append(parts, "role "+r)
	}
	for _, p := range h.policies {
		parts = append(parts, "policy "+p)
	}
	return strings.Join(parts, ", ")
}

func (e *examiner) holders() []holders {
	found := map[string]*holders{}
	for _, t := range e.facts.Tokens {
		if t.Management || t.Expired || e.own(t) {
			continue
		}
		h := holders{policies: unique(t.Policies), roles: unique(t.Roles)}
		key := h.subject()
		if found[key] == nil {
			found[key] = &h
		}
		found[key].tokens = append(found[key].tokens, t)
	}
	out := make([]holders, 0, len(found))
	for _, h := range found {
		out = append(out, *h)
	}
	slices.SortFunc(out, func(a, b holders) int { return strings.Compare(a.subject(), b.subject()) })
	return out
}

// whySubmit is why it matters that somebody may start work. Users of the gate need
// this right where it forwards their own tokens.
func (e *examiner) whySubmit() string {
	if e.facts.Delegated != "" {
		return "Nobody needs this right, because the gate starts work with its own token for whom " + e.facts.Delegated + " allows it. A task reaches Nomad around the gate with any token, through its own socket (NOMAD_SECRETS_DIR/api.sock)."
	}
	if e.facts.reachable() {
		return "They may do so wherever Nomad answers them; users of the gate need this right, so fence Nomad's addresses for them, and take it from all others."
	}
	return "Nomad is not known to answer them besides through the gate, but inside a task it does: its socket (NOMAD_SECRETS_DIR/api.sock) takes any token. Leave this right to users of the gate alone."
}

// submitting is the severity of that somebody may start work: where the gate has a
// token of its own for it, nobody needs to.
func (e *examiner) submitting() Severity {
	if e.facts.Delegated != "" {
		return Open
	}
	return e.reached()
}

// tokens looks at client tokens, those with the same rights together: people who
// log in get a new one each time.
func (e *examiner) tokens() {
	for _, h := range e.holders() {
		policies := e.through(h.policies, h.roles)
		g := e.facts.grants(policies)
		if len(g) == 0 {
			continue
		}
		who := make([]string, 0, len(h.tokens))
		for _, t := range h.tokens {
			who = append(who, tokenName(t))
		}
		e.add(Finding{Code: TokenSubmits, Severity: e.submitting(), Check: CheckTokens, Subject: h.subject(),
			What: plural(len(h.tokens), "token") + " with " + h.subject() + ": " + text(g), Who: atMost(who), Why: e.whySubmit(),
			Close: e.closing(policies, h.tokens)})
	}
}

// closing takes the rights from the policies, unless Governor's agents need them:
// then the tokens must go.
func (e *examiner) closing(policies []Policy, tokens []Token) []string {
	needed := map[string]bool{}
	for _, t := range e.facts.Tokens {
		if e.own(t) {
			for _, p := range e.through(t.Policies, t.Roles) {
				needed[p.Name] = true
			}
		}
	}
	var commands []string
	for _, p := range policies {
		if len(e.facts.grants([]Policy{p})) == 0 {
			continue
		}
		if needed[p.Name] {
			commands = nil
			for _, t := range tokens {
				commands = append(commands, "nomad acl token delete "+quote(t.Accessor))
			}
			return atMost(commands)
		}
		commands = append(commands, withoutStarting(p, e.fine(), e.facts.Delegated))
	}
	return commands
}

// template is the part of a bind name that Nomad fills in when somebody logs in.
var template = regexp.MustCompile(`\$\{[^}]*\}`)

// logins looks at what people get who log in with an auth method.
func (e *examiner) logins() {
	for _, b := range e.facts.Bindings {
		who := []string{"who logs in with " + b.AuthMethod}
		if b.Selector != "" {
			who[0] += " and matches " + b.Selector
		}
		remove := "nomad acl binding-rule delete " + quote(b.ID)
		if b.Type == "management" {
			e.add(Finding{Code: ManagementLogin, Severity: Note, Check: CheckBindings, Subject: "binding rule " + b.ID, Who: who, Close: []string{remove},
				What: "people who log in become management", Why: "Who has a management token can always go around the gate."})
			continue
		}
		name := template.ReplaceAllString(b.Name, "*")
		var names []string
		for _, r := range e.facts.Roles {
			if b.Type == "role" && acl.Matches(name, r.Name) {
				names = append(names, r.Name)
			}
		}
		for _, p := range e.facts.Policies {
			if b.Type == "policy" && acl.Matches(name, p.Name) {
				names = append(names, p.Name)
			}
		}
		policies := e.through(nil, names)
		if b.Type == "policy" {
			policies = e.through(names, nil)
		}
		if g := e.facts.grants(policies); len(g) > 0 {
			e.add(Finding{Code: LoginSubmits, Severity: e.submitting(), Check: CheckBindings, Subject: "binding rule " + b.ID, Who: who,
				What: "people who log in get " + b.Type + " " + b.Name + ": " + text(g), Why: e.whySubmit(), Close: []string{remove}})
		}
	}
}

// unheld are policies that would let somebody start work, and nobody has them.
func (e *examiner) unheld() {
	held := map[string]bool{"anonymous": true}
	for _, t := range e.facts.Tokens {
		if !t.Expired {
			for _, p := range e.through(t.Policies, t.Roles) {
				held[p.Name] = true
			}
		}
	}
	for _, p := range e.facts.Policies {
		if p.Job != nil || held[p.Name] {
			continue
		}
		if g := e.facts.grants([]Policy{p}); len(g) > 0 {
			e.add(Finding{Code: PolicySubmits, Severity: Note, Check: CheckPolicies, Subject: "policy " + p.Name, What: "policy " + p.Name + ", which no token has now, allows " + text(g),
				Why: "Whoever is given it can start work.", Close: []string{"nomad acl policy delete " + quote(p.Name)}})
		}
	}
}
