package web

import (
	"net/http"
	"slices"
	"strings"
)

const (
	nodeRows = 20
	// hidden stands for a job whose namespace somebody may not read.
	hidden = "a job of another namespace"
)

// clusterData is the map of the cluster.
type clusterData struct {
	*Cluster
	Nodes        []Node
	Paging       paging
	Q, State     string
	States       []string
	GPUs, Free   int
	Bad, Drained int
}

// topology shows all nodes.
func (h *Handler) topology(v *visit) (view, error) {
	c, err := h.readCluster(v)
	if err != nil {
		return view{}, err
	}
	d := clusterData{Cluster: c, Q: v.query("q"), State: v.query("state"), States: []string{"free", "held", "freeing", "reserved", "unhealthy"}}
	var found []Node
	for _, n := range c.Nodes {
		if !n.Ready {
			d.Drained++
		}
		has := d.State == ""
		for _, g := range n.Groups {
			for _, gpu := range g.GPUs {
				d.GPUs++
				has = has || gpu.State == d.State
				switch {
				case gpu.State == "unhealthy":
					d.Bad++
				case gpu.State == "free" && n.Ready:
					d.Free++
				}
			}
		}
		if has && strings.Contains(strings.ToLower(n.Name+" "+n.Pool+" "+n.Datacenter+" "+n.ID), strings.ToLower(d.Q)) {
			found = append(found, n)
		}
	}
	d.Nodes, d.Paging = pageOf(v, found, nodeRows, "node")
	for i := range d.Nodes {
		d.Nodes[i] = v.viewer.mask(d.Nodes[i])
	}
	return view{template: "topology", title: "Topology", section: "topology", data: d}, nil
}

// readCluster reads the map, or says since when Nomad cannot be read.
func (h *Handler) readCluster(v *visit) (*Cluster, error) {
	c, err := h.cluster.get(v.Context())
	if err != nil {
		h.Failed(v.Request, err)
		return nil, problem(http.StatusServiceUnavailable, "Nomad cannot be read since %s, so that nothing is known of nodes and GPUs. Jobs that run are not touched by that.", h.cluster.since().In(h.Zone()).Format(timeLayout))
	}
	return c, nil
}

// mask leaves out of a node whose jobs somebody may not read.
func (viewer Viewer) mask(n Node) Node {
	n.Groups = slices.Clone(n.Groups)
	for i := range n.Groups {
		g := &n.Groups[i]
		g.GPUs = slices.Clone(g.GPUs)
		for j := range g.GPUs {
			if gpu := &g.GPUs[j]; gpu.Job != "" && !viewer.Reads(gpu.Namespace) {
				gpu.Namespace, gpu.Job, gpu.Alloc = "", hidden, ""
			}
		}
	}
	return n
}

// nodeData is one node.
type nodeData struct {
	Node
	Fabrics []fabricData
}

// node shows one node, by its name or the beginning of its id.
func (h *Handler) node(v *visit) (view, error) {
	c, err := h.readCluster(v)
	if err != nil {
		return view{}, err
	}
	name := v.PathValue("node")
	at := slices.IndexFunc(c.Nodes, func(n Node) bool { return n.Name == name || n.ID == name })
	if at < 0 && len(name) >= 8 {
		at = slices.IndexFunc(c.Nodes, func(n Node) bool { return strings.HasPrefix(n.ID, name) })
	}
	if at < 0 {
		return view{}, problem(http.StatusNotFound, "There is no node %.100q with GPUs.", name)
	}
	d := nodeData{Node: v.viewer.mask(c.Nodes[at])}
	for _, g := range d.Groups {
		d.Fabrics = append(d.Fabrics, newFabric(d.Name, g, nil))
	}
	return view{template: "node", title: d.Name, section: "topology", crumbs: []crumb{{"Topology", Prefix + "topology"}}, data: d}, nil
}
