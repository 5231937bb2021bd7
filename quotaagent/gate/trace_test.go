package gate

import (
	"context"
	"net/http"
	"slices"
	"strings"
	"testing"

	"github.com/shoenig/test/must"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/sdk/trace/tracetest"
	"go.opentelemetry.io/otel/trace"
)

const (
	clientsTrace  = "4bf92f3577b34da6a3ce929d0e0e4736"
	clientsParent = "00-" + clientsTrace + "-00f067aa0ba902b7-01"
)

// recorder gives a gate a tracer that keeps what it makes.
func recorder(t *testing.T, options ...sdktrace.TracerProviderOption) (*tracetest.SpanRecorder, func(*Config)) {
	t.Helper()
	spans := tracetest.NewSpanRecorder()
	provider := sdktrace.NewTracerProvider(append(options, sdktrace.WithSpanProcessor(spans))...)
	t.Cleanup(func() { must.NoError(t, provider.Shutdown(context.Background())) })
	return spans, func(c *Config) { c.Tracer = provider.Tracer(Scope) }
}

// named are the ended spans by name.
func named(spans *tracetest.SpanRecorder) map[string]sdktrace.ReadOnlySpan {
	out := map[string]sdktrace.ReadOnlySpan{}
	for _, s := range spans.Ended() {
		out[s.Name()] = s
	}
	return out
}

// attributesOf are the attributes of a span, as text.
func attributesOf(s sdktrace.ReadOnlySpan) []string {
	var out []string
	for _, a := range s.Attributes() {
		out = append(out, string(a.Key)+"="+a.Value.Emit())
	}
	slices.Sort(out)
	return out
}

func TestASubmissionIsOneTraceFromTheClientToNomad(t *testing.T) {
	t.Parallel()
	spans, traced := recorder(t)
	r := newRig(t, traced)
	r.admitter.verdict = Verdict{Reason: "fits"}
	must.Eq(t, http.StatusOK, r.do(t, http.MethodPut, "/v1/jobs", `{"Job":`+gpuJob+`}`, "traceparent", clientsParent).status)
	r.admitter.settled()
	eventually(t, "all spans have ended", func() bool { return len(spans.Ended()) == 4 })
	have := named(spans)
	request := have["PUT /v1/jobs"]
	must.NotNil(t, request)
	must.Eq(t, trace.SpanKindServer, request.SpanKind())
	must.Eq(t, "00f067aa0ba902b7", request.Parent().SpanID().String())
	must.Eq(t, []string{"governor.request=register", "governor.verdict=forwarded", "http.request.method=PUT", "http.route=/v1/jobs"}, attributesOf(request))
	for _, name := range []string{"admit", "nomad", "confirm"} {
		must.NotNil(t, have[name], must.Sprint(name))
		must.Eq(t, clientsTrace, have[name].SpanContext().TraceID().String())
		must.Eq(t, request.SpanContext().SpanID(), have[name].Parent().SpanID(), must.Sprint(name))
	}
	must.Eq(t, []string{"governor.denied=false", "governor.reason=fits"}, attributesOf(have["admit"]))
	must.Eq(t, []string{"governor.accepted=true", "governor.known=true"}, attributesOf(have["confirm"]))
	must.Eq(t, []string{"http.request.method=PUT", "http.response.status_code=200"}, attributesOf(have["nomad"]))
	sent := r.nomad.writes()[0].header.Get("traceparent")
	must.Eq(t, "00-"+clientsTrace+"-"+have["nomad"].SpanContext().SpanID().String()+"-01", sent)
}

func TestARefusalIsNoErrorOfATrace(t *testing.T) {
	t.Parallel()
	spans, traced := recorder(t)
	r := newRig(t, traced)
	r.admitter.verdict = Verdict{Denied: true, Reason: "exceeds_budget", Message: "too much"}
	must.Eq(t, http.StatusForbidden, r.do(t, http.MethodPut, "/v1/jobs", `{"Job":`+gpuJob+`}`).status)
	eventually(t, "the request has ended", func() bool { return named(spans)["PUT /v1/jobs"] != nil })
	request := named(spans)["PUT /v1/jobs"]
	must.Eq(t, "Unset", request.Status().Code.String())
	must.SliceContains(t, attributesOf(request), "governor.reason=exceeds_budget")
	r.admitter.mu.Lock()
	r.admitter.err = errLedger
	r.admitter.mu.Unlock()
	must.Eq(t, http.StatusServiceUnavailable, r.do(t, http.MethodPost, "/v1/jobs", `{"Job":`+gpuJob+`}`).status)
	eventually(t, "the request has ended", func() bool { return named(spans)["POST /v1/jobs"] != nil })
	must.Eq(t, "Error", named(spans)["POST /v1/jobs"].Status().Code.String())
	must.Eq(t, "Error", named(spans)["admit"].Status().Code.String())
}

// Without a tracer, and for what it does not keep, a client's traceparent reaches Nomad
// as it is, and reads are not traced at all.
func TestWhatIsNotTracedPassesAsItIs(t *testing.T) {
	t.Parallel()
	spans, traced := recorder(t)
	for name, r := range map[string]*rig{"off": newRig(t), "on": newRig(t, traced)} {
		must.Eq(t, http.StatusOK, r.do(t, http.MethodGet, "/v1/jobs", "", "traceparent", clientsParent).status, must.Sprint(name))
		for _, s := range r.nomad.seen {
			must.Eq(t, clientsParent, s.header.Get("traceparent"), must.Sprint(name))
		}
	}
	must.SliceEmpty(t, spans.Ended())
	r := newRig(t)
	must.Eq(t, http.StatusOK, r.do(t, http.MethodPut, "/v1/jobs", `{"Job":`+gpuJob+`}`, "traceparent", clientsParent).status)
	must.Eq(t, clientsParent, r.nomad.writes()[0].header.Get("traceparent"))
	none, dropping := recorder(t, sdktrace.WithSampler(sdktrace.NeverSample()))
	r = newRig(t, dropping)
	must.Eq(t, http.StatusOK, r.do(t, http.MethodPut, "/v1/jobs", `{"Job":`+gpuJob+`}`, "traceparent", clientsParent).status)
	must.SliceEmpty(t, none.Ended())
	must.True(t, strings.HasPrefix(r.nomad.writes()[0].header.Get("traceparent"), "00-"+clientsTrace))
}

func TestSpansOutsideOfATraceCostNothing(t *testing.T) {
	ctx := t.Context()
	must.Zero(t, testing.AllocsPerRun(100, func() {
		_, span := StartSpan(ctx, "admit", trace.SpanKindInternal)
		span.End()
	}))
	must.Eq(t, "", TraceID(ctx))
}
