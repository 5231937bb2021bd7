package place

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/nomad-governor/governor/internal/gpu/topology"
	"github.com/nomad-governor/governor/scheduler/cluster"
	"github.com/nomad-governor/governor/scheduler/sets"
)

// Explanation says what Place chose and why.
type Explanation struct {
	// Infeasible is the sentence that says why no node can ever run the job;
	// Groups is then empty.
	Infeasible string
	// Gang says of a gang how large it is and where it runs, or why it waits; Groups
	// is then empty.
	Gang   string
	Groups []GroupExplanation
}

// GroupExplanation is the part of an Explanation about one task group.
type GroupExplanation struct {
	Group string
	// Choices by node, best first; empty when nothing is free now. With Members there
	// is one for each allocation of a gang.
	Choices []NodeChoice
	Members bool
	// Preferred says why the first node comes before the second; empty when no
	// node is preferred.
	Preferred string
	// Unpinned says why the devices are left to Nomad; empty when they are pinned.
	Unpinned string
	// Rejected nodes by reason, in the order of the reasons.
	Rejected []Rejection
	// UsesReserved says that part of the first choice was promised to another job
	// seconds ago, because too few other GPUs are free.
	UsesReserved bool
}

// NodeChoice is the best choice of GPUs on one node.
type NodeChoice struct {
	NodeID string
	Node   string
	Sets   []SetChoice
	// FreeLeft is how many GPUs of the node stay free.
	FreeLeft int
}

// SetChoice is the choice for one device block.
type SetChoice struct {
	Task   string
	Device string
	IDs    []string
	// Link names what connects the GPUs: "NV2 pair", "fully NVLinked set of 4".
	Link string
	// RingMBps is as in sets.Quality; 0 for one GPU or without a topology.
	RingMBps int
	// Free GPUs that there were to choose from, and the number of sets among them.
	Free int
	Sets int64
}

// Rejection is why some nodes were passed over.
type Rejection struct {
	Reason string
	// Nodes by name, sorted.
	Nodes []string
}

func explainGroup(g *cluster.GroupAsk, r *result, o *cluster.GroupOffer, unpinned string) GroupExplanation {
	e := GroupExplanation{Group: g.Name, Unpinned: unpinned}
	for i := range r.candidates {
		e.Choices = append(e.Choices, explainChoice(g, &r.candidates[i]))
	}
	if o.Preferred != "" {
		e.Preferred = advantage(&r.candidates[0], &r.candidates[1])
	}
	e.UsesReserved = len(r.candidates) > 0 && r.candidates[0].reserved
	for _, reason := range slices.Sorted(maps.Keys(r.rejected)) {
		nodes := slices.Clone(r.rejected[reason])
		slices.Sort(nodes)
		e.Rejected = append(e.Rejected, Rejection{Reason: reason, Nodes: nodes})
	}
	return e
}

func explainChoice(g *cluster.GroupAsk, c *candidate) NodeChoice {
	n := NodeChoice{NodeID: c.node.ID, Node: c.node.Name, FreeLeft: c.freeLeft}
	offered := nodeOffer(g, c)
	for i, ch := range c.choices {
		group := &c.node.Groups[ch.group]
		free := len(sets.Members(ch.free))
		n.Sets = append(n.Sets, SetChoice{
			Task: g.Devices[i].Task, Device: group.Name(), IDs: offered.Sets[i].IDs,
			Link: linkName(group.Topology, ch.set), RingMBps: ch.quality.RingMBps,
			Free: free, Sets: chooseCount(free, g.Devices[i].Count),
		})
	}
	return n
}

// advantage says in which respect the first candidate is better; they are in
// the order of candidate.compare.
func advantage(a, b *candidate) string {
	before := fmt.Sprintf("%s before %s: ", a.node.Name, b.node.Name)
	switch {
	case a.reserved != b.reserved:
		return fmt.Sprintf("%sGPUs of %s are promised to another job", before, b.node.Name)
	case a.fits != b.fits:
		return fmt.Sprintf("%sit can run %d of the allocations, not %d", before, a.fits, b.fits)
	case a.quality.RingMBps != b.quality.RingMBps:
		return fmt.Sprintf("%sring %s against %s", before, gigabytes(a.quality.RingMBps), gigabytes(b.quality.RingMBps))
	case a.quality.SumMBps != b.quality.SumMBps:
		return before + "more bandwidth between the GPUs"
	case a.quality.NUMANodes != b.quality.NUMANodes:
		return before + "fewer NUMA nodes"
	case a.freeLeft != b.freeLeft:
		return fmt.Sprintf("%sbest fit, free GPUs left there: %d against %d", before, a.freeLeft, b.freeLeft)
	case a.damage != b.damage:
		return before + "what stays free is worth more"
	}
	return before + "equally good, first by name"
}

// linkName says in a few words what connects the GPUs of a set.
func linkName(m *topology.Matrix, set uint64) string {
	at := sets.Members(set)
	if len(at) == 1 {
		return "GPU"
	}
	if m == nil {
		return fmt.Sprintf("set of %d, links not known", len(at))
	}
	linked, worst := true, topology.PathUnknown
	anyLink := false
	for i := range at {
		for j := i + 1; j < len(at); j++ {
			if m.Links(at[i], at[j]) > 0 {
				anyLink = true
				continue
			}
			linked = false
			worst = max(worst, m.Path(at[i], at[j]))
		}
	}
	switch {
	case len(at) == 2 && linked:
		return fmt.Sprintf("NV%d pair", m.Links(at[0], at[1]))
	case len(at) == 2:
		return worst.String() + " pair"
	case linked && m.Switched():
		return fmt.Sprintf("NVSwitch set of %d", len(at))
	case linked:
		return fmt.Sprintf("fully NVLinked set of %d", len(at))
	case anyLink:
		return fmt.Sprintf("partly NVLinked set of %d, other pairs %s", len(at), worst)
	}
	return fmt.Sprintf("set of %d over PCIe, worst pair %s", len(at), worst)
}

func gigabytes(mbps int) string { return fmt.Sprintf("%.1f GB/s", float64(mbps)/1000) }

// Without leaves out the groups that keep what they have.
func (e Explanation) Without(groups []string) Explanation {
	e.Groups = slices.DeleteFunc(slices.Clone(e.Groups), func(g GroupExplanation) bool {
		return slices.Contains(groups, g.Group)
	})
	return e
}

// String is the explanation for people, a short paragraph for each group.
func (e Explanation) String() string {
	if e.Infeasible != "" {
		return e.Infeasible
	}
	var lines []string
	if e.Gang != "" {
		lines = append(lines, e.Gang+".")
	}
	for i := range e.Groups {
		lines = append(lines, e.Groups[i].String())
	}
	return strings.Join(lines, "\n")
}

// String is the paragraph about one group.
func (g GroupExplanation) String() string {
	if g.Members {
		return fmt.Sprintf("group %q: %s.", g.Group, g.membersText())
	}
	var sentences []string
	if len(g.Choices) > 0 {
		sentences = append(sentences, g.Choices[0].text(g.Unpinned == ""))
	}
	if g.Preferred != "" {
		sentences = append(sentences, g.Preferred)
	}
	if g.UsesReserved {
		sentences = append(sentences, "some of these GPUs were promised to another job seconds ago, because too few others are free")
	}
	if g.Unpinned == "" && len(g.Choices) > 1 {
		sentences = append(sentences, "otherwise "+g.alternatives())
	}
	if g.Unpinned != "" {
		sentences = append(sentences, "GPUs not pinned: "+g.Unpinned)
	}
	if len(g.Rejected) > 0 {
		sentences = append(sentences, "passed over: "+rejections(g.Rejected))
	}
	return fmt.Sprintf("group %q: %s.", g.Group, strings.Join(sentences, "; "))
}

// membersText says what each allocation of a gang gets.
func (g GroupExplanation) membersText() string {
	var texts []string
	for _, c := range g.Choices[:min(len(g.Choices), shown)] {
		texts = append(texts, c.text(g.Unpinned == ""))
	}
	text := strings.Join(texts, "; ")
	if more := len(g.Choices) - shown; more > 0 {
		text += fmt.Sprintf("; and %d more", more)
	}
	if g.Unpinned != "" {
		text += "; GPUs not pinned: " + g.Unpinned
	}
	return text
}

// shown bounds the lists of nodes in a text.
const shown = 3

func (g GroupExplanation) alternatives() string {
	var texts []string
	for _, c := range g.Choices[1:min(len(g.Choices), 1+shown)] {
		links := make([]string, len(c.Sets))
		for i, set := range c.Sets {
			links[i] = set.Link
		}
		texts = append(texts, strings.Join(links, " and ")+" on "+c.Node)
	}
	text := strings.Join(texts, ", ")
	if more := len(g.Choices) - 1 - shown; more > 0 {
		text += fmt.Sprintf(" and %d more nodes", more)
	}
	return text
}

func (c NodeChoice) text(pinned bool) string {
	if !pinned {
		return "best now on " + c.Node + " (" + c.Sets[0].Link + ")"
	}
	texts := make([]string, len(c.Sets))
	for i, set := range c.Sets {
		texts[i] = set.text(c.Node)
		if len(c.Sets) > 1 {
			texts[i] = fmt.Sprintf("task %q %s", set.Task, texts[i])
		}
	}
	return strings.Join(texts, ", ")
}

func (s SetChoice) text(node string) string {
	text := fmt.Sprintf("%s on %s: %s (", s.Link, node, strings.Join(s.IDs, ","))
	if s.RingMBps > 0 {
		text += fmt.Sprintf("ring %s per direction; ", gigabytes(s.RingMBps))
	}
	if s.Sets == 1 {
		return text + "the only free choice)"
	}
	return text + fmt.Sprintf("best of %d free %s)", s.Sets, setNoun(len(s.IDs)))
}

func setNoun(size int) string {
	switch size {
	case 1:
		return "GPUs"
	case 2:
		return "pairs"
	}
	return fmt.Sprintf("sets of %d", size)
}

func rejections(rs []Rejection) string {
	rs = slices.Clone(rs)
	slices.SortStableFunc(rs, func(a, b Rejection) int { return cmp.Compare(len(a.Nodes), len(b.Nodes)) })
	texts := make([]string, len(rs))
	for i, r := range rs {
		nodes := strings.Join(r.Nodes[:min(len(r.Nodes), shown)], ", ")
		if more := len(r.Nodes) - shown; more > 0 {
			nodes += fmt.Sprintf(" and %d more", more)
		}
		texts[i] = fmt.Sprintf("%s (%s)", nodes, r.Reason)
	}
	return strings.Join(texts, ", ")
}
