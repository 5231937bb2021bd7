package budget

import (
	"fmt"
	"slices"
	"strings"
	"time"
)

// Condition is an expression of the policy that is true or false of a job at a
// time. budgetspec makes them.
type Condition interface {
	// Holds evaluates the condition; an error is a mistake in the policy that only
	// shows with these facts, such as a comparison of text with a number.
	Holds(f Facts) (bool, error)
	// Uses reports whether the condition refers to a root name: "job", "schedule",
	// "submitter", "now", "estimate", "limit", "forecast", "request".
	Uses(root string) bool
	// String is the expression as written.
	fmt.Stringer
}

// Facts are what conditions are about. What is not known stays zero; a
// condition that needs it is then an error.
type Facts struct {
	Now       time.Time
	Job       JobFacts
	Submitter SubmitterFacts
	Request   RequestFacts
	// Schedules that are on, by name.
	Schedules map[string]bool
	// Estimate, Limit and Forecast are the worst case of the job, the limit at
	// hand and the expected use at the end of its period.
	Estimate, Limit, Forecast Amounts
	// BurnRate is how fast a budget is used, as a multiple of the even rate at
	// which its period's limit would just be used up.
	BurnRate func(over time.Duration) (float64, error)
}

// JobFacts describe a job. They are kept with its hold, because prices may
// depend on them for as long as it runs.
type JobFacts struct {
	ID        string `json:"id,omitempty"`
	Name      string `json:"name,omitempty"`
	Namespace string `json:"namespace,omitempty"`
	Region    string `json:"region,omitempty"`
	// Type is Nomad's: service, batch, system or sysbatch.
	Type     string `json:"type,omitempty"`
	NodePool string `json:"node_pool,omitempty"`
	Priority int    `json:"priority,omitempty"`
	// GPUs at once.
	GPUs        int               `json:"gpus,omitempty"`
	Datacenters []string          `json:"datacenters,omitempty"`
	Meta        map[string]string `json:"meta,omitempty"`
	Devices     []DeviceFacts     `json:"devices,omitempty"`
}

// DeviceFacts are one device block. Model and Vendor are "" when the block does
// not name them.
type DeviceFacts struct {
	Group  string `json:"group,omitempty"`
	Task   string `json:"task,omitempty"`
	Name   string `json:"name,omitempty"`
	Vendor string `json:"vendor,omitempty"`
	Type   string `json:"type,omitempty"`
	Model  string `json:"model,omitempty"`
	Count  int    `json:"count,omitempty"`
}

// SubmitterFacts are who submits, as Nomad vouches for it.
type SubmitterFacts struct {
	Accessor string `json:"accessor,omitempty"`
	// Names such as "role:nlp-train" (gate.Identity).
	Names []string `json:"names,omitempty"`
}

// RequestFacts are about the request itself.
type RequestFacts struct {
	// Kind is register, plan, validate, scale, dispatch or periodic.
	Kind string
	// PolicyOverride is the flag of `nomad job run -policy-override`.
	PolicyOverride bool
}

// Amounts are numbers in the units of the language: currency units, GPU-hours,
// kilowatt-hours.
type Amounts struct {
	Cost     float64
	GPUHours map[string]float64
	Energy   float64
	Tokens   map[string]float64
}

// Assert is a rule for every GPU job: one for which Condition does not hold is
// refused with Message.
type Assert struct {
	Name      string
	Condition Condition
	Message   string
	Source    Source
}

// Move says that a budget has a new path: holds, balances and history follow.
type Move struct {
	From, To string
	Source   Source
}

// Notifier is somebody to tell.
type Notifier struct {
	// Kind and Name are the labels: notify "webhook" "finops".
	Kind, Name string
	URL        string
	// Format of the message: "cloudevents".
	Format string
	// SecretEnv names the agent's environment variable with the signing key.
	SecretEnv string
	// Events are the kinds of events that it hears of besides those of rules that name
	// it: EventKinds, or their beginnings and a "*". Budgets are the paths of budgets
	// whose events these are, with all below; none for all.
	Events, Budgets []string
	Source          Source
}

// EventKinds are what notifiers can be told, in the order of their names.
func EventKinds() []string {
	return []string{
		"budget.alert", "budget.anomaly", "budget.burn_rate", "budget.full", "budget.overdrawn", "budget.soft",
		"health.bypass_closed", "health.bypass_opened", "health.history", "health.meter_lag", "health.policy_broken",
		"override.activated", "override.approved", "override.ended", "override.requested", "override.revoked", "override.used",
	}
}

// EventPattern reports whether a text is a kind of events, or a beginning of some and
// a "*".
func EventPattern(text string) bool {
	beginning, all := strings.CutSuffix(text, "*")
	return slices.ContainsFunc(EventKinds(), func(kind string) bool {
		return kind == text || all && (beginning == "" || strings.HasSuffix(beginning, ".") && strings.HasPrefix(kind, beginning))
	})
}
