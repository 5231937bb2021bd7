package inject

import (
	"encoding/json"
	"fmt"
	"path"
	"slices"
	"strings"
	"testing"

	"github.com/shoenig/test/must"
)

func TestParseMinors(t *testing.T) {
	t.Parallel()
	gi := func(gpu, gi int64) capability { return capability{gpu, gi, wholeInstance} }
	cases := map[string]struct {
		text string
		want map[capability]int64
		err  string
	}{
		"nothing is no instance":            {"", map[capability]int64{}, ""},
		"administration is left out":        {"config 1\nmonitor 2\n", map[capability]int64{}, ""},
		"instances are read":                {"gpu0/gi1/access 12\ngpu7/gi13/ci2/access 1004\n", map[capability]int64{gi(0, 1): 12, {7, 13, 2}: 1004}, ""},
		"the last line needs no end":        {"gpu0/gi1/access 12", map[capability]int64{gi(0, 1): 12}, ""},
		"a bad line does not hide the next": {"gpu0/gi1/access\ngpu0/gi2/access 3\n", map[capability]int64{gi(0, 2): 3}, `the line "gpu0/gi1/access"`},
		"a minor is a number":               {"gpu0/gi1/access x\n", map[capability]int64{}, "not a capability and a number"},
		"a minor is not negative":           {"gpu0/gi1/access -1\n", map[capability]int64{}, "not a capability and a number"},
		"a capability has an end":           {"gpu0/gi1/ci1 5\n", map[capability]int64{}, `the capability "gpu0/gi1/ci1"`},
		"a capability has numbers":          {"gpu/gi1/access 5\n", map[capability]int64{}, `the capability "gpu/gi1/access"`},
		"a number has no leading zero":      {"gpu00/gi1/access 5\n", map[capability]int64{}, `the capability "gpu00/gi1/access"`},
		"a capability is not deeper":        {"gpu0/gi1/ci1/x/access 5\n", map[capability]int64{}, "neither a GPU instance"},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			got, err := parseMinors(c.text)
			must.Eq(t, c.want, got)
			if c.err == "" {
				must.NoError(t, err)
				return
			}
			must.Error(t, err)
			must.StrContains(t, err.Error(), c.err)
		})
	}
}

// FuzzParseMinors checks that every entry comes from a line that says just it,
// and that what was read is read again when it is written.
func FuzzParseMinors(f *testing.F) {
	f.Add(someMinors)
	f.Add("gpu0/gi1/access 12\r\ngpu0/gi1/access 13")
	f.Add("gpu0/gi1/ci0/access 99999999999\n\n/ 1\naccess 2\ngpu/gi/access 3")
	f.Fuzz(func(t *testing.T, text string) {
		got, _ := parseMinors(text)
		written := ""
		for c, minor := range got {
			line := fmt.Sprintf("%s %d", c, minor)
			// A number may have leading zeros.
			must.True(t, slices.ContainsFunc(strings.Split(text, "\n"), func(l string) bool {
				name, number, _ := strings.Cut(l, " ")
				return name == c.String() && strings.TrimLeft(number, "0") == strings.TrimLeft(fmt.Sprint(minor), "0")
			}), must.Sprint(line))
			written += line + "\n"
		}
		again, err := parseMinors(written)
		must.NoError(t, err)
		must.Eq(t, got, again)
	})
}

func TestParseDockerConfig(t *testing.T) {
	t.Parallel()
	cases := map[string]struct {
		text string
		want docker
		bad  bool
	}{
		"nothing is no setting":            {"", docker{}, false},
		"white space is no setting":        {" \n", docker{}, false},
		"an empty object is no setting":    {"{}", docker{}, false},
		"runtimes are sorted":              {`{"runtimes": {"nvidia": {}, "kata": {}}}`, docker{runtimes: []string{"kata", "nvidia"}}, false},
		"a byte order mark is passed over": {"\ufeff" + `{"default-runtime": "nvidia"}`, docker{defaultRuntime: "nvidia"}, false},
		"other settings do not matter":     {`{"log-driver": "local", "runtimes": null}`, docker{}, false},
		"a list is no configuration":       {`[]`, docker{}, true},
		"half an object is none":           {`{"runtimes": {`, docker{}, true},
		"runtimes are not a list":          {`{"runtimes": ["nvidia"]}`, docker{}, true},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			got, err := parseDockerConfig(c.text)
			must.Eq(t, c.bad, err != nil)
			must.Eq(t, fmt.Sprint(c.want), fmt.Sprint(got))
		})
	}
}

// FuzzParseDockerConfig checks that a configuration is read as any reader of
// JSON reads it.
func FuzzParseDockerConfig(f *testing.F) {
	f.Add(dockerWithRuntime)
	f.Add(`{"default-runtime": 1}`)
	f.Add("\ufeff{}")
	f.Fuzz(func(t *testing.T, text string) {
		got, err := parseDockerConfig(text)
		if err != nil {
			must.Eq(t, fmt.Sprint(docker{}), fmt.Sprint(got))
			return
		}
		must.True(t, slices.IsSorted(got.runtimes))
		var plain map[string]any
		if json.Unmarshal([]byte(text), &plain) != nil {
			must.SliceEmpty(t, got.runtimes)
			return
		}
		runtimes, _ := plain["runtimes"].(map[string]any)
		for name := range runtimes {
			must.True(t, got.has(name))
		}
	})
}

func TestParseLinkerConfig(t *testing.T) {
	t.Parallel()
	dirs, includes := parseLinkerConfig("# all\ninclude ld.so.conf.d/*.conf /etc/more.conf\n/opt/a:/opt/b, /opt/c/ # the last\nhwcap 1 nosegneg\nrelative/lib\n\t/opt/d\r\n", "/etc")
	must.Eq(t, []string{"/opt/a", "/opt/b", "/opt/c", "/opt/d"}, dirs)
	must.Eq(t, []string{"/etc/ld.so.conf.d/*.conf", "/etc/more.conf"}, includes)
}

func FuzzParseLinkerConfig(f *testing.F) {
	f.Add("include ld.so.conf.d/*.conf\n/usr/lib64/nvidia\n")
	f.Add("include /../x\n/..:/a,b\n#")
	f.Fuzz(func(t *testing.T, text string) {
		dirs, includes := parseLinkerConfig(text, "/etc")
		for _, p := range append(dirs, includes...) {
			must.True(t, path.IsAbs(p) && p == path.Clean(p), must.Sprint(p))
		}
	})
}
