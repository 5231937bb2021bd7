package agentconfig

import (
	"net"
	"strconv"
)

// Telemetry says what the agent tells about itself, and to whom.
type Telemetry struct {
	// MetricsAccess is token (default: any token that Nomad accepts) or anyone: who may
	// read the metrics on the gate's address.
	MetricsAccess string `hcl:"metrics_access,optional"`
	// MetricsBind is a host:port that serves the metrics at /metrics to everybody who
	// can reach it, and nothing else; none by default.
	MetricsBind string `hcl:"metrics_bind,optional"`
	// OTLPEndpoint is the URL of a collector that takes traces as OTLP over HTTP; none
	// by default, and then none are made.
	OTLPEndpoint string `hcl:"otlp_endpoint,optional"`
	// TraceRatio is which part of the traces that begin here is kept, from 0 to 1; "1"
	// by default. Those that a client began are kept if the client keeps them.
	TraceRatio string `hcl:"trace_ratio,optional"`
}

// Ratio is TraceRatio as a number.
func (t Telemetry) Ratio() float64 {
	ratio, err := strconv.ParseFloat(t.TraceRatio, 64)
	if err != nil {
		return 0 // Validate refuses it
	}
	return ratio
}

func (t Telemetry) merge(o Telemetry) *Telemetry {
	override(&t.MetricsAccess, o.MetricsAccess)
	override(&t.MetricsBind, o.MetricsBind)
	override(&t.OTLPEndpoint, o.OTLPEndpoint)
	override(&t.TraceRatio, o.TraceRatio)
	return &t
}

func (t Telemetry) validate(complain func(string, ...any)) {
	if !oneOf(t.MetricsAccess, "token", "anyone") {
		complain("telemetry.metrics_access is %q; it must be token or anyone", t.MetricsAccess)
	}
	if t.MetricsBind != "" {
		if _, port, err := net.SplitHostPort(t.MetricsBind); err != nil || !validPort(port) {
			complain("telemetry.metrics_bind is %q; it must be host:port, for example 127.0.0.1:4641", t.MetricsBind)
		}
	}
	if t.OTLPEndpoint != "" {
		checkURL(complain, "telemetry.otlp_endpoint", t.OTLPEndpoint)
	}
	if ratio, err := strconv.ParseFloat(t.TraceRatio, 64); err != nil || !(ratio >= 0 && ratio <= 1) {
		complain("telemetry.trace_ratio is %q; it must be a number from 0 to 1", t.TraceRatio)
	}
}
