package main

import (
	"crypto/rand"
	"fmt"
	"strings"
	"sync"
	"time"

	"github.com/hashicorp/go-hclog"

	"github.com/nomad-governor/governor/device/inventory"
	"github.com/nomad-governor/governor/device/occupancy"
	"github.com/nomad-governor/governor/device/occupancy/watch"
	"github.com/nomad-governor/governor/hcl/deviceconfig"
)

// occupants watches who uses the GPUs. It is safe for concurrent use.
type occupants struct {
	watcher *watch.Watcher
	logger  hclog.Logger

	mu       sync.Mutex
	reported map[string]bool // rogue uses that were logged and go on
}

func newOccupants(s deviceconfig.Settings, logger hclog.Logger) (*occupants, error) {
	w, err := watch.Open(watch.Options{Dir: s.StateDir, Exempt: s.RogueExempt, Random: rand.Reader, Now: time.Now})
	if err != nil {
		return nil, err
	}
	return &occupants{watcher: w, logger: logger, reported: map[string]bool{}}, nil
}

// Grant implements plugin.Occupants. A register that cannot be written is no
// reason to keep a task from its GPUs.
func (o *occupants) Grant(ids []string) (map[string]string, error) {
	variables, err := o.watcher.Grant(ids)
	if err != nil && len(variables) > 0 {
		o.logger.Warn("the register of grants cannot be kept: who holds which GPU may be unknown after a restart", "error", err)
		return variables, nil
	}
	return variables, err
}

// look judges all processes and logs each rogue one when it is first seen.
func (o *occupants) look(inv inventory.Inventory, samples []inventory.Sample) []occupancy.Use {
	uses, err := o.watcher.Look(samples, inv)
	if err != nil {
		o.logger.Warn("the register of grants cannot be kept: who holds which GPU may be unknown after a restart", "error", err)
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	now := map[string]bool{}
	for _, u := range uses {
		if !u.Rogue() {
			continue
		}
		key := fmt.Sprintf("%d %s", u.PID, u.DeviceID)
		now[key] = true
		if !o.reported[key] {
			o.logger.Warn("a GPU is used by somebody who does not hold it", "device_id", u.DeviceID, "pid", u.PID, "command", u.Command,
				"alloc_id", u.AllocID, "task", u.Task, "reason", u.Reason)
		}
	}
	o.reported = now
	return uses
}

// rogueNamed is how many rogue processes a device's stats name.
const rogueNamed = 3

// Metrics implements plugin.Occupants.
func (o *occupants) Metrics(inv inventory.Inventory, units []inventory.Unit, samples []inventory.Sample) map[string][]inventory.Metric {
	known := map[string]bool{}
	for _, s := range samples {
		known[s.UUID] = s.ProcessesKnown
	}
	uses := o.look(inv, samples)
	metrics := make(map[string][]inventory.Metric, len(units))
	for _, u := range units {
		if !known[u.Device.GPU.UUID] {
			continue
		}
		count := int64(0)
		var rogue []string
		for _, use := range uses {
			if use.DeviceID != u.ID && use.DeviceID != u.VisibleID() {
				continue
			}
			count++
			if use.Rogue() {
				rogue = append(rogue, use.String())
			}
		}
		list := []inventory.Metric{{Key: "processes", Value: inventory.Known(count), Desc: "processes with a compute context"}}
		if len(rogue) > 0 {
			text := strings.Join(rogue[:min(len(rogue), rogueNamed)], "; ")
			if more := len(rogue) - rogueNamed; more > 0 {
				text += fmt.Sprintf("; and %d more", more)
			}
			list = append(list, inventory.Metric{Key: "processes.rogue", Text: text, Desc: "who uses the device without holding it"})
		}
		metrics[u.ID] = list
	}
	return metrics
}
