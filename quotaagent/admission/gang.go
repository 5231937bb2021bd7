package admission

import (
	"fmt"
	"strconv"
	"time"

	"github.com/nomad-governor/governor/quotaagent/jobspec"
)

// GangMeta is the job meta key by which an author says "true" when the job is a gang: it
// runs with all its allocations or not at all. GangTimeoutMeta is for how long it may run
// in part, as a duration ("90s"), before all of it is taken back.
const (
	GangMeta        = "governor_gang"
	GangTimeoutMeta = "governor_gang_timeout"
)

// gangTimeoutLeast is the shortest timeout: Nomad needs a moment to place and start.
const gangTimeoutLeast = time.Second

// IsGang reports whether a job with this meta is a gang.
func IsGang(meta map[string]string) bool {
	text, said := meta[GangMeta]
	if !said {
		return false
	}
	gang, err := strconv.ParseBool(text)
	return err == nil && gang
}

// GangTimeout is for how long a gang with this meta may run in part; otherwise where it
// does not say, or says what Gang refuses.
func GangTimeout(meta map[string]string, otherwise time.Duration) time.Duration {
	d, err := time.ParseDuration(meta[GangTimeoutMeta])
	if err != nil || d < gangTimeoutLeast {
		return otherwise
	}
	return d
}

// Gang refuses what a job says of its gang and nobody can do; nil when that is fine.
func Gang(ask jobspec.Ask) *Refusal {
	text, said := ask.Meta[GangMeta]
	timeout, timed := ask.Meta[GangTimeoutMeta]
	if _, err := strconv.ParseBool(text); said && err != nil {
		return &Refusal{Reason: GangUnknown, Fact: fmt.Sprintf("job meta %s is %.100q, which is neither true nor false", GangMeta, text),
			Remedy: "write true (the job runs with all its allocations or not at all) or false, or leave it out"}
	}
	if d, err := time.ParseDuration(timeout); timed && (err != nil || d < gangTimeoutLeast) {
		return &Refusal{Reason: GangUnknown, Fact: fmt.Sprintf("job meta %s is %.100q, which is no duration of at least %s", GangTimeoutMeta, timeout, gangTimeoutLeast),
			Remedy: `write for how long the gang may run in part, for example "90s", or leave it out`}
	}
	if !IsGang(ask.Meta) {
		return nil
	}
	var what string
	switch {
	case ask.Template():
		what = "a periodic or parameterized job: Nomad starts its launches by itself, in whatever parts fit"
	case ask.EveryNode():
		what = fmt.Sprintf("a %s job: it runs on every node that there is", ask.Type)
	default:
		return nil
	}
	return &Refusal{Reason: GangUnknown, Fact: "a gang cannot be " + what,
		Remedy: fmt.Sprintf("submit each gang as a batch or service job of its own, or leave out meta %s", GangMeta)}
}

// AwaitGang is the decision for a gang that has its budget while not all of it fits into
// the cluster; waits says what is missing.
func (d Decision) AwaitGang(waits string) Decision {
	d.Outcome, d.Reason, d.Soft, d.Failed = Queue, GangWaits, nil, nil
	d.Refusal = &Refusal{Reason: GangWaits, Fact: waits,
		Remedy: "wait: all of it starts as soon as all of it fits at once; or ask for fewer allocations, or for fewer GPUs in each"}
	return d
}

// AwaitPlanned is the decision for a job that has its budget while the GPUs that it could
// have are set aside for a gang; waits says for which, and until when.
func (d Decision) AwaitPlanned(waits string) Decision {
	d.Outcome, d.Reason, d.Soft, d.Failed = Queue, PlannedForGang, nil, nil
	d.Refusal = &Refusal{Reason: PlannedForGang, Fact: waits,
		Remedy: "wait: it starts when it fits beside the gang; or give it a max runtime that ends before the gang starts, or ask for GPUs of another class"}
	return d
}

// ForGPUs reports whether a job waits for GPUs and not for budget.
func (r Reason) ForGPUs() bool { return r == GangWaits || r == PlannedForGang }

// UngovernedGang is the refusal of a gang that no budget claims.
func UngovernedGang() *Refusal {
	return &Refusal{Reason: GangUnknown, Fact: "no budget claims the job, and a gang of no budget is not followed: nobody would see that it runs in part",
		Remedy: fmt.Sprintf("add a budget that matches it, which need not limit anything, or leave out meta %s", GangMeta)}
}
