package acl_test

import (
	"encoding/json"
	"testing"

	"github.com/shoenig/test/must"

	"github.com/nomad-governor/governor/quotaagent/acl"
)

// rights are those of policies as Nomad reads them.
func rights(t *testing.T, policies ...string) acl.Rights {
	t.Helper()
	rules := make([]acl.Rules, 0, len(policies))
	for _, raw := range policies {
		var r acl.Rules
		must.NoError(t, json.Unmarshal([]byte(raw), &r))
		rules = append(rules, r)
	}
	return acl.Combine(rules...)
}

func TestRightsInNamespaces(t *testing.T) {
	t.Parallel()
	const deny = `{"Namespaces":[{"Name":"default","Policy":"deny","Capabilities":["deny"]}]}`
	const write = `{"Namespaces":[{"Name":"default","Policy":"write","Capabilities":["submit-job","read-job"]}]}`
	for name, c := range map[string]struct {
		policies  []string
		namespace string
		want      bool
	}{
		"nothing":                      {nil, "default", false},
		"its own name":                 {[]string{write}, "default", true},
		"another name":                 {[]string{write}, "ml", false},
		"the union":                    {[]string{`{"Namespaces":[{"Name":"default","Capabilities":["read-job"]}]}`, write}, "default", true},
		"deny wins":                    {[]string{write, deny}, "default", false},
		"deny wins in any order":       {[]string{deny, write}, "default", false},
		"a glob":                       {[]string{`{"Namespaces":[{"Name":"ml-*","Capabilities":["submit-job"]}]}`}, "ml-a", true},
		"an own name beats a glob":     {[]string{`{"Namespaces":[{"Name":"ml-*","Capabilities":["submit-job"]},{"Name":"ml-a","Capabilities":["read-job"]}]}`}, "ml-a", false},
		"the nearer glob decides":      {[]string{`{"Namespaces":[{"Name":"*","Capabilities":["submit-job"]},{"Name":"ml-*","Capabilities":["read-job"]}]}`}, "ml-a", false},
		"deny of a farther glob":       {[]string{`{"Namespaces":[{"Name":"*","Capabilities":["deny"]},{"Name":"ml-*","Capabilities":["submit-job"]}]}`}, "ml-a", true},
		"equally near, the last":       {[]string{`{"Namespaces":[{"Name":"ml-*","Capabilities":["read-job"]},{"Name":"ml*-","Capabilities":["submit-job"]}]}`}, "ml-", false},
		"equally near, the first text": {[]string{`{"Namespaces":[{"Name":"a-*","Capabilities":["read-job"]},{"Name":"*-b","Capabilities":["submit-job"]}]}`}, "a-b", false},
	} {
		must.Eq(t, c.want, rights(t, c.policies...).Allows(c.namespace, "submit-job", "register-job"), must.Sprint(name))
	}
	must.True(t, acl.Everything().Allows("any", "submit-job"))
	must.False(t, acl.Rights{}.Allows("any", "submit-job"))
}

func TestRightsToVolumes(t *testing.T) {
	t.Parallel()
	r := rights(t, `{"HostVolumes":[{"Name":"data-*","Policy":"read","Capabilities":["mount-readonly"]},{"Name":"data-rw","Capabilities":["mount-readwrite"]},
		{"Name":"secret","Policy":"deny","Capabilities":["deny"]}],"Plugin":{"Policy":"read"},"Namespaces":[{"Name":"ml","Capabilities":["csi-mount-volume"]}]}`)
	for _, c := range []struct {
		source string
		write  bool
		want   bool
	}{
		{"data-a", false, true}, {"data-a", true, false}, {"data-rw", true, true}, {"data-rw", false, true},
		{"secret", false, false}, {"other", false, false},
	} {
		must.Eq(t, c.want, r.MountsHostVolume(c.source, c.write), must.Sprintf("%s, to write: %t", c.source, c.write))
	}
	must.True(t, r.MountsCSIVolumes("ml"))
	must.False(t, r.MountsCSIVolumes("default"), must.Sprint("no capability there"))
	must.False(t, rights(t, `{"Plugin":{"Policy":"list"},"Namespaces":[{"Name":"ml","Capabilities":["csi-mount-volume"]}]}`).MountsCSIVolumes("ml"))
	must.False(t, rights(t, `{"Plugin":{"Policy":"read"},"Namespaces":[{"Name":"ml","Capabilities":["csi-mount-volume"]}]}`, `{"Plugin":{"Policy":"deny"}}`).MountsCSIVolumes("ml"))
	must.True(t, acl.Everything().MountsCSIVolumes("ml"))
	must.True(t, acl.Everything().MountsHostVolume("x", true))
}

func TestMatches(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		glob, text string
		want       bool
	}{
		{"*", "", true},
		{"*", "any", true},
		{"ml-*", "ml-", true},
		{"ml-*", "xml-a", false},
		{"*-prod", "a-prod", true},
		{"*-prod", "a-prod-b", false},
		{"a*b*c", "a1b2c", true},
		{"a*b*c", "ac", false},
		{"a*a", "a", false},
		{"plain", "plain", true},
		{"plain", "plains", false},
	} {
		must.Eq(t, c.want, acl.Matches(c.glob, c.text), must.Sprintf("%s %s", c.glob, c.text))
	}
}
