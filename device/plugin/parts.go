package plugin

import (
	"context"
	"time"

	"github.com/hashicorp/go-hclog"

	"github.com/nomad-governor/governor/device/inventory"
)

// Reservation is what a task gets for its devices.
type Reservation struct {
	Envs    map[string]string
	Mounts  []Mount
	Devices []DeviceNode
}

// Mount is a file or directory of the host in a task, read only unless said.
type Mount struct {
	TaskPath, HostPath string
	Writable           bool
}

// DeviceNode is a device node of the host in a task, with the permissions of
// its device cgroup ("rw").
type DeviceNode struct {
	TaskPath, HostPath, Permissions string
}

// injector says what a task gets.
type injector interface {
	// Observe learns of a changed driver or changed devices.
	Observe(inv inventory.Inventory, units []inventory.Unit)
	// Reserve is the reservation of the devices, which are in the order of
	// their PCI addresses, as the published topology is.
	Reserve(units []inventory.Unit) (Reservation, error)
}

// occupants knows who uses the devices.
type occupants interface {
	// Grant is what proves to Metrics that a task holds the devices.
	Grant(ids []string) (map[string]string, error)
	// Metrics reports the processes on each device, by device id.
	Metrics(inv inventory.Inventory, units []inventory.Unit, samples []inventory.Sample) map[string][]inventory.Metric
}

// View is what is known about the node's devices at one time.
type View struct {
	Inventory inventory.Inventory
	Units     []inventory.Unit
	// Samples are the latest figures, taken At; Failure says why there are none.
	Samples []inventory.Sample
	Failure string
	At      time.Time
}

// Parts are what the plugin is made of besides itself. Each function is called
// when the plugin starts, with the checked plugin block; Injector already when
// the plugin is configured, so that it can refuse the block.
type Parts struct {
	// Source reads the GPUs.
	Source func(Settings) Source
	// Injector and Occupants may be nil: a task gets the environment alone,
	// and nobody looks who uses a GPU.
	Injector  func(Settings) (Injector, error)
	Occupants func(Settings) (Occupants, error)
	// Listen serves metrics from what view returns until ctx ends; nil for
	// none. view is safe for concurrent use.
	Listen func(ctx context.Context, s Settings, view func(context.Context) View, logger hclog.Logger) error
}

// Injector is what Parts.Injector returns.
type Injector = injector

// Occupants is what Parts.Occupants returns.
type Occupants = occupants
