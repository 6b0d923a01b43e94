package main

import (
	"context"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.opentelemetry.io/otel"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/propagation"
	semconv "go.opentelemetry.io/otel/semconv/v1.37.0"
	oteltrace "go.opentelemetry.io/otel/trace"

	"im/internal/etcd"
	"im/internal/gen/rpc"
	"im/internal/logging"
)

// metrics are those of the calls.
type metrics struct {
	calls    *prometheus.CounterVec   // by method and code
	duration *prometheus.HistogramVec // by method
	inFlight prometheus.Gauge
	shed     prometheus.Counter
}

func newMetrics() *metrics {
	return &metrics{
		calls: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "rpc_server_calls_total", Help: "Calls answered, by method and Code.",
		}, []string{"method", "code"}),
		duration: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name: "rpc_server_call_duration_seconds", Help: "Time to answer a call.", Buckets: prometheus.ExponentialBuckets(0.00025, 2, 13),
		}, []string{"method"}),
		inFlight: prometheus.NewGauge(prometheus.GaugeOpts{Name: "rpc_server_calls_in_flight", Help: "Calls that are being served."}),
		shed:     prometheus.NewCounter(prometheus.CounterOpts{Name: "rpc_server_calls_shed_total", Help: "Calls refused because of MAX_IN_FLIGHT."}),
	}
}

func (m *metrics) collectors() []prometheus.Collector {
	return []prometheus.Collector{m.calls, m.duration, m.inFlight, m.shed}
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

// tracer makes the spans.
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
		ctx = logging.WithRequestID(ctx, id)
	}
	return otel.GetTextMapPropagator().Extract(ctx, propagation.MapCarrier{"traceparent": req.GetTraceparent(), "tracestate": req.GetTracestate()})
}

// span is that of a call and, below it, that of Redis's work for it. The zero value is
// none.
type span struct{ call, redis oteltrace.Span }

// redisWork names what Redis does for a method.
var redisWork = map[string]string{"Send": "append", "Pull": "page", "Chats": "list", "Read": "mark"}

func (s *span) begin(ctx context.Context, method string, asksRedis bool) {
	ctx, s.call = tracer.Start(ctx, etcd.Service+"/"+method, oteltrace.WithSpanKind(oteltrace.SpanKindServer),
		oteltrace.WithAttributes(semconv.RPCService(etcd.Service), semconv.RPCMethod(method)))
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
