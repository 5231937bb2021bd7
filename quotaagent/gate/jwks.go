package gate

import (
	"context"
	"crypto"
	"crypto/ed25519"
	"crypto/rsa"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"math/big"
	"net/http"
	"strings"
	"sync"
	"time"
)

const (
	// keysTTL is how long keys are used without asking Nomad whether it still has them.
	keysTTL = 5 * time.Minute
	// keysEvery is how often an unknown key makes the gate ask at most.
	keysEvery = 5 * time.Second
	// tokenMax is the longest token that is looked at, and keysMax how many keys.
	tokenMax = 16 << 10
	keysMax  = 256
)

// errNotVerified says that a token is not what it claims to be.
var errNotVerified = errors.New("the token is no valid workload identity")

// notVerified is Nomad's own answer for a token that is not verified, and the error
// itself where that could not be found out.
func notVerified(err error, theirs *answer) error {
	if errors.Is(err, errNotVerified) {
		return theirs
	}
	return err
}

// keySet are the public keys with which Nomad signs workload identities.
type keySet struct {
	nomad *client
	now   func() time.Time

	mu      sync.Mutex
	keys    map[string]crypto.PublicKey
	fetched time.Time
}

// verify returns the claims of a signed token.
func (k *keySet) verify(ctx context.Context, token string) ([]byte, error) {
	parts := strings.Split(token, ".")
	if len(parts) != 3 || len(token) > tokenMax {
		return nil, fmt.Errorf("%w: it is no JSON Web Token", errNotVerified)
	}
	var head struct {
		Algorithm string `json:"alg"`
		Key       string `json:"kid"`
	}
	rawHead, err := base64.RawURLEncoding.DecodeString(parts[0])
	if err == nil {
		err = json.Unmarshal(rawHead, &head)
	}
	if err != nil || head.Key == "" {
		return nil, fmt.Errorf("%w: its header names no key", errNotVerified)
	}
	signature, err := base64.RawURLEncoding.DecodeString(parts[2])
	if err != nil {
		return nil, fmt.Errorf("%w: its signature cannot be read", errNotVerified)
	}
	key, err := k.key(ctx, head.Key)
	if err != nil {
		return nil, err
	}
	if !signed(head.Algorithm, key, parts[0]+"."+parts[1], signature) {
		return nil, fmt.Errorf("%w: its signature is wrong", errNotVerified)
	}
	payload, err := base64.RawURLEncoding.DecodeString(parts[1])
	if err != nil {
		return nil, fmt.Errorf("%w: its claims cannot be read", errNotVerified)
	}
	return payload, nil
}

// signed checks a signature by the algorithm that belongs to the key. What else the
// token may name is not looked at.
func signed(algorithm string, key crypto.PublicKey, text string, signature []byte) bool {
	switch key := key.(type) {
	case *rsa.PublicKey:
		sum := sha256.Sum256([]byte(text))
		return algorithm == "RS256" && rsa.VerifyPKCS1v15(key, crypto.SHA256, sum[:], signature) == nil
	case ed25519.PublicKey:
		return algorithm == "EdDSA" && ed25519.Verify(key, []byte(text), signature)
	}
	return false
}

// key finds a key by its id. A rotation brings an unknown one, for which Nomad is
// asked again.
func (k *keySet) key(ctx context.Context, id string) (crypto.PublicKey, error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	age := k.now().Sub(k.fetched)
	fresh := k.keys != nil && age >= 0 && age < keysTTL
	key, known := k.keys[id]
	if fresh && (known || age < keysEvery) {
		if !known {
			return nil, fmt.Errorf("%w: nomad has no key %.64q", errNotVerified, id)
		}
		return key, nil
	}
	keys, err := k.fetch(ctx)
	if err != nil {
		return nil, err
	}
	k.keys, k.fetched = keys, k.now()
	if key, known = keys[id]; !known {
		return nil, fmt.Errorf("%w: nomad has no key %.64q", errNotVerified, id)
	}
	return key, nil
}

// fetch asks Nomad for its keys.
func (k *keySet) fetch(ctx context.Context) (map[string]crypto.PublicKey, error) {
	a, err := k.nomad.get(ctx, "/.well-known/jwks.json", nil, "")
	if err != nil {
		return nil, err
	}
	if a.status != http.StatusOK {
		return nil, a
	}
	var set struct {
		Keys []jsonKey `json:"keys"`
	}
	if err := json.Unmarshal(a.body, &set); err != nil {
		return nil, fmt.Errorf("read the keys of nomad: %w", err)
	}
	keys := make(map[string]crypto.PublicKey, len(set.Keys))
	for _, one := range set.Keys[:min(len(set.Keys), keysMax)] {
		if key := one.public(); key != nil && one.ID != "" {
			keys[one.ID] = key
		}
	}
	return keys, nil
}

// jsonKey is a public key as RFC 7517 writes it.
type jsonKey struct {
	ID    string `json:"kid"`
	Type  string `json:"kty"`
	Curve string `json:"crv"`
	X     string `json:"x"`
	N     string `json:"n"`
	E     string `json:"e"`
}

// public is the key itself; nil for one of another kind, or too weak.
func (j jsonKey) public() crypto.PublicKey {
	decode := func(text string) []byte {
		raw, err := base64.RawURLEncoding.DecodeString(text)
		if err != nil {
			return nil
		}
		return raw
	}
	switch {
	case j.Type == "RSA":
		n, e := new(big.Int).SetBytes(decode(j.N)), new(big.Int).SetBytes(decode(j.E))
		if n.BitLen() < 2048 || n.BitLen() > 16384 || !e.IsInt64() || e.Int64() < 3 || e.Int64() > 1<<31-1 {
			return nil
		}
		return &rsa.PublicKey{N: n, E: int(e.Int64())}
	case j.Type == "OKP" && j.Curve == "Ed25519":
		if raw := decode(j.X); len(raw) == ed25519.PublicKeySize {
			return ed25519.PublicKey(raw)
		}
	}
	return nil
}
