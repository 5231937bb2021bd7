package occupancy_test

import (
	"fmt"
	"strings"
	"testing"

	"github.com/shoenig/test/must"
	"pgregory.net/rapid"

	"github.com/nomad-governor/governor/device/occupancy"
)

const (
	gpu0  = "GPU-00000000-0000-0000-0000-000000000000"
	gpu1  = "GPU-11111111-1111-1111-1111-111111111111"
	mig0  = "MIG-aaaaaaaa-0000-0000-0000-000000000000"
	mig1  = "MIG-bbbbbbbb-0000-0000-0000-000000000000"
	nonce = "0123456789abcdef0123456789abcdef"
	alloc = "0d2ed5a1-6a0c-cc34-3f4a-9c0c1d8a8f4b"
	other = "7c1f4e0b-11e5-9d3c-6f1c-2b7d5e0a9911"
)

func key(t interface{ Helper() }, fill byte) occupancy.Key {
	t.Helper()
	k, err := occupancy.NewKey([]byte(strings.Repeat(string(rune(fill)), occupancy.KeySize)))
	if err != nil {
		panic(err)
	}
	return k
}

// made is a grant of this key.
func made(k occupancy.Key, nonce string, ids ...string) string {
	text, err := k.Grant(ids, nonce)
	if err != nil {
		panic(err)
	}
	return text
}

func TestGrant(t *testing.T) {
	t.Parallel()
	k := key(t, 'k')
	text, err := k.Grant([]string{gpu1, gpu0 + "::0"}, nonce)
	must.NoError(t, err)
	// The code is written out so that a change of the format, which would
	// make the grants of running tasks void, is seen.
	must.Eq(t, gpu0+"::0,"+gpu1+":"+nonce+":6ba8295f", text[:len(text)-56])
	g, ok := k.Verify(text)
	must.True(t, ok)
	must.Eq(t, occupancy.Grant{IDs: []string{gpu0 + "::0", gpu1}, Nonce: nonce}, g)
	must.Eq(t, "GOVERNOR_GPU_GRANT_01234567", occupancy.Variable(nonce))
}

func TestGrantRefuses(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		ids   []string
		nonce string
		want  string
	}{
		"no device":             {nil, nonce, "grant 0 devices: a grant names 1 to 512"},
		"a device twice":        {[]string{gpu0, gpu0}, nonce, "it is named twice"},
		"an empty id":           {[]string{""}, nonce, `grant device ""`},
		"a comma in an id":      {[]string{"a,b"}, nonce, `grant device "a,b"`},
		"a line end in an id":   {[]string{"a\nb"}, nonce, `grant device "a\nb"`},
		"an id without end":     {[]string{strings.Repeat("a", 129)}, nonce, "1 to 128 letters"},
		"a short nonce":         {[]string{gpu0}, "12", "a nonce is 32 lower-case hexadecimal digits"},
		"a nonce with capitals": {[]string{gpu0}, strings.ToUpper(nonce), "a nonce is 32 lower-case hexadecimal digits"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			_, err := key(t, 'k').Grant(c.ids, c.nonce)
			must.ErrorContains(t, err, c.want)
		})
	}
}

func TestVerifyRefuses(t *testing.T) {
	t.Parallel()
	k := key(t, 'k')
	good := made(k, nonce, gpu0, gpu1)
	code := good[len(good)-64:]
	for name, text := range map[string]string{
		"nothing":                      "",
		"another key's":                made(key(t, 'x'), nonce, gpu0, gpu1),
		"fewer devices than granted":   gpu0 + ":" + nonce + ":" + code,
		"more devices than granted":    gpu0 + "," + gpu1 + "," + mig0 + ":" + nonce + ":" + code,
		"another order of the devices": gpu1 + "," + gpu0 + ":" + nonce + ":" + code,
		"another nonce":                gpu0 + "," + gpu1 + ":" + strings.Repeat("0", 32) + ":" + code,
		"a code in capitals":           good[:len(good)-64] + strings.ToUpper(code),
		"something before":             " " + good,
		"something after":              good + "\n",
		"no code":                      good[:len(good)-65],
		"only the code":                code,
		"colons":                       strings.Repeat(":", 200),
		"too long":                     strings.Repeat("a", 1<<20) + ":" + nonce + ":" + code,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			_, ok := k.Verify(text)
			must.False(t, ok)
		})
	}
}

func TestKeyIsNotShown(t *testing.T) {
	t.Parallel()
	k := key(t, 'k')
	for _, format := range []string{"%v", "%+v", "%#v", "%s", "%q"} {
		must.StrContains(t, fmt.Sprintf(format, k), "grant key")
		must.StrNotContains(t, fmt.Sprintf(format, k), "kkkk")
	}
	_, err := occupancy.NewKey([]byte("short"))
	must.EqError(t, err, "a grant key has 32 bytes, not 5")
}

func FuzzVerify(f *testing.F) {
	k := key(f, 'k')
	f.Add(made(k, nonce, gpu0))
	f.Add(made(key(f, 'x'), nonce, gpu0+"::1", mig0))
	f.Add(gpu0 + ":" + nonce + ":")
	f.Fuzz(func(t *testing.T, text string) {
		g, ok := k.Verify(text)
		if !ok {
			return
		}
		// What is valid is exactly what the key writes.
		must.Eq(t, made(k, g.Nonce, g.IDs...), text)
	})
}

func TestEveryChangeOfAGrantMakesItVoid(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		k := key(t, 'k')
		ids := rapid.SliceOfNDistinct(rapid.SampledFrom([]string{gpu0, gpu1, gpu0 + "::0", gpu0 + "::1", mig0, mig1}), 1, 6, rapid.ID).Draw(t, "ids")
		good := made(k, rapid.StringMatching(`[0-9a-f]{32}`).Draw(t, "nonce"), ids...)
		at := rapid.IntRange(0, len(good)-1).Draw(t, "at")
		changed := good[:at] + string(rapid.ByteRange(' ', '~').Draw(t, "byte")) + good[at+1:]
		_, ok := k.Verify(changed)
		must.Eq(t, changed == good, ok)
	})
}
