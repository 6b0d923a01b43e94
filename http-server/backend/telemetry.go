package backend

import (
	"context"
	"errors"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.opentelemetry.io/otel"
	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/propagation"
	semconv "go.opentelemetry.io/otel/semconv/v1.37.0"
	oteltrace "go.opentelemetry.io/otel/trace"

	"im/internal/etcd"
	"im/internal/gen/rpc"
)

// metrics are those of the calls.
type metrics struct {
	calls         *prometheus.CounterVec   // by method and code
	callDuration  *prometheus.HistogramVec // by method
	queueDuration prometheus.Histogram
	batchCalls    prometheus.Histogram
}

func newMetrics() *metrics {
	buckets := prometheus.ExponentialBuckets(0.00025, 2, 13)
	return &metrics{
		calls: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "rpc_client_calls_total", Help: "Calls to the rpc-servers, by method and Code, or TIMEOUT or UNREACHABLE where none came.",
		}, []string{"method", "code"}),
		callDuration: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name: "rpc_client_call_duration_seconds", Help: "Time of a call, with its retries.", Buckets: buckets,
		}, []string{"method"}),
		queueDuration: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name: "rpc_client_queue_duration_seconds", Help: "Time that a call waits for a batch.", Buckets: buckets,
		}),
		batchCalls: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name: "rpc_client_batch_calls", Help: "Calls that share an RPC.", Buckets: prometheus.ExponentialBuckets(1, 2, 7),
		}),
	}
}

// count counts a call.
func (m *metrics) count(method method, began time.Time, resp response, err error) {
	code := "UNREACHABLE"
	switch {
	case errors.Is(err, ErrLate):
		code = "TIMEOUT"
	case err == nil:
		code = rpc.Code(resp.GetCode()).String()
	}
	m.callDuration.WithLabelValues(method.String()).Observe(time.Since(began).Seconds())
	m.calls.WithLabelValues(method.String(), code).Inc()
}

// Collectors are the metrics of the calls and of the rpc-servers.
func (c *Client) Collectors() []prometheus.Collector {
	gauge := func(name, help string, value func() float64) prometheus.Collector {
		return prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: name, Help: help}, value)
	}
	ejected := func() (n float64) {
		for _, i := range c.balancer.instances() {
			if i.Ejected {
				n++
			}
		}
		return n
	}
	listening := func() (n float64) {
		for _, i := range c.balancer.instances() {
			if c.waits.listensTo(i.Address) {
				n++
			}
		}
		return n
	}
	return []prometheus.Collector{
		c.waits.metrics.hints, c.waits.metrics.counts, c.waits.metrics.looks,
		gauge("rpc_client_streams", "rpc-servers whose stream is open, on which they give hints.", listening),
		c.metrics.calls, c.metrics.callDuration, c.metrics.queueDuration, c.metrics.batchCalls, c.balancer.attempts,
		gauge("rpc_client_instances_known", "rpc-servers that etcd named last.", func() float64 { return float64(len(c.balancer.instances())) }),
		gauge("rpc_client_instances_set_aside", "rpc-servers that are ejected, since they failed several times in a row, or refuse what others serve.", ejected),
		gauge("etcd_resolve_age_seconds", "Time since etcd named the rpc-servers.", func() float64 { return c.resolver.age().Seconds() }),
	}
}

// tracer makes the spans.
var tracer = otel.Tracer("im/http-server")

// request is what tells an rpc-server where a call comes from.
type request interface {
	SetRequestID(*string)
	SetTraceparent(*string)
	SetTracestate(*string)
}

// traceCall begins the span of a call, its time in the queue and its retries included,
// below that of its request, and has req tell the rpc-server of it. Where requests have no
// spans, calls have none.
func traceCall(ctx context.Context, m method, req request) (end func(error)) {
	if !oteltrace.SpanContextFromContext(ctx).IsValid() {
		return func(error) {}
	}
	ctx, span := tracer.Start(ctx, etcd.Service+"/"+m.String(), oteltrace.WithSpanKind(oteltrace.SpanKindClient),
		oteltrace.WithAttributes(semconv.RPCService(etcd.Service), semconv.RPCMethod(m.String())))
	carrier := propagation.MapCarrier{}
	otel.GetTextMapPropagator().Inject(ctx, carrier)
	for name, set := range map[string]func(*string){"traceparent": req.SetTraceparent, "tracestate": req.SetTracestate} {
		if value, ok := carrier[name]; ok {
			set(&value)
		}
	}
	return func(err error) {
		if err != nil {
			span.SetStatus(codes.Error, err.Error())
		}
		span.End()
	}
}
