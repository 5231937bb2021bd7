package gate

import (
	"encoding/json"
	"net/http"
	"testing"

	"github.com/hashicorp/nomad/api"
	"github.com/shoenig/test/must"
)

const (
	mine = `{"Label":"docs","URL":"https://docs.example"}`
	ours = "https://governor.example:4640/governor/jobs/default/team%2Ftrain"
)

// gpuJob is a registration of a job with a ui block.
func linkedJob(ui, devices string) string {
	return `{"Job": {"ID": "team/train", "Name": "train", "Type": "batch"` + ui + `, "TaskGroups": [{"Name": "g", "Tasks": [{"Name": "t", "Driver": "exec",
		"Resources": {"Devices": [` + devices + `]}}]}]}, "Submission": {"Source": "job {}", "Format": "hcl2"}}`
}

const oneGPU = `{"Name": "nvidia/gpu", "Count": 1}`

// linksOf are the links of the latest document that reached Nomad, with the source.
func (r *rig) linksOf(t *testing.T) (urls []string, description, source string) {
	t.Helper()
	writes := r.nomad.writes()
	var sent struct {
		Job        *api.Job
		Submission *api.JobSubmission
	}
	must.NoError(t, json.Unmarshal([]byte(writes[len(writes)-1].body), &sent))
	if sent.Job.UI != nil {
		description = sent.Job.UI.Description
		for _, l := range sent.Job.UI.Links {
			urls = append(urls, l.URL)
		}
	}
	return urls, description, sent.Submission.Source
}

func (r *rig) submitLinked(t *testing.T, body string) []string {
	t.Helper()
	a := r.do(t, "PUT", "/v1/jobs", body)
	must.Eq(t, http.StatusOK, a.status, must.Sprint(a.body))
	r.admitter.settled()
	urls, _, source := r.linksOf(t)
	must.Eq(t, "job {}", source)
	// What is decided about is what is sent: else a job that is the same looks changed.
	asked := r.admitter.asked[len(r.admitter.asked)-1].Job
	var decided []string
	if asked.UI != nil {
		for _, l := range asked.UI.Links {
			decided = append(decided, l.URL)
		}
	}
	must.Eq(t, urls, decided)
	return urls
}

func linkRig(t *testing.T, base string) *rig { return newRig(t, func(c *Config) { c.JobLink = base }) }

func TestLink_comesWithTheFirstRegistrationAndStays(t *testing.T) {
	t.Parallel()
	r := linkRig(t, "https://governor.example:4640/")
	withUI := linkedJob(`, "UI": {"Description": "mine", "Links": [`+mine+`]}`, oneGPU)
	for range 2 { // the same job again is the same document
		must.Eq(t, []string{"https://docs.example", ours}, r.submitLinked(t, withUI))
		_, description, _ := r.linksOf(t)
		must.Eq(t, "mine", description)
	}
	must.Eq(t, http.StatusOK, r.do(t, "PUT", "/v1/job/team%2Ftrain/plan", withUI).status)
	planned, _, _ := r.linksOf(t)
	must.Eq(t, []string{"https://docs.example", ours}, planned)
	must.Eq(t, []string{ours}, r.submitLinked(t, linkedJob("", oneGPU)), must.Sprint("its author took the ui block away"))

	// The definition as Nomad's UI shows it has the link already.
	shown := linkedJob(`, "UI": {"Links": [{"Label": "Governor", "URL": "`+ours+`"}, `+mine+`]}`, oneGPU)
	must.Eq(t, []string{ours, "https://docs.example"}, r.submitLinked(t, shown))
}

func TestLink_isNoReasonForANewVersion(t *testing.T) {
	t.Parallel()
	stored := func(more string) string {
		return `{"ID": "team/train", "Name": "train", "Type": "batch"` + more + `, "TaskGroups": [{"Name": "g", "Tasks": [{"Name": "t", "Driver": "exec",
			"Resources": {"Devices": [` + oneGPU + `]}}]}]}`
	}
	const before = "http://10.0.0.5:4640/governor/jobs/default/team%2Ftrain"
	linked := `, "UI": {"Links": [{"Label": "Governor", "URL": "` + before + `"}]}`
	for name, test := range map[string]struct {
		base, stored string
		want         []string
	}{
		"registered without one":           {"https://governor.example:4640", stored(""), nil},
		"stopped":                          {"https://governor.example:4640", stored(`, "Stop": true`), []string{ours}},
		"registered with another address":  {"https://governor.example:4640", stored(linked), []string{before}},
		"no links any more":                {"", stored(linked), []string{before}},
		"no links any more, and stopped":   {"", stored(linked + `, "Stop": true`), nil},
		"a link of the author's like ours": {"https://governor.example:4640", stored(`, "UI": {"Links": [{"Label": "x", "URL": "` + before + `"}]}`), nil},
	} {
		r := linkRig(t, test.base)
		r.nomad.put(t, "default", test.stored)
		must.Eq(t, test.want, r.submitLinked(t, linkedJob("", oneGPU)), must.Sprint(name))
	}
}

func TestLink_isForGPUJobsAlone(t *testing.T) {
	t.Parallel()
	r := linkRig(t, "https://governor.example:4640")
	must.Eq(t, http.StatusOK, r.do(t, "PUT", "/v1/jobs", linkedJob("", "")).status)
	urls, _, _ := r.linksOf(t)
	must.SliceEmpty(t, urls)
	off := linkRig(t, "")
	must.SliceEmpty(t, off.submitLinked(t, linkedJob("", oneGPU)))
}
