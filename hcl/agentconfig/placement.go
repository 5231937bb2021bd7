package agentconfig

import (
	"errors"
	"fmt"
	"math"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/dustin/go-humanize"
)

// Placement says how jobs get their GPUs, where neither they nor their budget do.
type Placement struct {
	// Mode is require (default: the best GPUs are pinned), prefer (only the node is
	// preferred) or off.
	Mode string `hcl:"mode,optional"`
	// NodePools with modes of their own.
	NodePools []NodePool `hcl:"node_pool,block"`
	// GangTimeout is for how long a gang may run in part before all of it is taken back:
	// a duration, "2m" by default. Its author may say otherwise.
	GangTimeout string `hcl:"gang_timeout,optional"`
	// GangPlanAfter is how long a gang waits before GPUs are set aside for it: a duration,
	// "15m" by default, or "never".
	GangPlanAfter string `hcl:"gang_plan_after,optional"`
	// Rack and Block are what says of a node where it is in the network, as in Nomad's
	// constraints: "${meta.governor_rack}" and "${meta.governor_block}" by default. A gang
	// is kept in one NVLink domain, else in one rack, else in one block.
	Rack  string `hcl:"rack,optional"`
	Block string `hcl:"block,optional"`
	// Loading is how fast nodes load model weights and caches.
	Loading *Loading `hcl:"loading,block"`
}

// GangWithin is GangTimeout as a duration.
func (p Placement) GangWithin() (time.Duration, error) {
	d, err := time.ParseDuration(p.GangTimeout)
	if err != nil || d < time.Second {
		return 0, fmt.Errorf("placement.gang_timeout is %q; it must be a duration of at least 1s, for example 2m", p.GangTimeout)
	}
	return d, nil
}

// GangPlans is GangPlanAfter as a duration; 0 for never.
func (p Placement) GangPlans() (time.Duration, error) {
	if p.GangPlanAfter == "never" {
		return 0, nil
	}
	d, err := time.ParseDuration(p.GangPlanAfter)
	if err != nil || d < time.Second {
		return 0, fmt.Errorf("placement.gang_plan_after is %q; it must be a duration of at least 1s, for example 15m, or never", p.GangPlanAfter)
	}
	return d, nil
}

// nodeText is an interpolation of something that nodes have.
var nodeText = regexp.MustCompile(`^\$\{(meta\.[^{}]+|attr\.[^{}]+|node\.(datacenter|class|pool))\}$`)

// Loading is sizes per second ("2GB") at which a node loads state into its GPUs: from
// elsewhere, from its disk, from its memory.
type Loading struct {
	Fetch  string `hcl:"fetch,optional"`
	Disk   string `hcl:"disk,optional"`
	Memory string `hcl:"memory,optional"`
}

// defaultLoading is ten-gigabit Ethernet, one NVMe drive, and PCIe 4.0 x16, each at what it
// can carry: assumptions, for whoever does not know better.
var defaultLoading = Loading{Fetch: "1.25GB", Disk: "5GB", Memory: "25GB"}

// Rates are the rates of loading, in bytes per second.
func (p Placement) Rates() (fetch, disk, memory int64, err error) {
	said := defaultLoading
	if o := p.Loading; o != nil {
		override(&said.Fetch, o.Fetch)
		override(&said.Disk, o.Disk)
		override(&said.Memory, o.Memory)
	}
	rate := func(name, text string) int64 {
		n, wrong := humanize.ParseBytes(text)
		if wrong != nil || n < 1 || n > math.MaxInt64 {
			err = errors.Join(err, fmt.Errorf("placement.loading.%s is %q; it must be a size per second, such as 2GB", name, text))
			return 1
		}
		return int64(n)
	}
	return rate("fetch", said.Fetch), rate("disk", said.Disk), rate("memory", said.Memory), err
}

// NodePool says how the jobs of one node pool get their GPUs.
type NodePool struct {
	Name string `hcl:"name,label"`
	Mode string `hcl:"mode"`
}

// Pools are the modes of the node pools that have one, by name.
func (p Placement) Pools() map[string]string {
	pools := map[string]string{}
	for _, pool := range p.NodePools {
		pools[pool.Name] = pool.Mode
	}
	return pools
}

func (p Placement) merge(o Placement) *Placement {
	override(&p.Mode, o.Mode)
	override(&p.GangTimeout, o.GangTimeout)
	override(&p.GangPlanAfter, o.GangPlanAfter)
	override(&p.Rack, o.Rack)
	override(&p.Block, o.Block)
	p.NodePools = slices.DeleteFunc(slices.Clone(p.NodePools), func(pool NodePool) bool {
		return slices.ContainsFunc(o.NodePools, func(other NodePool) bool { return other.Name == pool.Name })
	})
	p.NodePools = append(p.NodePools, o.NodePools...)
	if o.Loading != nil {
		merged := Loading{}
		if p.Loading != nil {
			merged = *p.Loading
		}
		override(&merged.Fetch, o.Loading.Fetch)
		override(&merged.Disk, o.Loading.Disk)
		override(&merged.Memory, o.Loading.Memory)
		p.Loading = &merged
	}
	return &p
}

// validate says what is wrong.
func (p Placement) validate(complain func(string, ...any)) {
	const modes = "it must be require, prefer or off"
	if !oneOf(p.Mode, "require", "prefer", "off") {
		complain("placement.mode is %q; %s", p.Mode, modes)
	}
	if _, err := p.GangWithin(); err != nil {
		complain("%v", err)
	}
	if _, err := p.GangPlans(); err != nil {
		complain("%v", err)
	}
	for _, of := range []struct{ name, text string }{{"rack", p.Rack}, {"block", p.Block}} {
		if !nodeText.MatchString(of.text) {
			complain("placement.%s is %q; it must be what a node has, as in a constraint: ${meta.name}, ${attr.name}, ${node.class}, ${node.pool} or ${node.datacenter}", of.name, of.text)
		}
	}
	if _, _, _, err := p.Rates(); err != nil {
		complain("%s", strings.ReplaceAll(err.Error(), "\n", "; "))
	}
	for i, pool := range p.NodePools {
		if !nodePool.MatchString(pool.Name) {
			complain("placement has a node_pool %q; a name has letters, digits, dashes and underscores, 128 at most", pool.Name)
		}
		if !oneOf(pool.Mode, "require", "prefer", "off") {
			complain("the mode of placement's node_pool %q is %q; %s", pool.Name, pool.Mode, modes)
		}
		if slices.ContainsFunc(p.NodePools[:i], func(other NodePool) bool { return other.Name == pool.Name }) {
			complain("placement has two blocks for node_pool %q; write one", pool.Name)
		}
	}
}
