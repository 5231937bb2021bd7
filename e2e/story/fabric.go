package story

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/hashicorp/nomad/api"

	"github.com/nomad-governor/governor/internal/gpu"
	"github.com/nomad-governor/governor/internal/gpu/topology"
)

// fabric is the published topology of one node's GPUs.
type fabric struct {
	matrix *topology.Matrix
	index  map[string]int // device id -> row of the matrix
}

// readFabric reads what the plugin of a client has published. The matrix
// numbers GPUs in the order of their bus ids.
func (s *Scene) readFabric(ctx context.Context, clientName string) (fabric, error) {
	client, err := s.API(s.NomadAddr)
	if err != nil {
		return fabric{}, err
	}
	defer client.Close()
	node, _, err := client.Nodes().Info(s.Client(clientName).NodeID, (&api.QueryOptions{}).WithContext(ctx))
	if err != nil {
		return fabric{}, fmt.Errorf("read node %s: %w", clientName, err)
	}
	if len(node.NodeResources.Devices) != 1 {
		return fabric{}, fmt.Errorf("node %s has %d device groups, not 1", clientName, len(node.NodeResources.Devices))
	}
	group := node.NodeResources.Devices[0]
	attribute := group.Attributes[gpu.AttrTopology]
	if attribute == nil || attribute.StringVal == nil {
		return fabric{}, fmt.Errorf("node %s publishes no %s", clientName, gpu.AttrTopology)
	}
	matrix, err := topology.Parse(*attribute.StringVal)
	if err != nil {
		return fabric{}, fmt.Errorf("parse the topology of node %s: %w", clientName, err)
	}
	instances := slices.Clone(group.Instances)
	for _, instance := range instances {
		if instance.Locality == nil {
			return fabric{}, errors.New("a GPU has no PCI bus id")
		}
	}
	slices.SortFunc(instances, func(a, b *api.NodeDevice) int {
		return strings.Compare(a.Locality.PciBusID, b.Locality.PciBusID)
	})
	f := fabric{matrix: matrix, index: map[string]int{}}
	for i, instance := range instances {
		f.index[instance.ID] = i
	}
	return f, nil
}

// describe names a set of devices by their rows and links: "0-3: NV2".
func (f fabric) describe(ids []string) string {
	rows := f.rows(ids)
	least := f.leastLinks(rows)
	names := make([]string, len(rows))
	for i, row := range rows {
		names[i] = fmt.Sprint(row)
	}
	if least == 0 {
		return strings.Join(names, "-") + ": not all NVLinked"
	}
	return fmt.Sprintf("%s: NV%d", strings.Join(names, "-"), least)
}

func (f fabric) rows(ids []string) []int {
	var rows []int
	for _, id := range ids {
		if row, ok := f.index[id]; ok {
			rows = append(rows, row)
		}
	}
	slices.Sort(rows)
	return rows
}

// leastLinks is the smallest number of NVLinks between any two of the rows.
func (f fabric) leastLinks(rows []int) int {
	least := -1
	for i, a := range rows {
		for _, b := range rows[:i] {
			if links := f.matrix.Links(a, b); least < 0 || links < least {
				least = links
			}
		}
	}
	return max(least, 0)
}
