package web

import (
	"fmt"
	"time"

	"github.com/nomad-governor/governor/hcl/budgetspec"
	"github.com/nomad-governor/governor/internal/quantity"
	"github.com/nomad-governor/governor/quotaagent/budget"
	"github.com/nomad-governor/governor/quotaagent/forecast"
	"github.com/nomad-governor/governor/quotaagent/ledger"
)

// Viewer is who looks at a page, as Nomad vouches for it.
type Viewer struct {
	// Name is what people call it: the name of the token, or its accessor.
	Name string
	// Open says that Nomad runs without ACLs: nobody signs in.
	Open bool
	// Manages says that it may read the audit log.
	Manages bool
	// Reads says of which namespaces it may read the jobs.
	Reads func(namespace string) bool
}

// Problem is an error that its reader may see, with the status to answer.
type Problem struct {
	Status int
	Text   string
}

// Error is the text.
func (p *Problem) Error() string { return p.Text }

func problem(status int, format string, args ...any) error {
	return &Problem{status, fmt.Sprintf(format, args...)}
}

// Overview is how budgets and jobs stand. It is shared: do not change it.
type Overview struct {
	Time                  time.Time
	Currency              string
	Revision, Enforcement string
	Author, Commit        string
	// Since is when the policy came into force, and Broken says that the store holds
	// another one that could not.
	Since  time.Time
	Broken bool
	// Budgets in the order of the tree, a parent before its children.
	Budgets []Budget
	Jobs    []Job
	Waiting []Waiting
	// Strays run without budget; Idle and Rogue are GPUs that nobody uses and that are
	// used by who does not hold them; Capacity is what nobody has.
	Strays   []Stray
	Idle     []Idle
	Rogue    []Rogue
	Capacity []Capacity
	// Ways around the gate; nil where nobody looks for them.
	Ways *Ways
	// Observed says that strays, idle and rogue GPUs and capacity are known.
	Observed bool
}

// Budget is one budget with its limits.
type Budget struct {
	Path, Owner string
	Limits      []Limit
	// Queued is how many of its own jobs wait.
	Queued int
}

// Limit is a limit in its present period, in base units.
type Limit struct {
	Window     string
	Start, End *time.Time
	Dimension  string
	Limit      quantity.Amount
	Unlimited  bool
	Posted     quantity.Amount
	Held       quantity.Amount
	Available  quantity.Amount
	Source     string
	// Health is ok, soft, full or overdrawn.
	Health string
}

// Job is a job that holds budget.
type Job struct {
	HoldID, Namespace, ID, Budget string
	// State is held or active, and Ending is set for one that policy ends.
	State     string
	Ending    *Ending
	Created   time.Time
	Submitter string
	GPUs      int64
	// Allocs is how many of its allocations are not paid to their end.
	Allocs                 int
	Estimate, Posted, Held ledger.Usage
	Placement              []Placed
}

// Ending is how policy ends a job, or makes it smaller.
type Ending struct {
	Action, Cause, Budget, Why, Signal string
	Signalled, Stop, Ordered           *time.Time
}

// Placed is an allocation with what was offered to it: Difference is "" where it got
// that.
type Placed struct {
	Alloc, Node string
	IDs         []string
	Difference  string
}

// Waiting is a job that waits for budget or GPUs.
type Waiting struct {
	Namespace, ID, Budget string
	State                 string
	Position, Of, Overall int
	Aged                  bool
	Need                  string
	Estimate              ledger.Usage
	GPUs                  int64
	Submitter             string
	Since                 time.Time
	Until, Expected       *time.Time
	Reason, Detail        string
}

// Stray is an allocation with GPUs that no budget pays.
type Stray struct {
	Namespace, ID, Alloc, Node string
	GPUs                       []string
}

// Idle is an allocation that does not use its GPUs.
type Idle struct {
	Namespace, ID, Budget, Alloc, Node string
	GPUs                               []string
	Since                              time.Time
}

// Rogue is a GPU that processes use which do not hold it.
type Rogue struct{ Node, GPU, Processes string }

// Capacity is the GPUs of a class in a node pool, and how many nobody has.
type Capacity struct {
	Pool, Class string
	GPUs, Free  int
}

// Ways are those around the gate.
type Ways struct {
	Open    int
	Codes   []string
	Checked *time.Time
}

// JobDetail is one job with all that is known of it.
type JobDetail struct {
	// State is waiting, admitted, running, ending or unknown; Text says why, in several
	// lines.
	State, Budget, Reason, Text string
	Job                         *Job
	Waiting                     *Waiting
	// Asked is the worst case in words, Lines by task group.
	Asked       string
	Lines       []ledger.Line
	Allocations []Allocation
	Decisions   []Decision
	// Incomplete says in sentences whose decisions are missing.
	Incomplete []string
}

// Allocation is one allocation with its GPUs.
type Allocation struct {
	ID, Name, Group, Node string
	Start, Posted, End    time.Time
	GPUs                  []UsedGPU
}

// UsedGPU is a GPU of an allocation. Percent is -1 where it is not known.
type UsedGPU struct {
	ID, Class  string
	PerGPUHour quantity.Amount
	Percent    int64
}

// Decision is what was decided about one submission of the job ID.
type Decision struct {
	// Number is the ID of the decision, such as d-3f9c1a0b-812.
	Number          string
	AtMS            int64
	Namespace, ID   string
	Outcome, Reason string
	Budget          string
	Submitter       string
	GPUs            int64
	Plan, Shadow    bool
	Text            string
}

// Decisions are the latest ones of all agents. Incomplete says in sentences whose are missing.
type Decisions struct {
	List       []Decision
	Incomplete []string
}

// DecisionDetail is one decision with all that is kept of it, and what its reason means.
type DecisionDetail struct {
	Decision
	// Request is what was asked of Nomad, Source where what decided is set, and Revision
	// that of the policy then; each "" where it is not known.
	Request, Source, Revision string
	// Meaning of the reason, and what the author of the job and the operator do about it;
	// "" of a reason that this version does not know.
	Meaning, Author, Operator string
	// Agent is the name of the agent that decided.
	Agent string
}

// Detail is what is set for one budget.
type Detail struct {
	Path, Description, Owner, Source string
	Children                         []string
	Settings                         []budget.EffectiveSetting
}

// Override is a break-glass grant.
type Override struct {
	ID, Budget, Rule, State, Reason string
	Requester                       string
	Adds                            []string
	From, Until                     time.Time
}

// Forecast is what is to be expected at the rate of the last days.
type Forecast struct {
	forecast.Forecast
	Days       int
	Incomplete []string
}

// Policy are the budgets as written.
type Policy struct {
	Revision, Enforcement, Author, Commit string
	Since                                 time.Time
	Files                                 []budgetspec.File
	// Broken are the files of an edit that is not in force, Faults what is wrong with
	// them; nil when there is none.
	Broken []budgetspec.File
	Faults []Fault
}

// Fault is what is wrong at one line; Line is 0 where that is not known.
type Fault struct {
	File            string
	Line            int
	Warning         bool
	Summary, Detail string
}

// Revision is a policy that was in force.
type Revision struct {
	Nr                     int
	Digest, Author, Commit string
	Time                   time.Time
	Changes                []string
	Restored               int
}

// Cluster is the map of the GPUs.
type Cluster struct {
	Nodes    []Node
	Room     []Room
	Warnings []string
}

// Node is a client with GPUs.
type Node struct {
	ID, Name, Datacenter, Pool, Class string
	Ready                             bool
	Groups                            []Group
}

// Group is all GPUs of one name on a node.
type Group struct {
	Device string
	GPUs   []GPU
	Free   int
	// Islands and Links are as nvidia-smi tells them, Topology what they were read from
	// (internal/gpu/topology); empty where the node publishes none.
	Islands [][]int
	Links   [][]string
	// NICs of the node that carry RDMA; empty where it publishes none.
	NICs     []NIC
	Topology string
	Sets     []Set
}

// GPU is one GPU and who has it.
type GPU struct {
	Index    int
	ID       string
	PCIBusID string
	NUMANode int
	// State is free, held, freeing, reserved or unhealthy.
	State                 string
	Alloc, Namespace, Job string
	Percent               int64
}

// Set is the best free set of a size, in MB/s.
type Set struct {
	GPUs                int
	Indexes             []int
	RingMBps, IdealMBps int
	// NetworkMBps is what each of its GPUs has to other hosts when all send, NICPath how the
	// farthest reaches its NICs; zero without NICs.
	NetworkMBps int
	NICPath     string
}

// NIC is a network card: what it carries in one direction, and how each GPU reaches it.
type NIC struct {
	MBps  int
	Paths []string
}

// Room is for how many allocations there is room.
type Room struct {
	Device      string
	Total, Free int
	Fits        []Fits
}

// Fits is how many allocations of a size there is room for.
type Fits struct{ GPUs, Allocations int }
