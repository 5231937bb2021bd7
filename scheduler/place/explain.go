package place

import (
	"cmp"
	"fmt"
	"maps"
	"math/bits"
	"slices"
	"strconv"
	"strings"

	"github.com/nomad-governor/governor/internal/gpu/topology"
	"github.com/nomad-governor/governor/scheduler/cluster"
	"github.com/nomad-governor/governor/scheduler/locality"
	"github.com/nomad-governor/governor/scheduler/sets"
)

// Explanation says what Place chose and why.
type Explanation struct {
	// Infeasible is the sentence that says why no node can ever run the job;
	// Groups is then empty.
	Infeasible string `json:"infeasible,omitempty"`
	// Gang says of a gang how large it is and where it runs, or why it waits; Groups
	// is then empty.
	Gang   string             `json:"gang,omitempty"`
	Groups []GroupExplanation `json:"groups"`
}

// GroupExplanation is the part of an Explanation about one task group.
type GroupExplanation struct {
	Group string `json:"group"`
	// Choices by node, the best ones first; empty when nothing is free now. Candidates
	// is how many nodes there are to choose from.
	// Those beyond the nodes that were asked for only have the links of their sets.
	// With Members there is one for each allocation of a gang.
	Members    bool         `json:"members,omitempty"`
	Choices    []NodeChoice `json:"choices"`
	Candidates int          `json:"candidates"`
	// Preferred says why the first node comes before the second; empty when no
	// node is preferred.
	Preferred string `json:"preferred,omitempty"`
	// Unpinned says why the devices are left to Nomad; empty when they are pinned.
	Unpinned string `json:"unpinned,omitempty"`
	// Rejected nodes by reason, in the order of the reasons.
	Rejected []Rejection `json:"rejected"`
	// UsesReserved says that part of the first choice was promised to another job
	// seconds ago, because too few other GPUs are free.
	UsesReserved bool `json:"uses_reserved,omitempty"`
}

// NodeChoice is the best choice of GPUs on one node.
type NodeChoice struct {
	NodeID string      `json:"node_id"`
	Node   string      `json:"node"`
	Sets   []SetChoice `json:"sets"`
	// FreeLeft is how many GPUs of the node stay free.
	FreeLeft int `json:"free_left"`
	// Loading says what the node loads before the job can start, and LoadsMS for how
	// many milliseconds; empty for a job that names no state.
	Loading string `json:"loading,omitempty"`
	LoadsMS int64  `json:"loads_ms,omitempty"`
}

// SetChoice is the choice for one device block.
type SetChoice struct {
	Task   string   `json:"task"`
	Device string   `json:"device"`
	IDs    []string `json:"ids"`
	// Link names what connects the GPUs: "NV2 pair", "fully NVLinked set of 4".
	Link string `json:"link"`
	// RingMBps is as in sets.Quality; 0 for one GPU or without a topology. BestMBps is
	// that of the set with the fastest ring, which is left to later jobs where it is not
	// the one that was chosen.
	RingMBps int `json:"ring_mbps"`
	BestMBps int `json:"best_mbps"`
	// NetworkMBps and NICPath (PIX, PXB, ...) are as in sets.Quality; left out without NICs.
	NetworkMBps int    `json:"network_mbps,omitempty"`
	NICPath     string `json:"nic_path,omitempty"`
	// Why says by what parts of GPUs were chosen, which have no links; "" for whole GPUs.
	Why string `json:"why,omitempty"`
	// Tied says that another set has as fast a ring and better links in all, and that this
	// one leaves more to later jobs.
	Tied bool `json:"tied,omitempty"`
	// Free GPUs that there were to choose from, and the number of sets among them.
	Free int   `json:"free"`
	Sets int64 `json:"possible_sets"`
}

// Rejection is why some nodes were passed over.
type Rejection struct {
	Reason string `json:"reason"`
	// Count of the nodes, and Nodes the first of their names, sorted.
	Count int      `json:"count"`
	Nodes []string `json:"nodes"`
}

func explainGroup(g *cluster.GroupAsk, r *result, o *cluster.GroupOffer, unpinned string, most int) GroupExplanation {
	e := GroupExplanation{Group: g.Name, Unpinned: unpinned, Candidates: r.count}
	for i := range min(len(r.candidates), listed(most)) {
		if i < most {
			e.Choices = append(e.Choices, explainChoice(g, &r.candidates[i]))
		} else {
			e.Choices = append(e.Choices, mention(&r.candidates[i]))
		}
	}
	if o.Preferred != "" {
		e.Preferred = advantage(&r.candidates[0], &r.candidates[1])
	}
	e.UsesReserved = len(r.candidates) > 0 && r.candidates[0].reserved
	for _, reason := range slices.Sorted(maps.Keys(r.rejected)) {
		e.Rejected = append(e.Rejected, Rejection{Reason: reason, Count: r.rejected[reason].count, Nodes: r.rejected[reason].first})
	}
	return e
}

func explainChoice(g *cluster.GroupAsk, c *candidate) NodeChoice {
	n := NodeChoice{NodeID: c.node.ID, Node: c.node.Name, FreeLeft: c.freeLeft, Loading: c.loading.Text, LoadsMS: c.loading.Takes.Milliseconds()}
	offered := nodeOffer(g, c)
	for i, ch := range c.choices {
		group := &c.node.Groups[ch.group]
		free := ch.freeAll
		choice := SetChoice{
			Task: g.Devices[i].Task, Device: group.Name(), IDs: offered.Sets[i].IDs,
			Link: linkOf(group, ch.set), Why: partReason(group), RingMBps: ch.quality.RingMBps, BestMBps: ch.best.RingMBps, Tied: tied(ch.quality, ch.best),
			Free: free, Sets: chooseCount(free, g.Devices[i].Count),
		}
		if q := &ch.quality; q.NICPath != topology.PathUnknown {
			choice.NetworkMBps, choice.NICPath = q.NetworkMBps, q.NICPath.String()
		}
		n.Sets = append(n.Sets, choice)
	}
	return n
}

// mention is a choice that is only named as an alternative.
func mention(c *candidate) NodeChoice {
	n := NodeChoice{NodeID: c.node.ID, Node: c.node.Name, FreeLeft: c.freeLeft, Sets: make([]SetChoice, len(c.choices))}
	for i, ch := range c.choices {
		n.Sets[i].Link = linkOf(&c.node.Groups[ch.group], ch.set)
	}
	return n
}

// tied reports whether a set has the ring of the best one, but fewer links.
func tied(q, best sets.Quality) bool {
	best.LeftMBps, best.NetworkMBps, best.NICPath = q.LeftMBps, q.NetworkMBps, q.NICPath
	return q.RingMBps == best.RingMBps && q.Compare(best) < 0
}

// advantage says in which respect the first candidate is better; they are in
// the order of candidate.compare.
func advantage(a, b *candidate) string {
	before := a.node.Name + " before " + b.node.Name + ": "
	fuller := "best fit, free GPUs left there: " + strconv.Itoa(a.freeLeft) + " against " + strconv.Itoa(b.freeLeft)
	switch s, o := &a.standing, &b.standing; {
	case a.reserved != b.reserved:
		return fmt.Sprintf("%sGPUs of %s are promised to another job", before, b.node.Name)
	case a.fits != b.fits:
		return fmt.Sprintf("%sit can run %d of the allocations, not %d", before, a.fits, b.fits)
	case a.weighs && a.ringMBps() != b.ringMBps():
		return fmt.Sprintf("%sring %s against %s", before, gigabytes(a.ringMBps()), gigabytes(b.ringMBps()))
	case a.loading.Takes != b.loading.Takes:
		return fmt.Sprintf("%sits state is loaded in %s, not in %s", before, locality.About(a.loading.Takes), locality.About(b.loading.Takes))
	case s.Cost != o.Cost:
		return before + cheaper(a, b, fuller)
	case s.Loss != o.Loss:
		return before + "what stays free is worth more"
	case s.FreeGPUs != o.FreeGPUs:
		return before + fuller
	case s.Class != o.Class && a.networkMBps() < b.networkMBps():
		return before + "the faster network stays free for others"
	case s.Level != o.Level && s.Class == o.Class:
		return before + "less CPU and memory left unused there"
	}
	return before + "equally good"
}

// cheaper says why a costs less than b: by its links, because it is fuller, or by one of
// them although the other speaks against it.
func cheaper(a, b *candidate, fuller string) string {
	links, other := a.linkCost(), b.linkCost()
	packing, otherPacking := a.standing.Cost-links, b.standing.Cost-other
	faster := linkAdvantage(a, b)
	switch {
	case links == other:
		return fuller
	case links < other && packing < otherPacking && faster == worthMore:
		return fuller
	case links < other && packing <= otherPacking:
		return faster
	case links < other:
		return fmt.Sprintf("%s, which counts more than that %s is fuller", faster, b.node.Name)
	case packing < otherPacking && linkAdvantage(b, a) == worthMore:
		return fuller
	}
	return fmt.Sprintf("%s, which counts more than %s there", fuller, linkAdvantage(b, a))
}

// worthMore is what speaks for a single GPU, which has no links to others of its job.
const worthMore = "what stays free is worth more"

// linkAdvantage says how the sets of a are better than those of b.
func linkAdvantage(a, b *candidate) string {
	switch ring, other := a.ringMBps(), b.ringMBps(); {
	case ring > other:
		return "ring " + gigabytes(ring) + " against " + gigabytes(other)
	case ring == 0:
		return worthMore
	}
	return "more bandwidth over all rings side by side"
}

// linkCost is the part of what a candidate costs that is not about how full it is.
func (c *candidate) linkCost() int32 {
	cost := c.standing.Cost
	for _, ch := range c.choices {
		cost -= weights().CostUntabled(1, 0, bits.OnesCount64(ch.free&^ch.set), len(c.node.Groups[ch.group].Devices))
	}
	return cost
}

// linksUnknown is what is said of a node without a topology.
const linksUnknown = "links not known"

// linkOf says in a few words what a set of a group is.
func linkOf(g *cluster.Group, set uint64) string {
	if name := partName(g, set); name != "" {
		return name
	}
	return linkName(g.Topology, set)
}

// linkName says in a few words what connects the GPUs of a set.
func linkName(m *topology.Matrix, set uint64) string {
	at := sets.Members(set)
	if len(at) == 1 {
		return "GPU"
	}
	if m == nil {
		return fmt.Sprintf("set of %d, %s", len(at), linksUnknown)
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

func gigabytes(mbps int) string { return strconv.FormatFloat(float64(mbps)/1000, 'f', 1, 64) + " GB/s" }

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
	if len(g.Choices) > 0 && g.Choices[0].Loading != "" {
		sentences = append(sentences, "state there: "+g.Choices[0].Loading)
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
	return "group " + strconv.Quote(g.Group) + ": " + strings.Join(sentences, "; ") + "."
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
	if more := g.Candidates - 1 - shown; more > 0 {
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
	text := s.Link + " on " + node + ": " + strings.Join(s.IDs, ",") + " ("
	if s.RingMBps > 0 {
		text += "ring " + gigabytes(s.RingMBps) + " per direction; "
	}
	if s.NetworkMBps > 0 {
		text += fmt.Sprintf("network %s for each GPU, NICs at %s; ", gigabytes(s.NetworkMBps), s.NICPath)
	}
	free := strconv.FormatInt(s.Sets, 10) + " free " + setNoun(len(s.IDs))
	switch {
	case s.Why != "":
		return text + fmt.Sprintf("%s; out of %d that are free)", s.Why, s.Free)
	case s.Sets == 1:
		return text + "the only free choice)"
	case s.RingMBps < s.BestMBps:
		return text + fmt.Sprintf("the best of %s, with %s, is left to later jobs)", free, gigabytes(s.BestMBps))
	case s.Tied:
		return text + fmt.Sprintf("no faster one among %s, and this one leaves the most to later jobs)", free)
	case strings.HasSuffix(s.Link, linksUnknown):
		return text + fmt.Sprintf("first of %s by PCI address)", free)
	}
	return text + "best of " + free + ")"
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
	slices.SortStableFunc(rs, func(a, b Rejection) int { return cmp.Compare(a.Count, b.Count) })
	texts := make([]string, len(rs))
	for i, r := range rs {
		nodes := strings.Join(r.Nodes, ", ")
		if more := r.Count - len(r.Nodes); more > 0 {
			nodes += " and " + strconv.Itoa(more) + " more"
		}
		texts[i] = nodes + " (" + r.Reason + ")"
	}
	return strings.Join(texts, ", ")
}
