package bypass

import (
	"testing"

	"github.com/shoenig/test/must"

	"github.com/nomad-governor/governor/quotaagent/acl"
)

func policyOf(name string, rules ...acl.NamespaceRule) Policy {
	return Policy{Name: name, Rules: acl.Rules{Namespaces: rules}}
}

func rule(namespace string, capabilities ...string) acl.NamespaceRule {
	return acl.NamespaceRule{Name: namespace, Capabilities: capabilities}
}

func TestGrants(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		policies []Policy
		reject   bool
		want     string
	}{
		"nothing":              {[]Policy{policyOf("p", rule("default", "read-job", "list-jobs"))}, false, ""},
		"in their order":       {[]Policy{policyOf("p", rule("default", "scale-job", "read-job", "submit-job"))}, false, "submit-job, scale-job in namespace default"},
		"policies add up":      {[]Policy{policyOf("p", rule("default", "scale-job")), policyOf("q", rule("default", "dispatch-job"))}, false, "dispatch-job, scale-job in namespace default"},
		"deny wins":            {[]Policy{policyOf("p", rule("default", "submit-job")), policyOf("q", rule("default", "deny"))}, false, ""},
		"deny wins before":     {[]Policy{policyOf("q", acl.NamespaceRule{Name: "default", Policy: "deny"}), policyOf("p", rule("default", "submit-job"))}, false, ""},
		"deny of another name": {[]Policy{policyOf("p", rule("*", "submit-job")), policyOf("q", rule("secret", "deny"))}, false, "submit-job in namespace * (not secret)"},
		"a longer glob decides": {[]Policy{policyOf("p", rule("*", "submit-job"), rule("ml-*", "read-job"))}, false,
			"submit-job in namespace * (not ml-a, ml-b)"},
		"a shorter glob does not": {[]Policy{policyOf("p", rule("*", "read-job"), rule("ml-*", "revert-job"))}, false, "revert-job in namespace ml-*"},
		"an own name decides":     {[]Policy{policyOf("p", rule("ml-*", "submit-job"), rule("ml-a", "read-job"))}, false, "submit-job in namespace ml-* (not ml-a)"},
		"same rights together": {[]Policy{policyOf("p", rule("default", "submit-job"), rule("ml-*", "submit-job"), rule("secret", "force-periodic-job"))}, false,
			"submit-job in namespaces default, ml-*; force-periodic-job in namespace secret"},
		"rejected":       {[]Policy{policyOf("p", rule("default", "register-job", "scale-job", "revert-job"))}, true, ""},
		"still forced":   {[]Policy{policyOf("p", rule("default", "submit-job", "scale-job", "force-periodic-job"))}, true, "submit-job, force-periodic-job in namespace default"},
		"no such matter": {[]Policy{policyOf("p", rule("default", "alloc-exec", "alloc-lifecycle", "deregister-job", "plan-job", "evaluate-job"))}, false, ""},
	} {
		f := Facts{Namespaces: []string{"default", "ml-a", "ml-b", "secret"}, RejectRegistration: c.reject}
		must.Eq(t, c.want, text(f.grants(c.policies)), must.Sprint(name))
	}
}

func TestQuote(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]string{"plain-1": "plain-1", "": "''", "it's": `'it'\''s'`, "a b": "'a b'", "$(x)": "'$(x)'", "ci/run": "ci/run"} {
		must.Eq(t, want, quote(text))
	}
}

func TestOlder(t *testing.T) {
	t.Parallel()
	for version, want := range map[string]bool{"1.11.1": true, "1.11.2": false, "1.11.3-dev": false, "1.10.9": true, "2.0.5": false, "v1.9.0": true, "unknown": false} {
		must.Eq(t, want, older(version, 1, 11, 2), must.Sprint(version))
	}
}
