package plugin

import (
	"context"
	"time"

	"github.com/hashicorp/nomad/plugins/device"

	"github.com/nomad-governor/governor/device/inventory"
)

// Stats implements device.DevicePlugin. A message always lists every device; a
// metric that cannot be read is missing from it, and the message is sent.
func (p *Plugin) Stats(ctx context.Context, interval time.Duration) (<-chan *device.StatsResponse, error) {
	m, err := p.start()
	if err != nil {
		return nil, err
	}
	out := make(chan *device.StatsResponse)
	go func() {
		defer close(out)
		p.streamStats(ctx, m, max(interval, statsLeast), out)
	}()
	return out, nil
}

func (p *Plugin) streamStats(ctx context.Context, m *monitor, interval time.Duration, out chan<- *device.StatsResponse) {
	if !m.stats {
		<-ctx.Done()
		return
	}
	select {
	case <-m.ready:
	case <-ctx.Done():
		return
	}
	ticker := time.NewTicker(interval)
	defer ticker.Stop()
	for {
		response := &device.StatsResponse{Groups: statsGroups(m.figures(ctx, p.occupants))}
		select {
		case out <- response:
		case <-ctx.Done():
			return
		}
		select {
		case <-ticker.C:
		case <-ctx.Done():
			return
		}
	}
}

// figures samples the GPUs.
func (m *monitor) figures(ctx context.Context, o occupants) ([]inventory.Unit, figures) {
	samples, err := m.sample(ctx)
	f := figures{samples: samples, now: m.now()}
	if err != nil {
		f.failure = reason(err)
	}
	units, inv := m.offered()
	if o != nil && err == nil {
		f.processes = o.Metrics(inv, units, samples)
	}
	return units, f
}
