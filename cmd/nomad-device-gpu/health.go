package main

import (
	"fmt"
	"io"
	"strings"

	"github.com/nomad-governor/governor/device/inventory"
	"github.com/nomad-governor/governor/internal/gpu"
)

// lasting is how often one reading is counted, so that conditions which must
// last before they count are shown too.
const lasting = 5

// health prints how each device is, and why. XIDs are known only to the plugin
// that runs: they are events.
func health(o options, stdout, stderr io.Writer) int {
	readings, err := o.reader.Read()
	if err != nil {
		fmt.Fprintf(stderr, "read the GPUs: %v\n\nRun nomad-device-gpu doctor for what to do.\n", err)
		return 1
	}
	inv := inventory.Inventory{Policy: o.settings.Policy}
	for range lasting {
		inv = inventory.Observe(inv, readings)
	}
	layout, err := layoutOf(o.settings, inv)
	if err != nil {
		fmt.Fprintln(stderr, err)
		return 1
	}
	reports := reportHealth(inv.Units(layout))
	if o.json {
		if code := writeJSON(reports, stdout, stderr); code != 0 {
			return code
		}
	} else {
		printHealth(stdout, reports)
	}
	for _, failure := range inv.Unidentified {
		fmt.Fprintf(stderr, "a GPU that never answered: %s\n", failure)
	}
	for _, r := range reports {
		if r.Health == "unhealthy" {
			return 1
		}
	}
	return min(len(inv.Unidentified), 1)
}

// deviceHealth is one device's health.
type deviceHealth struct {
	Device     string            `json:"device"`
	ID         string            `json:"id"`
	PCIBusID   string            `json:"pci_bus_id"`
	Health     string            `json:"health"` // healthy, degraded or unhealthy
	Reason     string            `json:"reason,omitempty"`
	Conditions []deviceCondition `json:"conditions"`
	Facts      []string          `json:"facts"`
}

type deviceCondition struct {
	Code     string `json:"code"`
	Severity string `json:"severity"`
	Text     string `json:"text"`
}

func reportHealth(units []inventory.Unit) []deviceHealth {
	reports := []deviceHealth{}
	for _, u := range units {
		r := deviceHealth{Device: gpu.DeviceName(gpu.Vendor, u.Type, u.Name), ID: u.ID, PCIBusID: u.Device.GPU.PCIBusID,
			Health: "healthy", Conditions: []deviceCondition{}, Facts: healthFacts(u)}
		for _, c := range u.Conditions() {
			r.Conditions = append(r.Conditions, deviceCondition{string(c.Code), c.Severity.String(), c.Text})
		}
		switch reason := u.Reason(); {
		case reason != "":
			r.Health = "unhealthy"
			if len(r.Conditions) == 0 {
				r.Reason = reason
			}
		case u.Degradation() != "":
			r.Health = "degraded"
		}
		reports = append(reports, r)
	}
	return reports
}

// healthFacts are the readings behind the verdict, in words; what the driver
// does not say is left out.
func healthFacts(u inventory.Unit) []string {
	g := u.Device.GPU
	var facts []string
	add := func(known bool, format string, args ...any) {
		if known {
			facts = append(facts, fmt.Sprintf(format, args...))
		}
	}
	add(g.RecoveryAction.Known, "recovery action %d", g.RecoveryAction.Value)
	add(g.ECCUncorrected.Known, "%d uncorrected memory errors since the driver was loaded", g.ECCUncorrected.Value)
	add(g.RemapFailure.Known, "row remapping: failed %t, pending %t", g.RemapFailure.Value, g.RemapPending.Value)
	add(g.RetiredPending.Known && !g.RemapFailure.Known, "page retirement pending %t", g.RetiredPending.Value)
	if g.LinksKnown && len(g.Links) > 0 {
		active := 0
		for _, l := range g.Links {
			if l.Active {
				active++
			}
		}
		add(true, "%d of %d NVLinks active", active, len(g.Links))
	}
	add(g.Fabric.State != inventory.FabricNotSupported, "fabric %s", fabricWord(g.Fabric.State))
	add(g.ThrottleReasons.Known, "clocks held back by: %s", inventory.ThrottleWords(g.ThrottleReasons.Value))
	return facts
}

func fabricWord(s inventory.FabricState) string {
	words := map[inventory.FabricState]string{inventory.FabricNotSupported: "not supported", inventory.FabricNotStarted: "not started",
		inventory.FabricInProgress: "in progress", inventory.FabricCompleted: "completed"}
	return words[s]
}

func printHealth(w io.Writer, reports []deviceHealth) {
	if len(reports) == 0 {
		fmt.Fprintln(w, "no GPUs")
	}
	for _, r := range reports {
		fmt.Fprintf(w, "%-9s  %s  %s  %s\n", r.Health, r.PCIBusID, r.ID, r.Device)
		if r.Reason != "" {
			fmt.Fprintf(w, "           %s\n", r.Reason)
		}
		for _, c := range r.Conditions {
			fmt.Fprintf(w, "           %s: %s: %s\n", c.Severity, c.Code, c.Text)
		}
		if len(r.Facts) > 0 {
			fmt.Fprintf(w, "           %s\n", strings.Join(r.Facts, "; "))
		}
	}
}
