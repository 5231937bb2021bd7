package bypass

import (
	"fmt"
	"slices"
	"strings"
)

// Severity says how bad a finding is.
type Severity string

// The severities, the worst first.
const (
	// Open is a way around the gate.
	Open Severity = "open"
	// NotChecked is something that could not be read.
	NotChecked Severity = "not_checked"
	// Unknown is something that Nomad does not tell.
	Unknown Severity = "unknown"
	// Note is who can always go around, or a setting that opens nothing by itself.
	Note Severity = "note"
)

// Severities are all, the worst first.
func Severities() []Severity { return []Severity{Open, NotChecked, Unknown, Note} }

// The codes of findings. They are stable.
const (
	ACLsDisabled       = "acls_disabled"
	AnonymousSubmits   = "anonymous_can_submit"
	WorkloadSubmits    = "workload_can_submit"
	TokenSubmits       = "token_can_submit"
	LoginSubmits       = "login_can_submit"
	PolicySubmits      = "policy_can_submit"
	ManagementTokens   = "management_tokens"
	AgentTokens        = "agent_tokens"
	ManagementLogin    = "management_login"
	RegistrationOpen   = "registration_open"
	RegistrationReject = "registration_rejected"
	PlainHTTP          = "plain_http"
	ClientCertsOff     = "client_certificates_off"
	Reachable          = "nomad_reachable"
	RawExec            = "raw_exec_enabled"
	DockerPrivileged   = "docker_privileged"
	DockerVolumes      = "docker_volumes"
	DockerRuntime      = "docker_nvidia_runtime"
	DockerUntold       = "docker_settings"
	ConnectionLimit    = "connection_limit"
	OldVersion         = "nomad_version"
	UngovernedWork     = "ungoverned_work"
	UnknownWrites      = "unknown_writes_allowed"
	NotCheckedCode     = "not_checked"
)

// Finding is one way around, or why it is not known whether there is one.
type Finding struct {
	Code     string   `json:"code"`
	Severity Severity `json:"severity"`
	Check    Check    `json:"check"`
	// Subject tells findings of the same code apart and stays the same while the
	// finding does: "policy user", "job default/train".
	Subject string `json:"subject,omitempty"`
	// What is open and Who has it.
	What string   `json:"what"`
	Who  []string `json:"who,omitempty"`
	// Why it matters, in one sentence.
	Why string `json:"why"`
	// Close are the commands that close it, or that show what is not known.
	Close []string `json:"close,omitempty"`
}

// Key is the code with the subject.
func (f Finding) Key() string { return strings.TrimSpace(f.Code + " " + f.Subject) }

// Items are what is watched of a finding, each on its own: a further management
// token is news, where a further token of people who log in is none.
func (f Finding) Items() []string {
	if f.Code != ManagementTokens {
		return []string{f.Key()}
	}
	items := make([]string, 0, len(f.Who))
	for _, who := range f.Who {
		items = append(items, f.Code+" "+who)
	}
	return items
}

// Examine lists the findings, the worst first, in an order that depends on nothing
// but the facts.
func Examine(f Facts) []Finding {
	e := examiner{facts: &f}
	e.gate()
	e.acls()
	e.scheduler()
	e.agent()
	e.addresses()
	e.clients()
	for _, m := range f.Missing {
		e.add(Finding{Code: NotCheckedCode, Severity: NotChecked, Check: m.Check, Subject: string(m.Check), What: string(m.Check) + ": " + m.Why,
			Why: "A way around may be open there that is not listed.", Close: oneIf(m.Look)})
	}
	slices.SortStableFunc(e.found, func(a, b Finding) int {
		if c := slices.Index(Severities(), a.Severity) - slices.Index(Severities(), b.Severity); c != 0 {
			return c
		}
		if c := slices.Index(checks(), a.Check) - slices.Index(checks(), b.Check); c != 0 {
			return c
		}
		return strings.Compare(a.Key(), b.Key())
	})
	return e.found
}

// Count is how many findings have a severity.
func Count(list []Finding, s Severity) int {
	n := 0
	for _, f := range list {
		if f.Severity == s {
			n++
		}
	}
	return n
}

func oneIf(text string) []string {
	if text == "" {
		return nil
	}
	return []string{text}
}

type examiner struct {
	facts *Facts
	found []Finding
}

func (e *examiner) add(f Finding) { e.found = append(e.found, f) }

// reached is the severity of what is a way around only for who reaches Nomad
// besides through the gate.
func (e *examiner) reached() Severity {
	if e.facts.reachable() {
		return Open
	}
	return Note
}

// gate looks at the gate itself, and at what went around it.
func (e *examiner) gate() {
	if e.facts.UnknownWrites {
		e.add(Finding{Code: UnknownWrites, Severity: Open, Check: CheckGate,
			What:  "the gate lets writes pass that this build does not know (gate.unknown_writes = \"allow\")",
			Why:   "A newer Nomad may have a request that starts jobs, which nobody would decide about.",
			Close: []string{`sed -i 's/unknown_writes *= *"allow"/unknown_writes = "deny"/' /etc/governor/agent.hcl && systemctl restart governor`}})
	}
	for _, w := range e.facts.Ungoverned {
		e.add(Finding{Code: UngovernedWork, Severity: Open, Check: CheckGate, Subject: "allocation " + w.Alloc,
			What:  fmt.Sprintf("job %s in namespace %s uses GPUs on node %s without a hold (allocation %.8s)", w.JobID, w.Namespace, w.Node, w.Alloc),
			Why:   "No budget pays for it: it was submitted around the gate, or before there was one.",
			Close: []string{"nomad job stop -namespace=" + quote(w.Namespace) + " " + quote(w.JobID)}})
	}
}

func (e *examiner) scheduler() {
	if e.facts.missing(CheckScheduler) {
		return
	}
	set := func(to string) []string {
		return []string{"nomad operator scheduler set-config -reject-job-registration=" + to}
	}
	if e.facts.RejectRegistration {
		e.add(Finding{Code: RegistrationReject, Severity: Note, Check: CheckScheduler,
			What:  "reject_job_registration is on: only management tokens can run, scale, dispatch and revert jobs",
			Why:   "That holds through the gate too, which forwards the users' own tokens, and for the jobs that the agent releases and scales; periodic force is not covered.",
			Close: set("false")})
		return
	}
	e.add(Finding{Code: RegistrationOpen, Severity: Note, Check: CheckScheduler,
		What:  "reject_job_registration is off: Nomad takes jobs from every token that may submit them",
		Why:   "So it must be for users to work through the gate with their own tokens; turn it on to stop all but management tokens at once, through the gate too.",
		Close: set("true")})
}

func (e *examiner) agent() {
	a := e.facts.Agent
	if a.Version != "" && older(a.Version, 1, 11, 2) {
		e.add(Finding{Code: OldVersion, Severity: Note, Check: CheckAgent, What: "Nomad is " + a.Version + ", older than 1.11.2",
			Why:   "It has no capabilities finer than submit-job, so that whoever may plan or stop jobs may also submit them.",
			Close: []string{"apt-get install --only-upgrade nomad"}})
	}
	if e.facts.missing(CheckAgent) {
		return
	}
	switch {
	case !a.HTTPS:
		e.add(Finding{Code: PlainHTTP, Severity: e.reached(), Check: CheckAgent, What: "Nomad serves its API without TLS (agent " + a.Name + ")",
			Why:   "Whoever is on the network can read tokens on their way, and call Nomad itself; TLS with client certificates lets only the gate in (give it one: nomad.cert_file).",
			Close: []string{configure("tls", `tls { http = true, rpc = true, verify_server_hostname = true, verify_https_client = true, ca_file = "/etc/nomad.d/ca.pem", cert_file = "/etc/nomad.d/agent.pem", key_file = "/etc/nomad.d/agent-key.pem" }`)}})
	case !a.VerifyClients:
		e.add(Finding{Code: ClientCertsOff, Severity: e.reached(), Check: CheckAgent, What: "Nomad asks callers for no certificate (agent " + a.Name + ")",
			Why:   "With verify_https_client, and certificates for the gate alone (nomad.cert_file), nobody else gets an answer.",
			Close: []string{configure("tls", "tls { verify_https_client = true }")}})
	}
	if a.MaxConns > 0 {
		e.add(Finding{Code: ConnectionLimit, Severity: Note, Check: CheckAgent,
			What:  fmt.Sprintf("Nomad takes %d connections from one address (agent %s), and all users come from the gate's", a.MaxConns, a.Name),
			Why:   "Beyond that it answers 429, and people look for a way around.",
			Close: []string{configure("limits", "limits { http_max_conns_per_client = 0 }")}})
	}
}

// older reports whether a version such as "1.11.3-dev" is below another.
func older(version string, major, minor, patch int) bool {
	var have [3]int
	if n, _ := fmt.Sscanf(strings.TrimPrefix(version, "v"), "%d.%d.%d", &have[0], &have[1], &have[2]); n != 3 {
		return false
	}
	return slices.Compare(have[:], []int{major, minor, patch}) < 0
}

func (e *examiner) addresses() {
	for _, a := range e.facts.Addresses {
		if !a.Answers {
			continue
		}
		host, port := split(a.URL)
		tables := "iptables"
		if strings.Contains(host, ":") {
			tables = "ip6tables"
		}
		e.add(Finding{Code: Reachable, Severity: Open, Check: CheckAddresses, Subject: a.Agent + " " + a.URL,
			What:  fmt.Sprintf("Nomad answers at %s (%s): %s", a.URL, a.Agent, a.Detail),
			Why:   "What is sent there does not pass the gate; what remains closed is what the token may not do.",
			Close: []string{fmt.Sprintf("%s -I INPUT -p tcp -d %s --dport %s ! -s %s -j REJECT", tables, host, port, e.facts.Gate)}})
	}
}

// split is the host and the port of a URL of ours.
func split(url string) (host, port string) {
	_, rest, _ := strings.Cut(url, "://")
	at := strings.LastIndexByte(rest, ':')
	if at < 0 {
		return rest, ""
	}
	return strings.Trim(rest[:at], "[]"), rest[at+1:]
}
