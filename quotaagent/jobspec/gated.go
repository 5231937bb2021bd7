package jobspec

import (
	"encoding/json"
	"errors"
	"fmt"
	"slices"

	"github.com/hashicorp/nomad/api"
)

// GateTarget is what the gate constraint of a job that waits for budget is on. No
// node has such metadata, so that no node can serve the job. The key is not one of
// the unique ones: Nomad then knows from the class of a node that it cannot serve
// the job, and a new node of a known class costs it nothing.
const GateTarget = "${meta.governor_gate}"

// heldBy begins the text of every gate constraint. Nomad shows it as the reason
// why no node can serve the job.
const heldBy = "held by governor: "

// Gate is the patch that keeps a job from starting: every task group gets one
// constraint that no node meets, and the text says why. A job that is gated
// already only gets the text.
func Gate(job *api.Job, why string) Patch {
	patch := Patch{Drop: GateTarget}
	for _, g := range job.TaskGroups {
		if g != nil && g.Name != nil {
			patch.Groups = append(patch.Groups, GroupPatch{Group: *g.Name,
				Constraints: []Constraint{{LTarget: GateTarget, Operand: "=", RTarget: heldBy + why}}})
		}
	}
	return patch
}

// Gated reports whether no group of the job can start because of its gate.
func Gated(job *api.Job) bool {
	if job == nil || len(job.TaskGroups) == 0 {
		return false
	}
	return !slices.ContainsFunc(job.TaskGroups, func(g *api.TaskGroup) bool { return g == nil || !hasGate(g.Constraints) })
}

// Ungated is the job without any gate, and whether it had one. The job itself is
// not changed.
func Ungated(job *api.Job) (*api.Job, bool) {
	if job == nil || !slices.ContainsFunc(job.TaskGroups, func(g *api.TaskGroup) bool { return g != nil && hasGate(g.Constraints) }) {
		return job, false
	}
	out := *job
	out.TaskGroups = slices.Clone(job.TaskGroups)
	for i, g := range out.TaskGroups {
		if g != nil {
			open := *g
			open.Constraints = slices.DeleteFunc(slices.Clone(g.Constraints), isGate)
			out.TaskGroups[i] = &open
		}
	}
	return &out, true
}

func hasGate(constraints []*api.Constraint) bool { return slices.ContainsFunc(constraints, isGate) }

func isGate(c *api.Constraint) bool { return c != nil && c.LTarget == GateTarget }

// Stored is a job as Nomad has it, ready to be changed and registered again.
type Stored struct {
	doc *Document
	// Job is what Nomad's JSON says.
	Job *api.Job
}

// ParseStored reads Nomad's own JSON of a job.
func ParseStored(raw json.RawMessage) (Stored, error) {
	body, err := json.Marshal(map[string]json.RawMessage{"Job": raw})
	if err != nil {
		return Stored{}, fmt.Errorf("read a job of Nomad: %w", err)
	}
	doc, request, err := ParseRegister(body)
	if err != nil {
		return Stored{}, fmt.Errorf("read a job of Nomad: %w", err)
	}
	return Stored{doc: doc, Job: request.Job}, nil
}

// With is the JSON of the job with a patch. Every field that this Nomad knows
// stays. Call it once.
func (s Stored) With(patch Patch) (json.RawMessage, error) {
	if err := Apply(s.doc, patch); err != nil {
		return nil, err
	}
	return s.job()
}

// Stopped is the JSON of the job with a patch, as one that is stopped. Call it once.
func (s Stored) Stopped(patch Patch) (json.RawMessage, error) { return s.stop("true", patch) }

// Started is the JSON of the job with a patch, as one that is not stopped. Call it once.
func (s Stored) Started(patch Patch) (json.RawMessage, error) { return s.stop("false", patch) }

func (s Stored) stop(stop string, patch Patch) (json.RawMessage, error) {
	job := s.doc.root.field("Job")
	if job == nil || job.kind != '{' {
		return nil, errors.New("stop or start job: the document has no Job object")
	}
	job.setField("Stop", &node{kind: 'v', raw: []byte(stop)})
	return s.With(patch)
}

func (s Stored) job() (json.RawMessage, error) {
	var body struct{ Job json.RawMessage }
	if err := s.doc.Decode(&body); err != nil {
		return nil, fmt.Errorf("encode the job: %w", err)
	}
	return body.Job, nil
}
