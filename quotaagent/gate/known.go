package gate

import (
	"crypto/sha256"
	"maps"
	"net/http"
	"sync"
	"time"

	"github.com/hashicorp/nomad/api"

	"github.com/nomad-governor/governor/quotaagent/jobspec"
)

const (
	// knownFor is how long a stored job is remembered for plans. Its specification is
	// compared with Nomad's own answer to the plan, but not its status.
	knownFor = time.Second
	// absentFor is the same for a job that Nomad does not have: of that nothing can
	// change which its answer does not tell.
	absentFor = time.Minute
	// knownMost is how many jobs are remembered, and knownBytes how large their JSON is
	// in all, at most.
	knownMost  = 4096
	knownBytes = 8 << 20
)

// knownJobs are jobs as Nomad had them lately, for plans: those change nothing, and
// Nomad's answer to a plan says of which state of the job it speaks. Where that is
// another one than the remembered, the plan is decided about and sent anew. It is safe
// for concurrent use; nobody changes a job that is in it.
type knownJobs struct {
	now func() time.Time

	mu    sync.Mutex
	jobs  map[jobKey]knownJob
	bytes int
}

// jobKey is a job as one token sees it: who may not read it is told so every time.
type jobKey struct {
	namespace, id string
	token         [sha256.Size]byte
}

// key is that of the job of a submission.
func (s *submission) key() jobKey {
	return jobKey{s.scope.namespace, *s.job.ID, sha256.Sum256([]byte(s.token))}
}

// knownJob is one of them; job is nil where Nomad has none.
type knownJob struct {
	job   *api.Job
	size  int
	until time.Time
}

func newKnownJobs(now func() time.Time) *knownJobs {
	return &knownJobs{now: now, jobs: make(map[jobKey]knownJob)}
}

func (k *knownJobs) recall(key jobKey) (job *api.Job, known bool) {
	k.mu.Lock()
	defer k.mu.Unlock()
	one, known := k.jobs[key]
	return one.job, known && k.now().Before(one.until)
}

// keep remembers what Nomad has said after begin, size being the bytes of it.
func (k *knownJobs) keep(key jobKey, job *api.Job, size int, begin time.Time) {
	one := knownJob{job: job, size: size + len(key.namespace) + len(key.id) + len(key.token), until: begin.Add(knownFor)}
	if job == nil {
		one.until = begin.Add(absentFor)
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	k.drop(key)
	if len(k.jobs) >= knownMost || k.bytes+one.size > knownBytes {
		now := k.now()
		maps.DeleteFunc(k.jobs, func(_ jobKey, old knownJob) bool {
			gone := !now.Before(old.until)
			if gone {
				k.bytes -= old.size
			}
			return gone
		})
	}
	if len(k.jobs) >= knownMost || k.bytes+one.size > knownBytes {
		clear(k.jobs)
		k.bytes = 0
	}
	if one.size <= knownBytes {
		k.jobs[key] = one
		k.bytes += one.size
	}
}

func (k *knownJobs) forget(key jobKey) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.drop(key)
}

// drop is forget for who holds the lock.
func (k *knownJobs) drop(key jobKey) {
	k.bytes -= k.jobs[key].size
	delete(k.jobs, key)
}

// stillStored reports whether Nomad has answered a plan of the job that was remembered.
func (s *submission) stillStored(theirs *answer) bool {
	if theirs.status != http.StatusOK {
		return false // whatever it refuses may come of what is not so any more
	}
	at := jobspec.Locate(theirs.body, "JobModifyIndex", "Warnings") // both at once: the answer is long
	theirs.warnings = at[1]
	index, ok := at[0].Uint(theirs.body)
	return ok && index == jobModifyIndex(s.stored)
}
