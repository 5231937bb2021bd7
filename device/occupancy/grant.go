package occupancy

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"slices"
	"strings"
)

// EnvGrant is the name, or with an underscore and more the beginning of the
// name, of the variables that hold grants. Each grant has a name of its own,
// because Nomad merges the reservations of a task by name, and a task with two
// device blocks has two.
const EnvGrant = "GOVERNOR_GPU_GRANT"

// Sizes of a grant's parts.
const (
	// KeySize is a key's size in bytes.
	KeySize = sha256.Size
	// NonceSize is a nonce's length in lower-case hexadecimal digits.
	NonceSize = 32

	macSize   = 2 * sha256.Size
	idSizeMax = 128
	idsMax    = 512
)

// grantDomain keeps a grant's code from meaning anything elsewhere.
const grantDomain = "governor gpu grant 1\n"

// Key authenticates grants. It does not show itself when it is printed. The
// zero value is not a key.
type Key struct{ secret [KeySize]byte }

// NewKey makes a key of KeySize random bytes.
func NewKey(secret []byte) (Key, error) {
	if len(secret) != KeySize {
		return Key{}, fmt.Errorf("a grant key has %d bytes, not %d", KeySize, len(secret))
	}
	return Key{secret: [KeySize]byte(secret)}, nil
}

// String keeps the secret out of logs.
func (Key) String() string { return "grant key" }

// GoString keeps the secret out of logs.
func (Key) GoString() string { return "grant key" }

// Grant is what a valid grant says.
type Grant struct {
	IDs   []string // of devices, sorted
	Nonce string
}

// Variable is the name of the variable for a grant with this nonce.
func Variable(nonce string) string {
	return EnvGrant + "_" + strings.ToUpper(nonce[:min(8, len(nonce))])
}

// Grant returns the grant of the devices: "id,id:nonce:code". The ids are
// sorted; the nonce is NonceSize lower-case hexadecimal digits.
func (k Key) Grant(ids []string, nonce string) (string, error) {
	if len(ids) == 0 || len(ids) > idsMax {
		return "", fmt.Errorf("grant %d devices: a grant names 1 to %d", len(ids), idsMax)
	}
	if !isHex(nonce, NonceSize) {
		return "", fmt.Errorf("grant with nonce %q: a nonce is %d lower-case hexadecimal digits", nonce, NonceSize)
	}
	sorted := slices.Sorted(slices.Values(ids))
	for i, id := range sorted {
		if !deviceID(id) {
			return "", fmt.Errorf("grant device %q: a device id has 1 to %d letters, digits and . _ : / -", id, idSizeMax)
		}
		if i > 0 && id == sorted[i-1] {
			return "", fmt.Errorf("grant device %s: it is named twice", id)
		}
	}
	text := strings.Join(sorted, ",") + ":" + nonce
	return text + ":" + k.code(text), nil
}

func (k Key) code(text string) string {
	mac := hmac.New(sha256.New, k.secret[:])
	mac.Write([]byte(grantDomain + text))
	return hex.EncodeToString(mac.Sum(nil))
}

// Verify returns what a grant says if this key made it. There is one way to
// write a grant: a text that says the same in another is not one.
func (k Key) Verify(text string) (Grant, bool) {
	g, ok := parseGrant(text)
	if !ok {
		return Grant{}, false
	}
	want, err := k.Grant(g.IDs, g.Nonce)
	if err != nil || !hmac.Equal([]byte(want), []byte(text)) {
		return Grant{}, false
	}
	return g, true
}

// parseGrant takes a grant apart from its end: ids of shares have colons.
func parseGrant(text string) (Grant, bool) {
	if len(text) > idsMax*(idSizeMax+1)+NonceSize+macSize+2 {
		return Grant{}, false
	}
	codeAt := len(text) - macSize - 1
	nonceAt := codeAt - NonceSize - 1
	if nonceAt < 1 || text[codeAt] != ':' || text[nonceAt] != ':' {
		return Grant{}, false
	}
	return Grant{IDs: strings.Split(text[:nonceAt], ","), Nonce: text[nonceAt+1 : codeAt]}, true
}

func deviceID(id string) bool {
	if id == "" || len(id) > idSizeMax {
		return false
	}
	for _, c := range []byte(id) {
		switch {
		case '0' <= c && c <= '9', 'a' <= c && c <= 'z', 'A' <= c && c <= 'Z':
		case strings.IndexByte("._:/-", c) >= 0:
		default:
			return false
		}
	}
	return true
}

// isHex reports whether text is that many lower-case hexadecimal digits.
func isHex(text string, size int) bool {
	if len(text) != size {
		return false
	}
	for _, c := range []byte(text) {
		if (c < '0' || c > '9') && (c < 'a' || c > 'f') {
			return false
		}
	}
	return true
}

// uuidSize is the length of a UUID as a text.
const uuidSize = 36

// isUUID reports whether text is a UUID as Nomad writes it.
func isUUID(text string) bool {
	if len(text) != uuidSize {
		return false
	}
	return text[8] == '-' && text[13] == '-' && text[18] == '-' && text[23] == '-' &&
		isHex(strings.ReplaceAll(text, "-", ""), uuidSize-4)
}
