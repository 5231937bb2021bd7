package posture

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/hashicorp/nomad/api"
	"github.com/nomad-governor/governor/quotaagent/acl"
	"github.com/nomad-governor/governor/quotaagent/bypass"
)

// Reader reads a cluster. It is safe for concurrent use.
type Reader struct {
	nomad *api.Client
	now   func() time.Time

	mu sync.Mutex
	// refused are the paths of Stamp that the token may not read; they are tried again
	// after Facts.
	refused map[string]bool
	// clients are those with GPUs as of clientsAt. Their list is long, and who watches
	// for changed ACLs reads often.
	clients   []bypass.Client
	clientsAt time.Time
}

// clientsFor is how long the list of clients is not read again.
const clientsFor = 4 * time.Minute

// New returns a reader over an API client: of Nomad, or of the gate in front of it.
func New(nomad *api.Client, now func() time.Time) *Reader { return &Reader{nomad: nomad, now: now} }

// accessorACLDisabled is who everybody is where ACLs are off.
const accessorACLDisabled = "acls-disabled"

// policyPrefix is the path of one policy.
const policyPrefix = "/v1/acl/policy/"

// Facts reads what the token may read; the rest is in Missing. Addresses are found
// and not tried.
func (r *Reader) Facts(ctx context.Context) bypass.Facts {
	r.mu.Lock()
	r.refused = nil
	r.mu.Unlock()
	l := &look{Reader: r, ctx: ctx}
	l.acl()
	l.scheduler()
	l.agent()
	l.clients()
	slices.SortFunc(l.facts.Missing, func(a, b bypass.Missing) int { return strings.Compare(string(a.Check), string(b.Check)) })
	return l.facts
}

// Accessor is that of the reader's own token; "" where there is none.
func (r *Reader) Accessor(ctx context.Context) string {
	var self api.ACLToken
	if err := r.get(ctx, "/v1/acl/token/self", &self); err != nil || self.AccessorID == accessorACLDisabled {
		return ""
	}
	return self.AccessorID
}

// Stamp changes when the scheduler configuration, a policy, a role, a binding rule
// or a token does, as far as the token may know. It costs a request for each.
func (r *Reader) Stamp(ctx context.Context) string {
	var parts []string
	for _, path := range [...]string{schedulerPath, "/v1/acl/policies", "/v1/acl/roles", "/v1/acl/tokens?per_page=1", "/v1/acl/binding-rules"} {
		if stamp, ok := r.stampOf(ctx, path); ok {
			parts = append(parts, path+"="+stamp)
		}
	}
	return strings.Join(parts, " ")
}

// schedulerPath is the scheduler configuration, which has no index but its own.
const schedulerPath = "/v1/operator/scheduler/configuration"

func (r *Reader) stampOf(ctx context.Context, path string) (stamp string, ok bool) {
	r.mu.Lock()
	refused := r.refused[path]
	r.mu.Unlock()
	if refused {
		return "", false
	}
	var answer json.RawMessage
	meta, err := r.nomad.Raw().Query(path, &answer, (&api.QueryOptions{}).WithContext(ctx))
	var refusal api.UnexpectedResponseError
	switch {
	case errors.As(err, &refusal) && refusal.HasStatusCode() && refusal.StatusCode() < http.StatusInternalServerError:
		r.mu.Lock()
		defer r.mu.Unlock()
		if r.refused == nil {
			r.refused = make(map[string]bool)
		}
		r.refused[path] = true
		return "", false
	case err != nil:
		return "", false
	case path != schedulerPath:
		return strconv.FormatUint(meta.LastIndex, 10), true
	}
	var scheduler api.SchedulerConfigurationResponse
	if json.Unmarshal(answer, &scheduler) != nil || scheduler.SchedulerConfig == nil {
		return "", false
	}
	return fmt.Sprintf("%d,%t", scheduler.SchedulerConfig.ModifyIndex, scheduler.SchedulerConfig.RejectJobRegistration), true
}

func (r *Reader) get(ctx context.Context, path string, out any) error {
	_, err := r.nomad.Raw().Query(path, out, (&api.QueryOptions{}).WithContext(ctx))
	if err != nil {
		return fmt.Errorf("read %s: %w", path, err)
	}
	return nil
}

// look is one reading.
type look struct {
	*Reader
	ctx   context.Context //nolint:containedctx // it lives as long as one call
	facts bypass.Facts
}

// read reads a path for a check, and notes what is missing if it cannot.
func (l *look) read(check bypass.Check, command, path string, out any) bool {
	if err := l.get(l.ctx, path, out); err != nil {
		l.miss(check, command, err)
		return false
	}
	return true
}

func (l *look) miss(check bypass.Check, command string, err error) {
	l.facts.Missing = append(l.facts.Missing, bypass.Missing{Check: check, Why: reason(err), Look: command})
}

// reason is why something could not be read, without addresses: the answer of a
// gate and of Nomad say the same.
func reason(err error) string {
	var answer api.UnexpectedResponseError
	switch {
	case !errors.As(err, &answer) || !answer.HasStatusCode():
		return "Nomad does not answer"
	case answer.StatusCode() == http.StatusForbidden:
		return "the token may not read it"
	}
	return fmt.Sprintf("Nomad answers %d: %.80s", answer.StatusCode(), strings.TrimSpace(answer.Body()))
}

// acl reads who there is.
func (l *look) acl() {
	var self api.ACLToken
	err := l.get(l.ctx, "/v1/acl/token/self", &self)
	var answer api.UnexpectedResponseError
	told := errors.As(err, &answer) && answer.HasStatusCode()
	switch {
	case told && strings.Contains(answer.Body(), "ACL support disabled"), err == nil && self.AccessorID == accessorACLDisabled:
		l.facts.ACLsOff = true
		return
	case err != nil && !told:
		l.miss(bypass.CheckACL, "nomad acl token self", err)
		return
	}
	l.namespaces()
	l.policies()
	l.roles()
	l.tokens()
	l.bindings()
}

func (l *look) roles() {
	var roles []struct {
		ID, Name string
		Policies []struct{ Name string }
	}
	if l.read(bypass.CheckRoles, "nomad acl role list", "/v1/acl/roles", &roles) {
		for _, role := range roles {
			r := bypass.Role{ID: role.ID, Name: role.Name}
			for _, p := range role.Policies {
				r.Policies = append(r.Policies, p.Name)
			}
			l.facts.Roles = append(l.facts.Roles, r)
		}
	}
}

func (l *look) namespaces() {
	var list []struct{ Name string }
	if l.get(l.ctx, "/v1/namespaces", &list) == nil { // only names exceptions of globs
		for _, n := range list {
			l.facts.Namespaces = append(l.facts.Namespaces, n.Name)
		}
	}
}

// policies reads all policies. Nomad lists to a client token its own alone, and
// gives the anonymous one to everybody.
func (l *look) policies() {
	var list []struct{ Name string }
	if !l.read(bypass.CheckPolicies, "nomad acl policy list", "/v1/acl/policies", &list) {
		list = nil
	}
	if !slices.ContainsFunc(list, func(p struct{ Name string }) bool { return p.Name == "anonymous" }) {
		list = append(list, struct{ Name string }{"anonymous"})
	}
	for _, one := range list {
		var p struct {
			Name, Description string
			JobACL            *bypass.JobACL
			Rules             string
			RulesJSON         *acl.Rules
		}
		err := l.get(l.ctx, policyPrefix+one.Name, &p)
		check, command := bypass.CheckPolicies, "nomad acl policy info "+one.Name
		if one.Name == "anonymous" {
			check = bypass.CheckAnonymous
		}
		var answer api.UnexpectedResponseError
		switch {
		case errors.As(err, &answer) && answer.StatusCode() == http.StatusNotFound: // there is none
		case err != nil:
			l.miss(check, command, err)
		case p.RulesJSON == nil && p.Rules != "":
			l.miss(check, command, fmt.Errorf("this Nomad does not say how it reads policies"))
		case p.RulesJSON != nil:
			l.facts.Policies = append(l.facts.Policies, bypass.Policy{Name: p.Name, Description: p.Description, Job: p.JobACL, Rules: *p.RulesJSON})
		}
	}
}

// tokens reads all tokens, and what else only management may: to others Nomad's
// lists of policies and roles look whole and are not.
func (l *look) tokens() {
	const command = "nomad acl token list"
	type stub struct {
		AccessorID, Name, Type string
		Policies               []string
		Roles                  []struct{ ID, Name string }
		ExpirationTime         *time.Time
	}
	var list []stub
	if !l.read(bypass.CheckTokens, command, "/v1/acl/tokens", &list) {
		why := l.facts.Missing[len(l.facts.Missing)-1].Why
		for _, m := range []bypass.Missing{{Check: bypass.CheckPolicies, Look: "nomad acl policy list"}, {Check: bypass.CheckRoles, Look: "nomad acl role list"}} {
			if !slices.ContainsFunc(l.facts.Missing, func(have bypass.Missing) bool { return have.Check == m.Check }) {
				m.Why = why
				l.facts.Missing = append(l.facts.Missing, m)
			}
		}
		return
	}
	for _, t := range list {
		token := bypass.Token{Accessor: t.AccessorID, Name: t.Name, Management: t.Type == "management", Policies: t.Policies,
			Expired: t.ExpirationTime != nil && !t.ExpirationTime.IsZero() && !t.ExpirationTime.After(l.now())}
		for _, link := range t.Roles { // the list of tokens may lack the names
			i := slices.IndexFunc(l.facts.Roles, func(r bypass.Role) bool { return r.ID == link.ID })
			if i >= 0 {
				token.Roles = append(token.Roles, l.facts.Roles[i].Name)
			}
		}
		l.facts.Tokens = append(l.facts.Tokens, token)
	}
}

func (l *look) bindings() {
	const command = "nomad acl binding-rule list"
	var list []struct{ ID string }
	if !l.read(bypass.CheckBindings, command, "/v1/acl/binding-rules", &list) {
		return
	}
	for _, one := range list {
		var b struct{ ID, AuthMethod, BindType, BindName, Selector string }
		if !l.read(bypass.CheckBindings, command, "/v1/acl/binding-rule/"+one.ID, &b) {
			return
		}
		l.facts.Bindings = append(l.facts.Bindings, bypass.Binding{ID: b.ID, AuthMethod: b.AuthMethod, Type: b.BindType, Name: b.BindName, Selector: b.Selector})
	}
}

func (l *look) scheduler() {
	var answer struct {
		SchedulerConfig struct{ RejectJobRegistration bool }
	}
	if l.read(bypass.CheckScheduler, "nomad operator scheduler get-config", schedulerPath, &answer) {
		l.facts.RejectRegistration = answer.SchedulerConfig.RejectJobRegistration
	}
}

// together does what must be done for each of n things, several at a time.
func together(n int, do func(i int)) {
	const most = 16
	turns := make(chan struct{}, most)
	var running sync.WaitGroup
	for i := range n {
		turns <- struct{}{}
		running.Go(func() {
			defer func() { <-turns }()
			do(i)
		})
	}
	running.Wait()
}
