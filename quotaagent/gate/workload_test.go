package gate

import (
	"crypto"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"math/big"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/shoenig/test/must"
)

// issuer signs workload identities as Nomad does.
type issuer struct {
	rsa *rsa.PrivateKey
	ed  ed25519.PrivateKey
	// published are the ids of the keys that Nomad shows.
	published []string
	fetches   int
	// allocation is Nomad's answer to who may read it; "" for none.
	allocation string
	forbidden  map[string]bool // by token
}

func newIssuer(t *testing.T, f *fakeNomad) *issuer {
	t.Helper()
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	must.NoError(t, err)
	_, ed, err := ed25519.GenerateKey(rand.Reader)
	must.NoError(t, err)
	i := &issuer{rsa: key, ed: ed, published: []string{"rsa", "ed"}, forbidden: map[string]bool{},
		allocation: `{"ID":"a1","Namespace":"ml","JobID":"train/dispatch-1","ClientStatus":"running"}`}
	f.special = i.serve
	return i
}

func (i *issuer) serve(w http.ResponseWriter, r *http.Request) bool {
	switch {
	case r.URL.Path == "/.well-known/jwks.json":
		i.fetches++
		keys := []map[string]any{}
		for _, id := range i.published {
			if strings.HasPrefix(id, "rsa") {
				keys = append(keys, map[string]any{"kid": id, "kty": "RSA", "alg": "RS256", "use": "sig", "n": b64(i.rsa.N.Bytes()),
					"e": b64(big.NewInt(int64(i.rsa.E)).Bytes())})
				continue
			}
			keys = append(keys, map[string]any{"kid": id, "kty": "OKP", "crv": "Ed25519", "alg": "EdDSA", "x": b64(i.ed.Public().(ed25519.PublicKey))})
		}
		reply(w, map[string]any{"keys": keys})
	case r.URL.Path == "/v1/allocation/a1" && i.forbidden[r.Header.Get(tokenHeader)]:
		http.Error(w, "Permission denied", http.StatusForbidden)
	case r.URL.Path == "/v1/allocation/a1" && i.allocation != "":
		_, _ = w.Write([]byte(i.allocation))
	case r.URL.Path == "/v1/allocation/a1":
		http.Error(w, "alloc not found", http.StatusNotFound)
	case r.URL.Path == "/v1/acl/token/self" && strings.HasPrefix(r.Header.Get(tokenHeader), "ey"):
		http.Error(w, "ACL token not found", http.StatusNotFound)
	default:
		return false
	}
	return true
}

func b64(raw []byte) string { return base64.RawURLEncoding.EncodeToString(raw) }

// sign makes a token; edits change its claims.
func (i *issuer) sign(t *testing.T, algorithm, key string, edits map[string]any) string {
	t.Helper()
	claims := map[string]any{"nomad_namespace": "ml", "nomad_job_id": "train", "nomad_allocation_id": "a1", "nomad_task": "t",
		"sub": "global:ml:train:g:t:default", "aud": "nomadproject.io", "nbf": 999, "iat": 999}
	for name, value := range edits {
		claims[name] = value
	}
	head, err := json.Marshal(map[string]any{"alg": algorithm, "kid": key, "typ": "JWT"})
	must.NoError(t, err)
	payload, err := json.Marshal(claims)
	must.NoError(t, err)
	text := b64(head) + "." + b64(payload)
	if algorithm == "EdDSA" {
		return text + "." + b64(ed25519.Sign(i.ed, []byte(text)))
	}
	sum := sha256.Sum256([]byte(text))
	signature, err := rsa.SignPKCS1v15(rand.Reader, i.rsa, crypto.SHA256, sum[:])
	must.NoError(t, err)
	return text + "." + b64(signature)
}

func TestWorkload_isKnownByItsJob(t *testing.T) {
	t.Parallel()
	f, ids, _ := newIdentityRig(t)
	i := newIssuer(t, f)
	want := Identity{Accessor: "workload:ml/train", Names: []string{"workload", "workload:ml/train"},
		Workload: &Workload{Namespace: "ml", JobID: "train/dispatch-1", ParentID: "train", Allocation: "a1"}}
	for algorithm, key := range map[string]string{"RS256": "rsa", "EdDSA": "ed"} {
		got, err := ids.identify(t.Context(), i.sign(t, algorithm, key, nil))
		must.NoError(t, err)
		must.Eq(t, want, got)
	}
	must.EqOp(t, 1, i.fetches)
}

// What Nomad accepts and the gate does not is nobody: the answer is Nomad's own, that
// it knows no such token.
func TestWorkload_isNotBelievedWithoutProof(t *testing.T) {
	t.Parallel()
	f, ids, _ := newIdentityRig(t)
	i := newIssuer(t, f)
	good := i.sign(t, "RS256", "rsa", nil)
	head, rest, _ := strings.Cut(good, ".")
	payload, signature, _ := strings.Cut(rest, ".")
	edited, err := base64.RawURLEncoding.DecodeString(payload)
	must.NoError(t, err)
	edited = []byte(strings.Replace(string(edited), `"train"`, `"other"`, 1))
	cases := map[string]string{
		"other claims under the same signature": head + "." + b64(edited) + "." + signature,
		"no signature":                          head + "." + payload + ".",
		"algorithm none":                        b64([]byte(`{"alg":"none","kid":"rsa"}`)) + "." + payload + ".",
		"algorithm of another kind of key":      i.sign(t, "EdDSA", "rsa", nil),
		"algorithm that Nomad does not use":     i.sign(t, "RS512", "rsa", nil),
		"HMAC with the public key":              b64([]byte(`{"alg":"HS256","kid":"rsa"}`)) + "." + payload + "." + signature,
		"unknown key":                           i.sign(t, "RS256", "gone", nil),
		"no key":                                i.sign(t, "RS256", "", nil),
		"expired":                               i.sign(t, "RS256", "rsa", map[string]any{"exp": 1000 - 60}),
		"not valid yet":                         i.sign(t, "RS256", "rsa", map[string]any{"nbf": 1000 + 61}),
		"a node's identity":                     i.sign(t, "RS256", "rsa", map[string]any{"nomad_allocation_id": "", "nomad_node_id": "n"}),
		"a namespace that is not its own":       i.sign(t, "RS256", "rsa", map[string]any{"nomad_namespace": "other"}),
		"a header that is no JSON":              "ey" + b64([]byte(`{"alg"`)) + "." + payload + "." + signature,
		"too long":                              i.sign(t, "RS256", "rsa", map[string]any{"x": strings.Repeat("x", tokenMax)}),
	}
	for name, token := range cases {
		_, err := ids.identify(t.Context(), token)
		must.ErrorContains(t, err, "nomad answered 404: ACL token not found", must.Sprint(name))
	}
	_, err = ids.identify(t.Context(), good)
	must.NoError(t, err)
}

func TestWorkload_endsWithItsAllocation(t *testing.T) {
	t.Parallel()
	f, ids, now := newIdentityRig(t)
	i := newIssuer(t, f)
	token := i.sign(t, "RS256", "rsa", map[string]any{"exp": 1000 + 10})
	know := func() error { _, err := ids.identify(t.Context(), token); return err }
	must.NoError(t, know())
	for _, status := range []string{"complete", "failed", "lost"} {
		i.allocation = `{"Namespace":"ml","JobID":"train","ClientStatus":"` + status + `"}`
		must.NoError(t, know(), must.Sprint("still remembered"))
		_, _, err := ids.ask(t.Context(), token)
		must.ErrorContains(t, err, "nomad answered 404", must.Sprint(status))
	}
	i.allocation = ""
	*now = now.Add(10 * time.Second)
	must.ErrorContains(t, know(), "nomad answered 404", must.Sprint("remembered no longer than it is valid, and now the allocation is gone"))
}

// The agent's token reads the allocation, else the task's own; where neither may,
// Nomad has looked.
func TestWorkload_whoReadsTheAllocation(t *testing.T) {
	t.Parallel()
	f, ids, _ := newIdentityRig(t)
	i := newIssuer(t, f)
	ids.nomad.reader = "agent"
	token := i.sign(t, "EdDSA", "ed", nil)
	job := func() string {
		id, _, err := ids.ask(t.Context(), token)
		must.NoError(t, err)
		return id.Workload.JobID
	}
	must.EqOp(t, "train/dispatch-1", job())
	i.forbidden["agent"] = true
	must.EqOp(t, "train/dispatch-1", job())
	i.forbidden[token] = true
	must.EqOp(t, "train", job())
}

func TestWorkload_keysRotateAndAreForgotten(t *testing.T) {
	t.Parallel()
	f, ids, now := newIdentityRig(t)
	i := newIssuer(t, f)
	know := func(key string) bool {
		_, _, err := ids.ask(t.Context(), i.sign(t, "RS256", key, nil))
		return err == nil
	}
	must.True(t, know("rsa"))
	i.published = []string{"rsa2", "ed"}
	must.False(t, know("rsa2"), must.Sprint("asked a moment ago"))
	must.EqOp(t, 1, i.fetches)
	*now = now.Add(keysEvery)
	must.True(t, know("rsa2"), must.Sprint("an unknown key makes it ask"))
	must.EqOp(t, 2, i.fetches)
	must.True(t, know("rsa2"))
	must.EqOp(t, 2, i.fetches)
	i.published = []string{"ed"}
	*now = now.Add(keysTTL - 1)
	must.True(t, know("rsa2"))
	*now = now.Add(1)
	must.False(t, know("rsa2"), must.Sprint("a key that Nomad has withdrawn"))
	must.EqOp(t, 3, i.fetches)
}

func TestWorkload_keysThatCannotBeReadAreNoRefusal(t *testing.T) {
	t.Parallel()
	f, ids, _ := newIdentityRig(t)
	i := newIssuer(t, f)
	f.special = func(w http.ResponseWriter, r *http.Request) bool {
		if r.URL.Path == "/.well-known/jwks.json" {
			http.Error(w, "no leader", http.StatusInternalServerError)
			return true
		}
		return i.serve(w, r)
	}
	_, err := ids.identify(t.Context(), i.sign(t, "RS256", "rsa", nil))
	must.ErrorContains(t, err, "nomad answered 500: no leader")
}

func TestJSONKey_weakOrStrangeKeysCountForNothing(t *testing.T) {
	t.Parallel()
	n := b64(new(big.Int).Lsh(big.NewInt(1), 2047).Bytes())
	must.NotNil(t, jsonKey{Type: "RSA", N: n, E: "AQAB"}.public())
	for name, key := range map[string]jsonKey{
		"short": {Type: "RSA", N: b64(make([]byte, 128)), E: "AQAB"}, "exponent 1": {Type: "RSA", N: n, E: "AQ"}, "no exponent": {Type: "RSA", N: n},
		"short curve": {Type: "OKP", Curve: "Ed25519", X: "AQAB"}, "another curve": {Type: "OKP", Curve: "Ed448", X: n}, "EC": {Type: "EC", Curve: "P-256"},
	} {
		must.Nil(t, key.public(), must.Sprint(name))
	}
}
