package proposal

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"

	"github.com/nomad-governor/governor/internal/gpu"
	"github.com/nomad-governor/governor/scheduler/cluster"
)

// Bounds on what is asked for: beyond any machine and job there is.
const (
	gpusMax  = cluster.MaxDevices
	countMax = 10_000
	// NodesMax is how many nodes an answer has at most, each with its GPUs.
	NodesMax   = 64
	listMax    = 64
	textMax    = 1024
	amountMax  = 1 << 40
	nameOfAsk  = "ask" // of the group and the task of an ask without a job
	anyGPU     = "nvidia/gpu"
	typeOfAsk  = "batch"
	everywhere = "*"
)

// Question is the body of a request: a job, or an ask without one.
type Question struct {
	// Job is Nomad's JSON of a job, as `nomad job run -output` prints it. Nothing else but
	// Nodes may be given with it.
	Job json.RawMessage `json:"Job,omitempty"`

	// GPUs for each allocation, on one node.
	GPUs int `json:"gpus,omitempty"`
	// Count of allocations; 1 by default.
	Count int `json:"count,omitempty"`
	// DistinctHosts says that no two of them share a node.
	DistinctHosts bool `json:"distinct_hosts,omitempty"`
	// Device name; "nvidia/gpu" by default.
	Device string `json:"device,omitempty"`
	// CPU in MHz and Memory in MiB, beside the GPUs; none by default.
	CPU    int `json:"cpu,omitempty"`
	Memory int `json:"memory,omitempty"`
	// NodePool, "default" by default, and Datacenters, all by default.
	NodePool    string   `json:"node_pool,omitempty"`
	Datacenters []string `json:"datacenters,omitempty"`
	// Drivers that the node must have.
	Drivers []string `json:"drivers,omitempty"`
	// Constraints on the node, and DeviceConstraints on the GPUs.
	Constraints       []Constraint `json:"constraints,omitempty"`
	DeviceConstraints []Constraint `json:"device_constraints,omitempty"`

	// Nodes is how many of them to tell of, the best ones; 1 by default.
	Nodes int `json:"nodes,omitempty"`
}

// Constraint is Nomad's constraint, with the names of a jobspec.
type Constraint struct {
	Attribute string `json:"attribute"`
	Operator  string `json:"operator,omitempty"`
	Value     string `json:"value,omitempty"`
}

// Check says what is wrong with a question, nil when nothing is.
func (q *Question) Check() error {
	if q.Nodes < 0 || q.Nodes > NodesMax {
		return fmt.Errorf("nodes is %d; the answer has 1 to %d nodes", q.Nodes, NodesMax)
	}
	if q.Job != nil {
		rest := *q
		rest.Job, rest.Nodes = nil, 0
		if !rest.empty() {
			return fmt.Errorf("Job is given with an ask of its own; give one of them: what a job asks for is in the job")
		}
		return nil
	}
	return q.checkAsk()
}

// empty reports whether nothing but the defaults is asked for.
func (q *Question) empty() bool {
	return q.GPUs == 0 && q.Count == 0 && !q.DistinctHosts && q.Device == "" && q.CPU == 0 && q.Memory == 0 && q.NodePool == "" &&
		len(q.Datacenters)+len(q.Drivers)+len(q.Constraints)+len(q.DeviceConstraints) == 0
}

func (q *Question) checkAsk() error {
	for _, amount := range []struct {
		name      string
		is        int
		from, to  int
		otherwise string
	}{
		{"gpus", q.GPUs, 1, gpusMax, ", or give a Job"},
		{"count", q.Count, 0, countMax, ""},
		{"cpu", q.CPU, 0, amountMax, ""},
		{"memory", q.Memory, 0, amountMax, ""},
	} {
		if amount.is < amount.from || amount.is > amount.to {
			return fmt.Errorf("%s is %d; write %d to %d%s", amount.name, amount.is, amount.from, amount.to, amount.otherwise)
		}
	}
	if q.Device != "" && !gpu.AskedFor(q.Device) {
		return fmt.Errorf("device is %.100q, which is no name of GPUs; write for example %q", q.Device, anyGPU)
	}
	for name, constraints := range map[string][]Constraint{"constraints": q.Constraints, "device_constraints": q.DeviceConstraints} {
		if i := slices.IndexFunc(constraints, func(c Constraint) bool { return c.Attribute == "" && c.Operator == "" }); i >= 0 {
			return fmt.Errorf("%s[%d] has neither attribute nor operator; write for example {\"attribute\": \"${node.class}\", \"value\": \"fast\"}", name, i)
		}
	}
	return q.checkSizes()
}

func (q *Question) checkSizes() error {
	texts := slices.Concat([]string{q.Device, q.NodePool}, q.Datacenters, q.Drivers)
	for _, c := range slices.Concat(q.Constraints, q.DeviceConstraints) {
		texts = append(texts, c.Attribute, c.Operator, c.Value)
	}
	for _, text := range texts {
		if len(text) > textMax {
			return fmt.Errorf("%.20q... has %d bytes; a text may have %d", text, len(text), textMax)
		}
	}
	if n := max(len(q.Datacenters), len(q.Drivers), len(q.Constraints), len(q.DeviceConstraints)); n > listMax {
		return fmt.Errorf("a list has %d elements; it may have %d", n, listMax)
	}
	return nil
}

// Ask is what a checked question without a job asks of placement.
func (q *Question) Ask() cluster.Ask {
	device := cluster.DeviceAsk{Task: nameOfAsk, Name: or(q.Device, anyGPU), Count: q.GPUs, Constraints: constraintsOf(q.DeviceConstraints)}
	group := cluster.GroupAsk{Name: nameOfAsk, Count: max(1, q.Count), DistinctHosts: q.DistinctHosts, Drivers: slices.Sorted(slices.Values(q.Drivers)),
		Constraints: constraintsOf(q.Constraints), CPU: q.CPU, MemoryMiB: q.Memory, Devices: []cluster.DeviceAsk{device}}
	datacenters := q.Datacenters
	if len(datacenters) == 0 {
		datacenters = []string{everywhere}
	}
	return cluster.Ask{Type: typeOfAsk, Datacenters: datacenters, Pool: q.NodePool, Groups: []cluster.GroupAsk{group}}
}

// Most is how many nodes the answer should have.
func (q *Question) Most() int { return max(1, q.Nodes) }

func constraintsOf(in []Constraint) []cluster.Constraint {
	var out []cluster.Constraint
	for _, c := range in {
		out = append(out, cluster.Constraint{LTarget: c.Attribute, Operand: or(strings.TrimSpace(c.Operator), "="), RTarget: c.Value})
	}
	return out
}

func or(text, otherwise string) string {
	if text == "" {
		return otherwise
	}
	return text
}
