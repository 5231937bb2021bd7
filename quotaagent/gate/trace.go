package gate

import (
	"context"
	"errors"
	"net/http"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/propagation"
	"go.opentelemetry.io/otel/trace"
)

// Scope is the name under which Governor's spans are made.
const Scope = "github.com/nomad-governor/governor"

// traced makes the span of a governed request around its handling: as a part of the
// client's trace, if that names one. Without a tracer it costs nothing.
//
//	PUT /v1/jobs             the request (server)
//	├── admit                the decision
//	│   ├── place            the choice of GPUs
//	│   └── hold             the commit that holds the budget
//	├── nomad                the request to Nomad (client), which gets the traceparent
//	└── confirm              the hold is confirmed or given back
func (g *Gate) traced(w http.ResponseWriter, r *http.Request, route Route, serve func(http.ResponseWriter, *http.Request, Route) error) error {
	if g.config.Tracer == nil {
		return serve(w, r, route)
	}
	pattern := routePattern(route.Kind)
	ctx := propagation.TraceContext{}.Extract(r.Context(), propagation.HeaderCarrier(r.Header))
	ctx, span := g.config.Tracer.Start(ctx, r.Method+" "+pattern, trace.WithSpanKind(trace.SpanKindServer), trace.WithAttributes(
		attribute.String("http.request.method", r.Method), attribute.String("http.route", pattern), attribute.String("governor.request", route.Kind.String())))
	defer span.End()
	err := serve(w, r.WithContext(ctx), route)
	noteEnd(span, err)
	return err
}

// routePattern is the route of Nomad's API that a kind of request takes.
func routePattern(kind RouteKind) string {
	return map[RouteKind]string{
		RouteRegister: "/v1/jobs", RoutePlan: "/v1/job/{job_id}/plan", RouteValidate: "/v1/validate/job", RouteScale: "/v1/job/{job_id}/scale",
		RouteDispatch: "/v1/job/{job_id}/dispatch", RouteDispatchPayload: "/v1/job/{job_id}/dispatch/payload",
		RoutePeriodicForce: "/v1/job/{job_id}/periodic/force", RouteRevert: "/v1/job/{job_id}/revert",
	}[kind]
}

// noteEnd says how a request ended. A refusal is an answer and no error; that nothing
// could be decided is one.
func noteEnd(span trace.Span, err error) {
	var refused *refusal
	var theirs *answer
	switch {
	case err == nil:
		span.SetAttributes(attribute.String("governor.verdict", "forwarded"))
	case errors.As(err, &refused):
		span.SetAttributes(attribute.String("governor.verdict", "refused"), attribute.String("governor.reason", refused.reason),
			attribute.Int("http.response.status_code", refused.status))
		if refused.status >= http.StatusInternalServerError {
			span.SetStatus(codes.Error, refused.reason)
		}
	case errors.As(err, &theirs):
		span.SetAttributes(attribute.Int("http.response.status_code", theirs.status))
	default:
		span.SetStatus(codes.Error, "nomad did not answer")
	}
}

// StartSpan begins a span within the one of the context, if that is recorded; else it
// costs nothing, and what it returns may be ended all the same. Attributes are bounded:
// no job, user or allocation.
func StartSpan(ctx context.Context, name string, kind trace.SpanKind, attributes ...attribute.KeyValue) (context.Context, trace.Span) {
	parent := trace.SpanFromContext(ctx)
	if !parent.IsRecording() {
		return ctx, trace.SpanFromContext(context.Background())
	}
	return parent.TracerProvider().Tracer(Scope).Start(ctx, name, trace.WithSpanKind(kind), trace.WithAttributes(attributes...))
}

// TraceID is the id of the trace that a context is a part of, if it is kept; else "".
func TraceID(ctx context.Context) string {
	if span := trace.SpanContextFromContext(ctx); span.IsSampled() {
		return span.TraceID().String()
	}
	return ""
}

// handOn names the trace to Nomad.
func handOn(ctx context.Context, header http.Header) {
	if trace.SpanFromContext(ctx).IsRecording() {
		propagation.TraceContext{}.Inject(ctx, propagation.HeaderCarrier(header))
	}
}

// endSpan ends a span, with the error if there was one.
func endSpan(span trace.Span, err error) {
	if err != nil {
		span.SetStatus(codes.Error, "")
		span.RecordError(err)
	}
	span.End()
}
