package proposal

import (
	"bytes"
	"encoding/json"

	"github.com/nomad-governor/governor/scheduler/cluster"
	"github.com/nomad-governor/governor/scheduler/place"
	"github.com/nomad-governor/governor/scheduler/rewrite"
)

// Answer is where GPUs would be given now. Its JSON is stable.
type Answer struct {
	// Infeasible says why no node could ever serve it; nothing is offered then.
	Infeasible string `json:"infeasible,omitempty"`
	// Groups in the order of the job, those that ask for GPUs.
	Groups []Group `json:"groups"`
	// Explanation tells people what was chosen, why, and what was passed over.
	Explanation string `json:"explanation"`
	// Mode of placement of the job, and who says so; empty for an ask without one.
	Mode   string `json:"mode,omitempty"`
	ModeBy string `json:"mode_by,omitempty"`
	// Patch is what would be written into the job if it was new.
	Patch []GroupPatch `json:"patch,omitempty"`
}

// Group is what is offered to one task group.
type Group struct {
	Group string `json:"group"`
	// Preferred is the id of the node to prefer.
	Preferred string `json:"preferred,omitempty"`
	// Unpinned says why the GPUs would be left to Nomad; empty when they would be pinned.
	Unpinned string `json:"unpinned,omitempty"`
	// Candidates is how many nodes could run an allocation now.
	Candidates int `json:"candidates"`
	// Nodes with the GPUs of an allocation on each, the best first. Of a gang there is one
	// for each allocation.
	Nodes []Node `json:"nodes"`
}

// Node is the GPUs of an allocation on one node.
type Node struct {
	ID   string `json:"id"`
	Name string `json:"name"`
	Sets []Set  `json:"sets"`
}

// Set is the GPUs of one device block.
type Set struct {
	Task   string   `json:"task"`
	Device string   `json:"device"`
	IDs    []string `json:"ids"`
	// RingMBps is the bottleneck of the best ring through them, in effective MB/s per
	// direction, and BestMBps that of the fastest set that is free on the node.
	RingMBps int `json:"ring_mbps"`
	BestMBps int `json:"best_mbps"`
	// NetworkMBps is what each of them has to other hosts when all of them send, in MB/s
	// per direction, and NICPath how the farthest of them reaches its NICs, as
	// nvidia-smi topo -m names it (PIX, PXB, PHB, NODE, SYS); left out where the node
	// publishes no NICs.
	NetworkMBps int    `json:"network_mbps,omitempty"`
	NICPath     string `json:"nic_path,omitempty"`
}

// GroupPatch is what would be added to one task group, with the names of Nomad's API.
type GroupPatch struct {
	Group       string
	Constraints []cluster.Constraint `json:",omitempty"`
	Affinities  []rewrite.Affinity   `json:",omitempty"`
	Devices     []DevicePatch        `json:",omitempty"`
}

// DevicePatch is what would be added to one device block of a task.
type DevicePatch struct {
	Task        string
	Index       int
	Constraints []cluster.Constraint
}

// Encode is the answer's JSON in one line, with < and > as they are.
func (a Answer) Encode() ([]byte, error) {
	var out bytes.Buffer
	encoder := json.NewEncoder(&out)
	encoder.SetEscapeHTML(false)
	if err := encoder.Encode(a); err != nil {
		return nil, err
	}
	return out.Bytes(), nil
}

// AnswerOf words an offer and its explanation; the nodes are there also where nothing
// would be pinned.
func AnswerOf(offer cluster.Offer, why place.Explanation, most int) Answer {
	a := Answer{Groups: make([]Group, 0, len(why.Groups)), Explanation: why.String()}
	if offer.Infeasible != nil {
		a.Infeasible = offer.Infeasible.String()
	}
	for i := range why.Groups {
		e := &why.Groups[i]
		told := e.Choices
		if !e.Members {
			told = told[:min(most, len(told))]
		}
		g := Group{Group: e.Group, Unpinned: e.Unpinned, Candidates: e.Candidates, Nodes: make([]Node, 0, len(told))}
		if o := offer.Find(e.Group); o != nil {
			g.Preferred = o.Preferred
		}
		for _, c := range told {
			n := Node{ID: c.NodeID, Name: c.Node, Sets: make([]Set, len(c.Sets))}
			for j, s := range c.Sets {
				n.Sets[j] = Set{Task: s.Task, Device: s.Device, IDs: s.IDs, RingMBps: s.RingMBps, BestMBps: s.BestMBps, NetworkMBps: s.NetworkMBps, NICPath: s.NICPath}
			}
			g.Nodes = append(g.Nodes, n)
		}
		a.Groups = append(a.Groups, g)
	}
	return a
}

// PatchOf is the JSON of a patch.
func PatchOf(p rewrite.Patch) []GroupPatch {
	var out []GroupPatch
	for _, g := range p.Groups {
		patch := GroupPatch{Group: g.Group, Constraints: g.Constraints, Affinities: g.Affinities}
		for _, d := range g.Devices {
			patch.Devices = append(patch.Devices, DevicePatch(d))
		}
		out = append(out, patch)
	}
	return out
}
