package jobspec

import (
	"testing"

	"github.com/shoenig/test/must"
)

func TestAddUILink_changesNothingElse(t *testing.T) {
	t.Parallel()
	const ours = `{"Label":"Governor","Url":"https://g/governor/jobs/a/b%2Fc"}`
	for before, want := range map[string]string{
		`{"ID":"a","Z":1e2}`: `{"ID":"a","Z":1e2,"UI":{"Links":[` + ours + `]}}`,
		`{"UI":null}`:        `{"UI":{"Links":[` + ours + `]}}`,
		`{"ui":{"Description":"mine <b>","links":null},"Z":1.50}`:             `{"ui":{"Description":"mine <b>","links":[` + ours + `]},"Z":1.50}`,
		`{"UI":{"Links":[{"Label":"docs","Url":"https://d","Future":true}]}}`: `{"UI":{"Links":[{"Label":"docs","Url":"https://d","Future":true},` + ours + `]}}`,
	} {
		wrap := func(job string) string { return `{"Submission":{"Source":"job {\n}"},"Job":` + job + `}` }
		doc, err := Parse([]byte(wrap(before)), SubmissionLimits)
		must.NoError(t, err)
		must.NoError(t, AddUILink(doc, "Governor", "https://g/governor/jobs/a/b%2Fc"))
		must.EqOp(t, wrap(want), string(doc.Encode()))
	}
	for _, strange := range []string{`{}`, `{"Job":1}`, `{"Job":{"UI":1}}`, `{"Job":{"UI":{"Links":{}}}}`} {
		doc, err := Parse([]byte(strange), SubmissionLimits)
		must.NoError(t, err)
		must.Error(t, AddUILink(doc, "Governor", "https://g"))
		must.EqOp(t, strange, string(doc.Encode()))
	}
}
