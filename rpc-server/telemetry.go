package main

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"go.opentelemetry.io/otel"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/exporters/otlp/otlptrace/otlptracehttp"
	"go.opentelemetry.io/otel/propagation"
	"go.opentelemetry.io/otel/sdk/resource"
	"go.opentelemetry.io/otel/sdk/trace"
	semconv "go.opentelemetry.io/otel/semconv/v1.37.0"
	oteltrace "go.opentelemetry.io/otel/trace"

	"im/rpc-server/kitex_gen/rpc"
)

// metrics are those of the calls.
type metrics struct {
	calls    *prometheus.CounterVec   // by method and code
	duration *prometheus.HistogramVec // by method
	inFlight prometheus.Gauge
	shed     prometheus.Counter
}

// newMetrics also registers what else there is to know: more, the Go runtime,
// the process and the build.
func newMetrics(registry *prometheus.Registry, more ...prometheus.Collector) *metrics {
	m := &metrics{
		calls: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "rpc_server_calls_total", Help: "Calls answered, by method and Code.",
		}, []string{"method", "code"}),
		duration: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name: "rpc_server_call_duration_seconds", Help: "Time to answer a call.", Buckets: prometheus.ExponentialBuckets(0.00025, 2, 13),
		}, []string{"method"}),
		inFlight: prometheus.NewGauge(prometheus.GaugeOpts{Name: "rpc_server_calls_in_flight", Help: "Calls that are being served."}),
		shed:     prometheus.NewCounter(prometheus.CounterOpts{Name: "rpc_server_calls_shed_total", Help: "Calls refused because of MAX_IN_FLIGHT."}),
	}
	registry.MustRegister(m.calls, m.duration, m.inFlight, m.shed,
		collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}), collectors.NewBuildInfoCollector())
	registry.MustRegister(more...)
	return m
}

// begin counts n calls of a method that came together; end counts their answers.
func (m *metrics) begin(method string, n int) (end func([]rpc.Code)) {
	began := time.Now()
	m.inFlight.Add(float64(n))
	return func(codes []rpc.Code) {
		m.inFlight.Sub(float64(n))
		took, duration, answers := time.Since(began).Seconds(), m.duration.WithLabelValues(method), map[rpc.Code]int{}
		for _, code := range codes {
			duration.Observe(took)
			answers[code]++
		}
		for code, n := range answers {
			m.calls.WithLabelValues(method, code.String()).Add(float64(n))
		}
	}
}

// traceTo makes spans of requests go where the OTEL_* variables say (OpenTelemetry
// environment variable specification); without OTEL_EXPORTER_OTLP_ENDPOINT there
// are none, and on is false. What end returns after, has been sent.
func traceTo(ctx context.Context) (on bool, end func(), err error) {
	if os.Getenv("OTEL_EXPORTER_OTLP_ENDPOINT") == "" {
		return false, func() {}, nil
	}
	exporter, err := otlptracehttp.New(ctx)
	if err != nil {
		return false, nil, fmt.Errorf("OTEL_EXPORTER_OTLP_ENDPOINT: %w", err)
	}
	named, err := resource.New(ctx, resource.WithAttributes(semconv.ServiceName("im-rpc-server")), resource.WithFromEnv(), resource.WithTelemetrySDK())
	if err != nil {
		return false, nil, fmt.Errorf("OTEL_RESOURCE_ATTRIBUTES: %w", err)
	}
	provider := trace.NewTracerProvider(trace.WithBatcher(exporter), trace.WithResource(named))
	otel.SetTracerProvider(provider)
	otel.SetTextMapPropagator(propagation.TraceContext{})
	otel.SetErrorHandler(otel.ErrorHandlerFunc(func(err error) { slog.Warn("spans are lost", "err", err) }))
	return true, func() {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Second)
		defer cancel()
		provider.Shutdown(ctx)
	}, nil
}

// tracer makes the spans; before traceTo they are none.
var tracer = otel.Tracer("im/rpc-server")

// request is what each request says of where it comes from.
type request interface {
	GetRequestID() string
	GetTraceparent() string
	GetTracestate() string
}

// requestContext is the context of one of several calls: it has the id of its request,
// and the span that it is below (W3C Trace Context).
func requestContext(ctx context.Context, req request) context.Context {
	if id := req.GetRequestID(); id != "" {
		ctx = context.WithValue(ctx, requestIDKey{}, id)
	}
	return otel.GetTextMapPropagator().Extract(ctx, propagation.MapCarrier{"traceparent": req.GetTraceparent(), "tracestate": req.GetTracestate()})
}

// span is that of a call and, below it, that of Redis's work for it. The zero value is
// none.
type span struct{ call, redis oteltrace.Span }

// redisWork names what Redis does for a method.
var redisWork = map[string]string{"Send": "append", "Pull": "page"}

func (s *span) begin(ctx context.Context, method string, asksRedis bool) {
	ctx, s.call = tracer.Start(ctx, service+"/"+method, oteltrace.WithSpanKind(oteltrace.SpanKindServer),
		oteltrace.WithAttributes(semconv.RPCService(service), semconv.RPCMethod(method)))
	if asksRedis {
		_, s.redis = tracer.Start(ctx, redisWork[method], oteltrace.WithSpanKind(oteltrace.SpanKindClient), oteltrace.WithAttributes(semconv.DBSystemNameRedis))
	}
}

func (s *span) end(code rpc.Code) {
	if s.redis != nil {
		s.redis.End()
	}
	if s.call != nil {
		s.call.SetAttributes(attribute.String("rpc.response.code", code.String()))
		s.call.End()
	}
}
