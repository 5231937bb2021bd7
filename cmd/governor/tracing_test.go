package main

import (
	"context"
	"io"
	"net/http"
	"net/http/httptest"
	"testing"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/shoenig/test/must"
	collector "go.opentelemetry.io/proto/otlp/collector/trace/v1"
	"google.golang.org/protobuf/proto"

	"github.com/nomad-governor/governor/hcl/agentconfig"
)

// A stopping agent sends the spans that wait, and leaves nothing running.
func TestTracesAreFlushedToTheCollector(t *testing.T) {
	got := make(chan *collector.ExportTraceServiceRequest, 4)
	server := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		var sent collector.ExportTraceServiceRequest
		if r.URL.Path == "/v1/traces" && proto.Unmarshal(body, &sent) == nil {
			got <- &sent
		}
	}))
	defer server.Close()
	config := agentconfig.Default()
	config.Name, config.Telemetry.OTLPEndpoint = "gov-1", server.URL
	tracer, stop, err := newTracer(config, hclog.NewNullLogger())
	must.NoError(t, err)
	_, span := tracer.Start(context.Background(), "PUT /v1/jobs")
	span.End()
	stop()
	select {
	case sent := <-got:
		must.Len(t, 1, sent.GetResourceSpans())
		resource := sent.GetResourceSpans()[0]
		attributes := map[string]string{}
		for _, a := range resource.GetResource().GetAttributes() {
			attributes[a.GetKey()] = a.GetValue().GetStringValue()
		}
		must.Eq(t, "governor", attributes["service.name"])
		must.Eq(t, "gov-1", attributes["service.instance.id"])
		must.Eq(t, "PUT /v1/jobs", resource.GetScopeSpans()[0].GetSpans()[0].GetName())
	case <-time.After(10 * time.Second):
		t.Fatal("nothing was sent")
	}
}

func TestWithoutACollectorThereIsNoTracer(t *testing.T) {
	t.Parallel()
	tracer, stop, err := newTracer(agentconfig.Default(), hclog.NewNullLogger())
	must.NoError(t, err)
	must.Nil(t, tracer)
	stop()
}
