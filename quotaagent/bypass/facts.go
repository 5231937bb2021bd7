package bypass

import "github.com/nomad-governor/governor/quotaagent/acl"

// Check is one thing that is looked at; a finding belongs to one.
type Check string

// The checks, in the order in which findings of the same severity are listed.
const (
	CheckACL       Check = "whether ACLs are on"
	CheckAnonymous Check = "the anonymous policy"
	CheckTokens    Check = "ACL tokens"
	CheckRoles     Check = "ACL roles"
	CheckPolicies  Check = "ACL policies"
	CheckBindings  Check = "binding rules of auth methods"
	CheckScheduler Check = "the scheduler configuration"
	CheckAgent     Check = "the configuration of the Nomad agent behind the gate"
	CheckAddresses Check = "Nomad's HTTP addresses"
	CheckNodes     Check = "the drivers of the clients"
	CheckGate      Check = "the gate"
)

func checks() []Check {
	return []Check{CheckGate, CheckACL, CheckAnonymous, CheckPolicies, CheckTokens, CheckRoles, CheckBindings, CheckScheduler, CheckAgent, CheckAddresses, CheckNodes}
}

// Facts are what is known of a cluster. What is in Missing is not known, however
// it looks.
type Facts struct {
	ACLsOff bool
	// Own are the accessors of Governor's agents, which submit for others.
	Own        []string
	Tokens     []Token
	Roles      []Role
	Policies   []Policy
	Bindings   []Binding
	Namespaces []string
	// RejectRegistration is Nomad's reject_job_registration.
	RejectRegistration bool
	Agent              Agent
	Addresses          []Address
	// Probed says that the addresses were tried; Gate is the host of the gate.
	Probed  bool
	Gate    string
	Clients []Client
	// Ungoverned are running GPU allocations that no hold covers.
	Ungoverned []Work
	// UnknownWrites says that the gate lets writes pass that it does not know.
	UnknownWrites bool
	// Delegated is the capability that lets people submit through the gate, which then
	// uses its own token; "" where it forwards theirs.
	Delegated string
	Missing   []Missing
}

// Missing is something that could not be read.
type Missing struct {
	Check Check
	// Why is the reason in a few words, Look the command that shows it to whoever
	// may.
	Why, Look string
}

// Token is an ACL token, without its secret.
type Token struct {
	Accessor, Name  string
	Management      bool
	Policies, Roles []string // names
	Expired         bool
}

// Role is an ACL role.
type Role struct {
	ID, Name string
	Policies []string
}

// JobACL is the workload that a policy is attached to.
type JobACL struct{ Namespace, JobID, Group, Task string }

// Policy is an ACL policy. Rules are Nomad's own reading of it (RulesJSON), with
// the short forms of namespaces expanded.
type Policy struct {
	Name, Description string
	Job               *JobACL
	Rules             acl.Rules
}

// Binding is a rule that gives people who log in a role, a policy or management.
type Binding struct{ ID, AuthMethod, Type, Name, Selector string }

// Agent is the Nomad agent behind the gate.
type Agent struct {
	Name, Version string
	// HTTPS says that it serves HTTPS, and VerifyClients that callers need a
	// certificate.
	HTTPS, VerifyClients bool
	// MaxConns is its limit of connections from one address; 0 for none.
	MaxConns int
}

// Address is where an agent of Nomad serves its API.
type Address struct {
	Agent, URL string
	// Answers says that something answered there without a token and without a
	// client certificate; Detail is the answer, or why there was none.
	Answers bool
	Detail  string
}

// Client is a Nomad client that has GPUs.
type Client struct {
	ID, Name string
	// Drivers are the attributes of the drivers that it offers, by driver.
	Drivers map[string]map[string]string
}

// Work is an allocation that runs.
type Work struct{ Namespace, JobID, Alloc, Node string }

func (f *Facts) missing(checks ...Check) bool {
	for _, m := range f.Missing {
		for _, c := range checks {
			if m.Check == c {
				return true
			}
		}
	}
	return false
}

// reachable reports whether Nomad answers somewhere besides through the gate.
func (f *Facts) reachable() bool {
	for _, a := range f.Addresses {
		if a.Answers {
			return true
		}
	}
	return false
}

// Needs reports whether a finding of a code and check could not be seen again while
// a check is missing.
func Needs(code string, own, missing Check) bool {
	switch {
	case own == missing, missing == CheckACL && own != CheckGate:
		return true
	case code == TokenSubmits:
		return missing == CheckRoles || missing == CheckPolicies || missing == CheckTokens
	case code == LoginSubmits:
		return missing == CheckRoles || missing == CheckPolicies || missing == CheckBindings
	case code == PolicySubmits:
		return missing == CheckRoles || missing == CheckTokens || missing == CheckBindings
	}
	return false
}
