package main

import (
	"bytes"
	"os"
	"path/filepath"
	"testing"

	"github.com/shoenig/test/must"
)

const dgx1v = "../../fixtures/dgx1v.hcl"

func TestCompilesToAFileOrTheStandardOutput(t *testing.T) {
	t.Parallel()
	var stdout, stderr bytes.Buffer
	must.Zero(t, run([]string{"-fixture", dgx1v, "-node", "client1"}, &stdout, &stderr))
	must.StrHasPrefix(t, "fakenvml 1\n", stdout.String())
	path := filepath.Join(t.TempDir(), "client1.flat")
	must.Zero(t, run([]string{"-fixture", dgx1v, "-node", "client1", "-o", path}, &bytes.Buffer{}, &stderr))
	written, err := os.ReadFile(path)
	must.NoError(t, err)
	must.Eq(t, stdout.String(), string(written))
	must.Eq(t, "", stderr.String())
	var other bytes.Buffer
	must.Zero(t, run([]string{"-fixture", dgx1v, "-node", "client2"}, &other, &stderr))
	must.NotEq(t, stdout.String(), other.String())
}

func TestErrors(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct {
		args []string
		code int
		text string
	}{
		"no fixture":     {nil, 2, "usage: fakenvml-compile -fixture FILE"},
		"absent fixture": {[]string{"-fixture", "absent.hcl"}, 1, "read fixture: open absent.hcl"},
		"bad fixture":    {[]string{"-fixture", "../../fixture/testdata/bad/asymmetric_link.hcl"}, 1, "asymmetric_link.hcl line 10"},
		"bad output":     {[]string{"-fixture", dgx1v, "-o", "/absent/x"}, 1, "write compiled fixture"},
	} {
		var stdout, stderr bytes.Buffer
		must.Eq(t, tc.code, run(tc.args, &stdout, &stderr), must.Sprint(name))
		must.StrContains(t, stderr.String(), tc.text)
		must.Eq(t, "", stdout.String())
	}
}
