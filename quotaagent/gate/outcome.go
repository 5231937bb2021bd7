package gate

import (
	"bytes"
	"encoding/json"
	"errors"
	"net/http"

	"github.com/hashicorp/nomad/api"
)

// unsureTexts appear in answers with status 500 that Nomad gives when a write
// may have been committed all the same: leadership changed, or an answer
// between servers was lost. Other texts with status 500 are plain refusals of
// the job, such as failed validation.
var unsureTexts = [...][]byte{
	[]byte("leader"), []byte("raft"), []byte("timeout"), []byte("timed out"), []byte("eof"), []byte("connection"),
	[]byte("deadline"), []byte("no path to"),
}

// judge says what became of a registration.
func judge(kind Kind, stored *api.Job, a *answer, err error) Outcome {
	if kind == Scale {
		stored = nil // a new count always makes a new version, and its evaluation comes later
	}
	switch {
	case errors.Is(err, errNotSent):
		return Outcome{Known: true}
	case err != nil:
		return Outcome{}
	case a.status >= 200 && a.status < 300:
		return accepted(stored, a)
	case a.status < http.StatusInternalServerError:
		return Outcome{Known: true}
	case a.status > http.StatusInternalServerError:
		// Nomad itself hardly answers so: something between has lost it.
		return Outcome{}
	}
	text := bytes.ToLower(a.body)
	for _, t := range unsureTexts {
		if bytes.Contains(text, t) {
			return Outcome{}
		}
	}
	return Outcome{Known: true}
}

// accepted finds the index at which the job is registered. When the job has
// not changed Nomad writes nothing, and reports the stored job's ModifyIndex
// under the name JobModifyIndex; the evaluation it makes is newer then
// (nomad/job_endpoint.go, doRegister).
func accepted(stored *api.Job, a *answer) Outcome {
	var r api.JobRegisterResponse
	if err := json.Unmarshal(a.body, &r); err != nil {
		return Outcome{}
	}
	out := Outcome{Known: true, Accepted: true, JobModifyIndex: r.JobModifyIndex}
	if stored == nil || stored.ModifyIndex == nil || stored.JobModifyIndex == nil {
		return out
	}
	unchanged := r.JobModifyIndex <= *stored.ModifyIndex
	if r.EvalID != "" {
		unchanged = r.EvalCreateIndex != r.JobModifyIndex
	}
	if unchanged {
		out.JobModifyIndex = *stored.JobModifyIndex
	}
	return out
}

// conflicts reports whether Nomad refused because the job is not at the index that
// the request is bound to.
func (a *answer) conflicts() bool {
	return a.status >= http.StatusBadRequest && bytes.Contains(a.body, []byte(api.RegisterEnforceIndexErrPrefix))
}
