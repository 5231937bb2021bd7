package main

import (
	"strings"
	"testing"

	"github.com/shoenig/test/must"
)

// events is what go test -json prints, shortened.
const events = `{"Action":"run","Package":"p/a","Test":"TestGood"}
{"Action":"output","Package":"p/a","Test":"TestGood","Output":"quiet\n"}
{"Action":"pass","Package":"p/a","Test":"TestGood","Elapsed":0.1}
{"Action":"pass","Package":"p/a","Test":"TestSlow","Elapsed":3.04}
{"Action":"pass","Package":"p/a","Elapsed":3.2}
{"Action":"output","Package":"p/b","Test":"TestBad","Output":"because\n"}
{"Action":"fail","Package":"p/b","Test":"TestBad","Elapsed":0.1}
{"Action":"output","Package":"p/b","Test":"TestStuck","Output":"stuck here\n"}
{"Action":"output","Package":"p/b","Output":"panic: test timed out\n"}
{"Action":"fail","Package":"p/b","Elapsed":1}
{"ImportPath":"p/c","Action":"build-output","Output":"c.go:1: undefined: x\n"}
{"Action":"fail","Package":"p/c","Elapsed":0,"FailedBuild":"p/c"}
{"Action":"output","Package":"p/d","Test":"TestSkipped","Output":"no GPU\n"}
{"Action":"skip","Package":"p/d","Test":"TestSkipped","Elapsed":0}
{"Action":"pass","Package":"p/d","Elapsed":0.01}
not json
`

func TestSummaryShowsFailuresAndHidesTheRest(t *testing.T) {
	t.Parallel()
	var out strings.Builder
	s := newSummary(&out)
	s.read(strings.NewReader(events))
	s.finish()
	must.Eq(t, `     TestSlow (3s)
ok   p/a: 2 tests, 3.2s
FAIL p/b TestBad
because
FAIL p/b
panic: test timed out
unfinished: TestStuck
stuck here
c.go:1: undefined: x
FAIL p/c
skip p/d TestSkipped
no GPU
ok   p/d: 0 tests, 10ms
not json

Failed:
  p/b TestBad
  p/b
  p/c

2 passed, 2 failed, 1 skipped
`, out.String())
}

func TestExitStatusFollowsGoTest(t *testing.T) {
	t.Parallel()
	var out, complaints strings.Builder
	must.Eq(t, 1, run(t.Context(), []string{"./no-such-package"}, &out, &complaints))
	must.StrContains(t, out.String()+complaints.String(), "no-such-package")
}
