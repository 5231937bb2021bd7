package main

import (
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"slices"

	"github.com/nomad-governor/governor/device/inventory"
	"github.com/nomad-governor/governor/internal/gpu"
)

// fingerprint prints what Nomad is told.
func fingerprint(o options, stdout, stderr io.Writer) int {
	inv, layout, ok := read(o, stderr)
	if !ok {
		return 1
	}
	groups := inv.Groups(layout)
	if o.json {
		return writeJSON(jsonGroups(groups), stdout, stderr)
	}
	for i, g := range groups {
		if i > 0 {
			fmt.Fprintln(stdout)
		}
		fmt.Fprintf(stdout, "%s\n", gpu.DeviceName(g.Vendor, g.Type, g.Name))
		for _, name := range slices.Sorted(maps.Keys(g.Attributes)) {
			fmt.Fprintf(stdout, "  %-22s %s\n", name, g.Attributes[name])
		}
		for _, d := range g.Instances {
			fmt.Fprintf(stdout, "  %s  %s  %s\n", d.ID, d.PCIBusID, d.Health())
		}
	}
	if len(groups) == 0 {
		fmt.Fprintln(stdout, "no GPUs")
	}
	return 0
}

func writeJSON(v any, stdout, stderr io.Writer) int {
	encoder := json.NewEncoder(stdout)
	encoder.SetIndent("", "  ")
	if err := encoder.Encode(v); err != nil {
		fmt.Fprintf(stderr, "write JSON: %v\n", err)
		return 1
	}
	return 0
}

type jsonGroup struct {
	Name       string         `json:"name"`
	Attributes map[string]any `json:"attributes"`
	Devices    []jsonDevice   `json:"devices"`
}

type jsonDevice struct {
	ID         string `json:"id"`
	PCIBusID   string `json:"pci_bus_id"`
	Healthy    bool   `json:"healthy"`
	HealthDesc string `json:"health_desc,omitempty"`
}

func jsonGroups(groups []inventory.Group) []jsonGroup {
	out := []jsonGroup{}
	for _, g := range groups {
		jg := jsonGroup{Name: gpu.DeviceName(g.Vendor, g.Type, g.Name), Attributes: map[string]any{}}
		for name, v := range g.Attributes {
			switch {
			case v.IsText:
				jg.Attributes[name] = v.Text
			case v.Unit == "":
				jg.Attributes[name] = v.Number
			default:
				jg.Attributes[name] = v.String()
			}
		}
		for _, d := range g.Instances {
			jg.Devices = append(jg.Devices, jsonDevice{
				ID: d.ID, PCIBusID: d.PCIBusID, Healthy: d.Healthy, HealthDesc: d.HealthDesc})
		}
		out = append(out, jg)
	}
	return out
}
