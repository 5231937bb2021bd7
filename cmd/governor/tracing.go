package main

import (
	"context"
	"fmt"
	"time"

	"github.com/hashicorp/go-hclog"
	"go.opentelemetry.io/otel"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/exporters/otlp/otlptrace/otlptracehttp"
	"go.opentelemetry.io/otel/sdk/resource"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/trace"

	"github.com/nomad-governor/governor/hcl/agentconfig"
	"github.com/nomad-governor/governor/internal/version"
	"github.com/nomad-governor/governor/quotaagent/gate"
)

// flushWithin bounds how long a stopping agent sends the spans that wait.
const flushWithin = 3 * time.Second

// newTracer sends spans to the collector of the configuration; nil without one. stop
// sends what waits, and ends all that goes on in the background.
func newTracer(config agentconfig.Config, logger hclog.Logger) (tracer trace.Tracer, stop func(), err error) {
	endpoint := config.Telemetry.OTLPEndpoint
	if endpoint == "" {
		return nil, func() {}, nil
	}
	exporter, err := otlptracehttp.New(context.Background(), otlptracehttp.WithEndpointURL(endpoint+"/v1/traces"))
	if err != nil {
		return nil, nil, fmt.Errorf("telemetry.otlp_endpoint: %w", err)
	}
	logger = logger.Named("traces")
	// The library has one place for its errors in a process.
	otel.SetErrorHandler(otel.ErrorHandlerFunc(func(err error) { logger.Warn("traces not sent", "error", err) }))
	provider := sdktrace.NewTracerProvider(sdktrace.WithBatcher(exporter),
		sdktrace.WithSampler(sdktrace.ParentBased(sdktrace.TraceIDRatioBased(config.Telemetry.Ratio()))),
		sdktrace.WithResource(resource.NewSchemaless(attribute.String("service.name", "governor"), attribute.String("service.version", version.String()),
			attribute.String("service.instance.id", config.Name))))
	logger.Info("traces are sent", "endpoint", endpoint, "ratio", config.Telemetry.Ratio())
	return provider.Tracer(gate.Scope, trace.WithInstrumentationVersion(version.String())), func() {
		ctx, cancel := context.WithTimeout(context.Background(), flushWithin)
		defer cancel()
		if err := provider.Shutdown(ctx); err != nil {
			logger.Warn("traces lost while stopping", "error", err)
		}
	}, nil
}
