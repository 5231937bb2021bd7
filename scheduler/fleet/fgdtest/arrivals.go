package fgdtest

import (
	"cmp"
	"math/rand"
	"slices"
	"strconv"

	"github.com/nomad-governor/governor/scheduler/fleet"
)

// LoadPercent is the demand up to which pods arrive, in percent of all GPUs.
const LoadPercent = 130

// Experiment is one run: who arrives in which order, and the nodes in the order
// in which the policy sees them.
type Experiment struct {
	Nodes []fleet.Node
	// Names of the nodes by which ties are broken where a policy has no better
	// rule: shuffled, in the order of Nodes.
	Names []string
	Pods  []Pod
	// Random goes on where the arrangement stopped.
	Random *rand.Rand
}

// Arrange makes the run of a seed out of a cluster and a trace. It draws in the
// order of the authors' simulator, so that a seed means the same arrivals.
func Arrange(nodes []fleet.Node, trace []Pod, seed int64) *Experiment {
	random := rand.New(rand.NewSource(seed))
	random.Int() // the authors' simulator logs one number

	nodes, trace = slices.Clone(nodes), slices.Clone(trace)
	slices.SortFunc(nodes, func(a, b fleet.Node) int { return cmp.Compare(a.ID, b.ID) })
	slices.SortFunc(trace, func(a, b Pod) int { return cmp.Compare(a.Name, b.Name) })

	pods := slices.Clone(trace)
	random.Shuffle(len(pods), func(i, j int) { pods[i], pods[j] = pods[j], pods[i] })
	pods = tune(pods, trace, LoadPercent*capacity(nodes)/100, random)

	e := &Experiment{Pods: pods, Random: random}
	for i, at := range random.Perm(len(nodes)) {
		e.Nodes = append(e.Nodes, nodes[i])
		e.Names = append(e.Names, strconv.Itoa(at)+"-"+nodes[i].ID)
	}
	return e
}

// tune adds random pods of the trace, or deletes random ones, until all ask for
// as many GPU milli as wanted. It stops before the first pod that would be too
// much, counting one GPU of it only, as the authors do.
func tune(pods, trace []Pod, wanted int, random *rand.Rand) []Pod {
	asked := 0
	for i := range pods {
		asked += pods[i].Ask.TotalMilli()
	}
	if asked > wanted {
		for asked > wanted && len(pods) > 0 {
			at := random.Intn(len(pods))
			asked -= pods[at].Ask.TotalMilli()
			pods = slices.Delete(pods, at, at+1)
		}
		return pods
	}
	for len(trace) > 0 {
		pod := trace[random.Intn(len(trace))]
		if asked+pod.Ask.GPUMilli > wanted {
			return pods
		}
		asked += pod.Ask.TotalMilli()
		pods = append(pods, pod)
	}
	return pods
}

// capacity is how many GPU milli the nodes have free.
func capacity(nodes []fleet.Node) int {
	total := 0
	for i := range nodes {
		for _, free := range nodes[i].GPUs {
			total += free
		}
	}
	return total
}
