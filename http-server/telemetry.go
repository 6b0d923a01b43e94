package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"strconv"
	"time"

	"github.com/cloudwego/hertz/pkg/app"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"go.opentelemetry.io/otel"
	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/exporters/otlp/otlptrace/otlptracehttp"
	"go.opentelemetry.io/otel/propagation"
	"go.opentelemetry.io/otel/sdk/resource"
	"go.opentelemetry.io/otel/sdk/trace"
	semconv "go.opentelemetry.io/otel/semconv/v1.37.0"
	oteltrace "go.opentelemetry.io/otel/trace"

	"im/http-server/kitex_gen/rpc"
)

// metrics are those of the requests, and of the calls that they lead to.
type metrics struct {
	requests     *prometheus.CounterVec   // by route, method and status
	duration     *prometheus.HistogramVec // by route
	inFlight     prometheus.Gauge
	shed         prometheus.Counter
	closed       prometheus.Counter       // connections
	calls        *prometheus.CounterVec   // by method and code
	callDuration *prometheus.HistogramVec // by method

	queueDuration prometheus.Histogram
	batchCalls    prometheus.Histogram
}

// newMetrics also registers what else there is to know: the Go runtime, the process
// and the build.
func newMetrics(registry *prometheus.Registry) *metrics {
	buckets := prometheus.ExponentialBuckets(0.00025, 2, 13)
	m := &metrics{
		requests: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "http_requests_total", Help: "Requests answered, by route, method and status. An unknown path or method is \"none\".",
		}, []string{"route", "method", "status"}),
		duration: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name: "http_request_duration_seconds", Help: "Time to answer a request.", Buckets: buckets,
		}, []string{"route"}),
		inFlight: prometheus.NewGauge(prometheus.GaugeOpts{Name: "http_requests_in_flight", Help: "Requests that are being served."}),
		shed:     prometheus.NewCounter(prometheus.CounterOpts{Name: "http_requests_shed_total", Help: "Requests refused because of MAX_IN_FLIGHT or MAX_BUFFER_BYTES."}),
		closed:   prometheus.NewCounter(prometheus.CounterOpts{Name: "http_connections_closed_total", Help: "Connections closed because of MAX_CONNECTIONS: the one that waited longest or, if that is not long, the new one."}),
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
	registry.MustRegister(m.requests, m.duration, m.inFlight, m.shed, m.closed, m.calls, m.callDuration, m.queueDuration, m.batchCalls,
		collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}), collectors.NewBuildInfoCollector())
	return m
}

// observe is the middleware that counts requests and logs each at debug level.
func (m *metrics) observe(ctx context.Context, c *app.RequestContext) {
	began := time.Now()
	m.inFlight.Inc()
	defer m.inFlight.Dec()
	c.Next(ctx)
	took := time.Since(began)
	route, method := c.FullPath(), string(c.Method())
	if route == "" {
		route, method = "none", "none"
	}
	m.duration.WithLabelValues(route).Observe(took.Seconds())
	m.requests.WithLabelValues(route, method, strconv.Itoa(c.Response.StatusCode())).Inc()
	if slog.Default().Enabled(ctx, slog.LevelDebug) {
		slog.DebugContext(ctx, "answered", "method", method, "path", string(c.Path()),
			"status", c.Response.StatusCode(), "took", took.String())
	}
}

// count counts a call.
func (m *metrics) count(method method, began time.Time, resp answered, err error) {
	code := "UNREACHABLE"
	switch {
	case errors.Is(err, errLate):
		code = "TIMEOUT"
	case err == nil:
		code = rpc.Code(resp.GetCode()).String()
	}
	m.callDuration.WithLabelValues(method.String()).Observe(time.Since(began).Seconds())
	m.calls.WithLabelValues(method.String(), code).Inc()
}

var (
	instancesKnown    = prometheus.NewDesc("rpc_client_instances_known", "rpc-servers that etcd named last.", nil, nil)
	instancesSetAside = prometheus.NewDesc("rpc_client_instances_set_aside", "rpc-servers that get no calls, since they failed several times in a row.", nil, nil)
	resolveAge        = prometheus.NewDesc("etcd_resolve_age_seconds", "Time since etcd named the rpc-servers.", nil, nil)
)

// Describe and Collect make an rpcServers a collector of what it knows.
func (s *rpcServers) Describe(descs chan<- *prometheus.Desc) {
	s.balancer.attempts.Describe(descs)
	descs <- instancesKnown
	descs <- instancesSetAside
	descs <- resolveAge
}

func (s *rpcServers) Collect(metrics chan<- prometheus.Metric) {
	s.balancer.attempts.Collect(metrics)
	known, setAside := s.balancer.instances(), 0
	for _, instance := range known {
		if instance.Ejected {
			setAside++
		}
	}
	metrics <- prometheus.MustNewConstMetric(instancesKnown, prometheus.GaugeValue, float64(len(known)))
	metrics <- prometheus.MustNewConstMetric(instancesSetAside, prometheus.GaugeValue, float64(setAside))
	metrics <- prometheus.MustNewConstMetric(resolveAge, prometheus.GaugeValue, s.resolver.age().Seconds())
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
	named, err := resource.New(ctx, resource.WithAttributes(semconv.ServiceName("im-http-server")), resource.WithFromEnv(), resource.WithTelemetrySDK())
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
var tracer = otel.Tracer("im/http-server")

// traceRequest is the middleware that makes a request's span, below the one that
// its traceparent header names (W3C Trace Context).
func traceRequest(ctx context.Context, c *app.RequestContext) {
	ctx = otel.GetTextMapPropagator().Extract(ctx, propagation.MapCarrier{
		"traceparent": string(c.GetHeader("traceparent")), "tracestate": string(c.GetHeader("tracestate")),
	})
	route, method := c.FullPath(), string(c.Method())
	if route == "" {
		route, method = "none", "none"
	}
	ctx, span := tracer.Start(ctx, method+" "+route, oteltrace.WithSpanKind(oteltrace.SpanKindServer),
		oteltrace.WithAttributes(semconv.HTTPRequestMethodKey.String(method), semconv.HTTPRoute(route)))
	defer span.End()
	c.Next(ctx)
	status := c.Response.StatusCode()
	span.SetAttributes(semconv.HTTPResponseStatusCode(status))
	if status >= 500 {
		span.SetStatus(codes.Error, "")
	}
}

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
	ctx, span := tracer.Start(ctx, service+"/"+m.String(), oteltrace.WithSpanKind(oteltrace.SpanKindClient),
		oteltrace.WithAttributes(semconv.RPCService(service), semconv.RPCMethod(m.String())))
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
