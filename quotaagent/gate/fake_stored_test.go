package gate

import (
	"encoding/json"
	"fmt"
	"net/http"
	"strings"

	"github.com/hashicorp/nomad/api"
)

// stored answers the requests that make something of a stored job, as Nomad does
// (nomad/job_endpoint.go: Scale, Dispatch, Revert; periodic_endpoint.go: Force). It
// reports whether the request is one. The caller holds the lock.
func (f *fakeNomad) stored(w http.ResponseWriter, r *http.Request, namespace, handler, id string, body []byte) bool {
	if id, ok := strings.CutPrefix(r.URL.Path, "/v1/evaluation/"); ok {
		reply(w, api.Evaluation{ID: id, JobID: f.evals[id]})
		return true
	}
	if !isWrite(r.Method) || !strings.HasPrefix(r.URL.Path, "/v1/job/") {
		return false
	}
	var said storedRequest
	_ = json.Unmarshal(body, &said)
	serve := map[string]func(http.ResponseWriter, string, []*api.Job, storedRequest){"/scale": f.scale, "/revert": f.revert,
		"/periodic/force": f.force, "/dispatch": f.dispatch, "/dispatch/payload": f.dispatch}[handler]
	if serve == nil {
		return false
	}
	if token := r.URL.Query().Get("idempotency_token"); token != "" {
		said.IdempotencyToken = token
	}
	if handler != "/scale" {
		namespace = firstOf(r.URL.Query().Get("namespace"), said.Namespace, "default")
	}
	versions := f.jobs[namespace+"\x00"+id]
	if len(versions) == 0 {
		status := http.StatusInternalServerError
		if handler == "/scale" {
			status = http.StatusNotFound
		}
		http.Error(w, fmt.Sprintf("job %q not found", id), status)
		return true
	}
	serve(w, namespace, versions, said)
	return true
}

// copyOf is the newest version to be changed.
func copyOf(j *api.Job) *api.Job {
	var out api.Job
	raw, _ := json.Marshal(j)
	_ = json.Unmarshal(raw, &out)
	return &out
}

func (f *fakeNomad) scale(w http.ResponseWriter, namespace string, versions []*api.Job, said storedRequest) {
	job := copyOf(versions[0])
	if said.JobModifyIndex != 0 && said.JobModifyIndex != *job.JobModifyIndex {
		http.Error(w, "Enforcing job modify index", http.StatusInternalServerError)
		return
	}
	count := int(*said.Count)
	for _, g := range job.TaskGroups {
		if *g.Name == said.Target["Group"] {
			g.Count = &count
		}
	}
	index := f.index
	f.store(namespace, job)
	reply(w, api.JobRegisterResponse{EvalID: "e", EvalCreateIndex: index + 1, JobModifyIndex: index})
}

func (f *fakeNomad) revert(w http.ResponseWriter, namespace string, versions []*api.Job, said storedRequest) {
	for _, v := range versions {
		if *v.Version == said.JobVersion {
			index := f.index
			f.store(namespace, copyOf(v))
			reply(w, api.JobRegisterResponse{EvalID: "e", EvalCreateIndex: index, JobModifyIndex: index})
			return
		}
	}
	http.Error(w, "version not found", http.StatusInternalServerError)
}

func (f *fakeNomad) dispatch(w http.ResponseWriter, namespace string, versions []*api.Job, said storedRequest) {
	if !versions[0].IsParameterized() {
		http.Error(w, "not a parameterized job", http.StatusInternalServerError)
		return
	}
	for _, jobs := range f.jobs {
		if t := jobs[0].DispatchIdempotencyToken; t != nil && *t == said.IdempotencyToken {
			reply(w, api.JobDispatchResponse{DispatchedJobID: *jobs[0].ID, JobCreateIndex: *jobs[0].JobModifyIndex})
			return
		}
	}
	child := copyOf(versions[0])
	for key, value := range said.Meta {
		child.SetMeta(key, value)
	}
	child.Dispatched, child.DispatchIdempotencyToken = true, &said.IdempotencyToken
	index := f.launch(namespace, child, "dispatch")
	reply(w, api.JobDispatchResponse{DispatchedJobID: *child.ID, EvalID: "e", EvalCreateIndex: index, JobCreateIndex: index})
}

func (f *fakeNomad) force(w http.ResponseWriter, namespace string, versions []*api.Job, _ storedRequest) {
	if !versions[0].IsPeriodic() {
		http.Error(w, "can't force launch non-periodic job", http.StatusInternalServerError)
		return
	}
	child := copyOf(versions[0])
	child.Periodic = nil
	index := f.launch(namespace, child, "periodic")
	eval := fmt.Sprintf("eval-%d", index)
	f.evals[eval] = *child.ID
	reply(w, map[string]any{"EvalID": eval, "EvalCreateIndex": index, "Index": index})
}

func (f *fakeNomad) launch(namespace string, child *api.Job, how string) uint64 {
	index, parent := f.index, *child.ID
	id := fmt.Sprintf("%s/%s-%d", parent, how, index)
	child.ID, child.Name, child.ParentID = &id, &id, &parent
	f.store(namespace, child)
	return index
}

// mayNot knows one policy: "scaler" may neither read jobs nor register them.
func (f *fakeNomad) mayNot(token api.ACLToken, r *http.Request) bool {
	return len(token.Policies) == 1 && token.Policies[0] == "scaler" && strings.HasPrefix(r.URL.Path, "/v1/job") &&
		(r.Method == http.MethodGet || r.URL.Path == "/v1/jobs")
}

func (f *fakeNomad) submission(w http.ResponseWriter, r *http.Request, id string) {
	source, ok := f.sources[id+"@"+r.URL.Query().Get("version")]
	if !ok {
		http.Error(w, "job source not found", http.StatusNotFound)
		return
	}
	_, _ = w.Write([]byte(source))
}
