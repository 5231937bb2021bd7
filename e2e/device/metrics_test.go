package device_test

import (
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"os"
	"strings"
	"testing"

	dto "github.com/prometheus/client_model/go"
	"github.com/prometheus/common/expfmt"
	"github.com/prometheus/common/model"
	"github.com/shoenig/test/must"

	"github.com/nomad-governor/governor/device/fakenvml/control"
	"github.com/nomad-governor/governor/device/fakenvml/fixture"
	"github.com/nomad-governor/governor/e2e/cluster"
)

// page is a page of metrics as Prometheus reads it, by family.
type page map[string]*dto.MetricFamily

// scrape reads the metrics of a client's plugin.
func (n *nodes) scrape(t *testing.T, client string) (page, error) {
	t.Helper()
	request, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "http://"+n.Client(client).Metrics+"/metrics", nil)
	if err != nil {
		return nil, err
	}
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		return nil, err
	}
	defer response.Body.Close()
	text, err := io.ReadAll(response.Body)
	if err != nil {
		return nil, err
	}
	if response.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("%s: %s", response.Status, text)
	}
	parser := expfmt.NewTextParser(model.LegacyValidation)
	return parser.TextToMetricFamilies(strings.NewReader(string(text)))
}

// series is one value that a page must have.
type series struct {
	name string
	// labels are some of its labels; a label with an empty value must be absent.
	labels map[string]string
	value  float64
}

// scraped waits until the metrics of a client's plugin have each of the series
// once, with these values.
func (n *nodes) scraped(t *testing.T, client string, wanted ...series) {
	t.Helper()
	must.NoError(t, cluster.Poll(t.Context(), "wait for the metrics of "+client, func() error {
		p, err := n.scrape(t, client)
		if err != nil {
			return err
		}
		var errs []error
		for _, s := range wanted {
			errs = append(errs, p.has(s))
		}
		return errors.Join(errs...)
	}))
}

func (p page) has(s series) error {
	var found []float64
	for _, m := range p[s.name].GetMetric() {
		labels := map[string]string{}
		for _, l := range m.GetLabel() {
			labels[l.GetName()] = l.GetValue()
		}
		matches := true
		for name, value := range s.labels {
			matches = matches && labels[name] == value
		}
		if matches {
			found = append(found, m.GetGauge().GetValue()+m.GetCounter().GetValue())
		}
	}
	if len(found) != 1 || found[0] != s.value {
		return fmt.Errorf("%s%v is %v, not %v", s.name, s.labels, found, s.value)
	}
	return nil
}

// metricsOfGPUs: what Prometheus reads of whole GPUs is what they say, under the
// names and labels of NVIDIA's exporter.
func metricsOfGPUs(t *testing.T, n *nodes) {
	client := n.Client(watchedClient)
	ids := n.devices(t, watchedClient, 8)
	hostname, err := os.Hostname()
	must.NoError(t, err)
	must.NoError(t, errors.Join(client.Control.Utilisation(3, 73, 41), client.Control.Memory(3, 12345),
		client.Control.Temperature(3, 66), client.Control.Power(3, 333), client.Control.XID(3, 31),
		client.Control.Utilisation(4, 5, 6), client.Control.RowRemap(4, true, false)))
	named := map[string]string{"gpu": "3", "UUID": ids[3], "pci_bus_id": "00000000:86:00.0", "device": "nvidia3",
		"modelName": "NVIDIA H100 80GB HBM3", "Hostname": hostname, "DCGM_FI_DRIVER_VERSION": "550.54.15", "GPU_I_ID": ""}
	of := func(labels map[string]string, more ...string) map[string]string {
		all := maps.Clone(labels)
		for i := 0; i < len(more); i += 2 {
			all[more[i]] = more[i+1]
		}
		return all
	}
	third, fourth := map[string]string{"UUID": ids[3]}, map[string]string{"UUID": ids[4]}
	n.scraped(t, watchedClient,
		series{"DCGM_FI_DEV_GPU_UTIL", named, 73},
		series{"DCGM_FI_DEV_MEM_COPY_UTIL", named, 41},
		series{"DCGM_FI_DEV_FB_USED", named, 12345},
		series{"DCGM_FI_DEV_GPU_TEMP", named, 66},
		series{"DCGM_FI_DEV_POWER_USAGE", named, 333},
		series{"DCGM_FI_DEV_XID_ERRORS", named, 31},
		series{"governor_gpu_xid_errors_total", of(third, "xid", "31"), 1},
		series{"governor_gpu_healthy", of(third, "device_id", ids[3]), 1},
		series{"governor_gpu_info", of(third, "device_id", ids[3], "group", wholeH100), 1},
		series{"DCGM_FI_DEV_GPU_UTIL", fourth, 5},
		series{"DCGM_FI_DEV_XID_ERRORS", fourth, 0},
		series{"DCGM_FI_DEV_ROW_REMAP_PENDING", fourth, 1},
		series{"governor_gpu_degraded", of(fourth, "reason", "row_remap_pending"), 1},
		series{"governor_gpu_healthy", fourth, 1},
	)
	must.NoError(t, client.Control.RowRemap(4, false, false))
}

// metricsOfInstances: what a MIG instance says has its labels; what belongs to
// the whole GPU is there once.
func (n *nodes) metricsOfInstances(t *testing.T, f *fixture.Fixture) {
	t.Helper()
	client := n.Client(migClient)
	place := control.Instance{GPUInstance: 2}
	must.NoError(t, errors.Join(client.Control.MIGMemory(0, place, 5000), client.Control.Power(0, 222)))
	whole := f.UUID(migClient, 0)
	large := map[string]string{"UUID": whole, "GPU_I_PROFILE": "3g.40gb", "GPU_I_ID": "2", "GPU_CI_ID": "0"}
	n.scraped(t, migClient,
		series{"DCGM_FI_DEV_FB_USED", large, 5000},
		series{"DCGM_FI_DEV_FB_USED", map[string]string{"UUID": whole, "GPU_I_PROFILE": "2g.20gb", "GPU_I_ID": "3"}, 0},
		series{"DCGM_FI_DEV_POWER_USAGE", map[string]string{"UUID": whole, "GPU_I_ID": ""}, 222},
		series{"governor_gpu_healthy", map[string]string{"device_id": f.MIGUUID(migClient, 0, 0), "GPU_I_ID": "2"}, 1},
		series{"governor_gpu_unhealthy", map[string]string{"device_id": f.UUID(migClient, 3), "reason": "mig_no_instances"}, 1},
	)
}
