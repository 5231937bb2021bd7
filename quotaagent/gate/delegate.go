package gate

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/hashicorp/nomad/api"

	"github.com/nomad-governor/governor/quotaagent/acl"
)

// Delegation is the hardened mode: users may not start work at Nomad, and the gate does
// it for them with a token of its own, once it has looked at their policies itself.
type Delegation struct {
	// Token is what requests that start work are sent with.
	Token string
	// Capability lets somebody start work through the gate in a namespace, as Nomad's
	// own capabilities for it do, and starts nothing at Nomad.
	Capability string
}

// starting are Nomad's own capabilities of which one lets somebody start work
// (nomad/job_endpoint.go and periodic_endpoint.go).
var starting = map[Kind][]string{
	Register:      {"submit-job", "register-job"},
	Revert:        {"submit-job", "revert-job"},
	Scale:         {"submit-job", "scale-job"},
	Dispatch:      {"dispatch-job"},
	PeriodicForce: {"dispatch-job", "submit-job", "force-periodic-job"},
}

// authorize looks at whether the user may do what Nomad would look at, and lends him
// the gate's token for it.
func (g *Gate) authorize(ctx context.Context, s *submission) error {
	d := g.config.Delegation
	if d == nil || !s.kind.Commits() || s.scope.region != g.config.Region {
		return nil
	}
	id, err := g.identities.holder(ctx, s.token)
	if err != nil || slices.Contains(id.Names, NameACLDisabled) {
		return err
	}
	rights := acl.Everything()
	if !slices.Contains(id.Names, nameManagement) {
		if rights, err = g.identities.rights(ctx, s.token); err != nil {
			return err
		}
	}
	if lacks := s.lacks(rights, d.Capability); lacks != "" {
		return refusePermission(lacks)
	}
	s.lent = d.Token
	return nil
}

// lacks says what the user lacks, in words that follow "it needs"; "" for nothing.
func (s *submission) lacks(rights acl.Rights, delegated string) string {
	anyOf := append([]string{delegated}, starting[s.kind]...)
	switch {
	case !rights.Allows(s.scope.namespace, anyOf...):
		return fmt.Sprintf("one of %s in namespace %q", strings.Join(anyOf, ", "), s.scope.namespace)
	case s.job == nil || s.kind != Register && s.kind != Revert:
		return "" // Nomad looks at nothing else
	case s.request.PolicyOverride && !rights.Allows(s.scope.namespace, "sentinel-override"):
		return fmt.Sprintf("sentinel-override in namespace %q, because the policy override is set", s.scope.namespace)
	}
	for _, group := range s.job.TaskGroups {
		if group == nil {
			continue
		}
		if lacks := lacksForGroup(rights, s.scope.namespace, group); lacks != "" {
			return lacks
		}
	}
	return ""
}

// lacksForGroup is what Nomad checks of the job itself (nomad/job_endpoint.go,
// doRegister).
func lacksForGroup(rights acl.Rights, namespace string, group *api.TaskGroup) string {
	for _, name := range slices.Sorted(maps.Keys(group.Volumes)) {
		volume := group.Volumes[name]
		switch {
		case volume == nil:
		case volume.Type == api.CSIVolumeTypeCSI && !rights.MountsCSIVolumes(namespace):
			return fmt.Sprintf("csi-mount-volume in namespace %q and policy = \"read\" for plugins, because group %q mounts volume %q", namespace, value(group.Name), name)
		case volume.Type == api.CSIVolumeTypeHost && !rights.MountsHostVolume(volume.Source, !volume.ReadOnly):
			capability := "mount-readwrite"
			if volume.ReadOnly {
				capability = "mount-readonly"
			}
			return lacksVolume(capability, volume.Source, value(group.Name), name)
		}
	}
	for _, task := range group.Tasks {
		if task == nil {
			continue
		}
		if task.CSIPluginConfig != nil && !rights.Allows(namespace, "csi-register-plugin") {
			return fmt.Sprintf("csi-register-plugin in namespace %q, because task %q is a CSI plugin", namespace, task.Name)
		}
		for _, mount := range task.VolumeMounts {
			if mount == nil || value(mount.PropagationMode) != api.VolumeMountPropagationBidirectional {
				continue
			}
			source := ""
			if volume := group.Volumes[value(mount.Volume)]; volume != nil {
				source = volume.Source
			}
			if !rights.MountsHostVolume(source, true) {
				return lacksVolume("mount-readwrite", source, value(group.Name), value(mount.Volume))
			}
		}
	}
	return ""
}

func lacksVolume(capability, source, group, name string) string {
	return fmt.Sprintf("%s for host volume %q, because group %q mounts it as %q", capability, source, group, name)
}

// rights are what the policies of a token allow, as Nomad itself reads them.
func (i *identities) rights(ctx context.Context, token string) (acl.Rights, error) {
	return i.may.get(ctx, token, func(ctx context.Context) (acl.Rights, time.Time, error) {
		rights, err := i.askRights(ctx, token)
		return rights, time.Time{}, err
	})
}

func (i *identities) askRights(ctx context.Context, token string) (acl.Rights, error) {
	var named []struct{ Name string }
	if err := i.list(ctx, "/v1/acl/policies", token, &named); err != nil {
		return acl.Rights{}, err
	}
	rules := make([]acl.Rules, 0, len(named))
	for _, policy := range named {
		var read struct{ RulesJSON *acl.Rules }
		found, err := i.nomad.readWith(ctx, "/v1/acl/policy/"+url.PathEscape(policy.Name), nil, token, &read)
		switch {
		case err != nil:
			return acl.Rights{}, err
		case !found: // deleted meanwhile
		case read.RulesJSON == nil:
			return acl.Rights{}, fmt.Errorf("read policy %s of nomad: this version of nomad does not say what its policies allow", policy.Name)
		default:
			rules = append(rules, *read.RulesJSON)
		}
	}
	return acl.Combine(rules...), nil
}

func (i *identities) list(ctx context.Context, path, token string, into any) error {
	a, err := i.nomad.get(ctx, path, nil, token)
	switch {
	case err != nil:
		return err
	case a.status != http.StatusOK:
		return a
	}
	if err := json.Unmarshal(a.body, into); err != nil {
		return fmt.Errorf("read answer of nomad: %w", err)
	}
	return nil
}

// bearer is the token that the request is sent with.
func (s *submission) bearer() string {
	if s.lent != "" {
		return s.lent
	}
	return s.token
}

// hand forwards what nobody has to decide about.
func (g *Gate) hand(w http.ResponseWriter, r *http.Request, s *submission) error {
	if s.lent == "" {
		g.pass(w, r, s.body(), s.token)
		return nil
	}
	theirs, err := g.nomad.do(g.outgoing(r, s))
	if err == nil {
		err = s.notLent(theirs)
	}
	if err != nil {
		return err
	}
	theirs.write(w)
	return nil
}

// notLent is the answer where Nomad does not accept the gate's own token. Of which
// right it misses Nomad says nothing.
func (s *submission) notLent(theirs *answer) error {
	if s.lent == "" || theirs.status != http.StatusForbidden {
		return nil
	}
	return refuse(http.StatusForbidden, ReasonOwnToken,
		"Nomad does not let Governor's own token do this in namespace %q: %s\n"+
			"Nothing was changed. An operator must give it the rights that docs/agent.md lists for delegated credentials, "+
			"or a management token where Nomad rejects registrations.",
		s.scope.namespace, strings.TrimSpace(string(theirs.body)))
}

func refusePermission(lacks string) *refusal {
	return refuse(http.StatusForbidden, ReasonPermission,
		"Permission denied: the ACL policies of this token do not allow this; it needs %s.\n"+
			"Nothing was changed. Ask whoever manages Nomad's ACL policies for it.", lacks)
}
