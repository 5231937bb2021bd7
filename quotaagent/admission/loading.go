package admission

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/nomad-governor/governor/internal/quantity"
	"github.com/nomad-governor/governor/quotaagent/budget"
)

// LoadingNotice tells an author what it costs that groups load state before they can
// start, given how long each does; "" when none does. It is part of the estimate already:
// the GPUs are held from the start of the allocation.
func (d Decision) LoadingNotice(p *budget.Policy, loads map[string]time.Duration) string {
	var texts []string
	gpus, cost, most := int64(0), quantity.Amount(0), time.Duration(0)
	for _, line := range d.Lines {
		takes := loads[line.Group]
		if takes <= 0 {
			continue
		}
		for _, n := range line.Needs {
			used := quantity.Amount(quantity.Millis(takes)).Mul(n.GPUs).Mul(int64(line.Count))
			gpus, cost = gpus+n.GPUs*int64(line.Count), cost.Add(quantity.Cost(used, n.PerGPUHour))
		}
		most = max(most, takes)
		texts = append(texts, fmt.Sprintf("%q", line.Group))
	}
	if len(texts) == 0 {
		return ""
	}
	slices.Sort(texts)
	noun := "group "
	if len(texts) > 1 {
		noun = "groups "
	}
	return fmt.Sprintf("governor: state: %s%s will load for about %s before there is anything to compute; %s cost %s in that time", noun, strings.Join(texts, ", "),
		max(time.Second, most.Round(time.Second)), format(p, anyGPUs, quantity.GPU.Mul(gpus)), format(p, budget.Cost, cost))
}
