package gateway

import (
	"context"
	"log/slog"
	"strconv"
	"time"

	"github.com/cloudwego/hertz/pkg/app"
	"github.com/prometheus/client_golang/prometheus"
	"go.opentelemetry.io/otel"
	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/propagation"
	semconv "go.opentelemetry.io/otel/semconv/v1.37.0"
	oteltrace "go.opentelemetry.io/otel/trace"
)

// metrics are those of the requests.
type metrics struct {
	requests *prometheus.CounterVec   // by route, method and status
	duration *prometheus.HistogramVec // by route
	inFlight prometheus.Gauge
	shed     prometheus.Counter
	waiters  prometheus.Gauge
	// waitDelivery is from when a message was stored to when who waited for it is answered.
	waitDelivery prometheus.Histogram
}

func newMetrics() *metrics {
	return &metrics{
		requests: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "http_requests_total", Help: "Requests answered, by route, method and status. An unknown path or method is \"none\".",
		}, []string{"route", "method", "status"}),
		duration: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name: "http_request_duration_seconds", Help: "Time to answer a request that did not wait.", Buckets: prometheus.ExponentialBuckets(0.00025, 2, 13),
		}, []string{"route"}),
		inFlight: prometheus.NewGauge(prometheus.GaugeOpts{Name: "http_requests_in_flight", Help: "Requests that are being served."}),
		shed:     prometheus.NewCounter(prometheus.CounterOpts{Name: "http_requests_shed_total", Help: "Requests refused because of MAX_IN_FLIGHT, MAX_BUFFER_BYTES or MAX_WAITERS."}),
		waiters:  prometheus.NewGauge(prometheus.GaugeOpts{Name: "http_waiters", Help: "Requests whose answers are held back until there is something new."}),
		waitDelivery: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name: "http_wait_delivery_seconds", Help: "Time from when a message was stored, by Redis's clock, to when a request that waited for it is answered because of a hint.",
			Buckets: prometheus.ExponentialBuckets(0.00025, 2, 17),
		}),
	}
}

// observe is the middleware that counts requests and logs each at debug level.
func (m *metrics) observe(ctx context.Context, c *app.RequestContext) {
	began := time.Now()
	m.inFlight.Inc()
	defer m.inFlight.Dec()
	c.Next(ctx)
	took := time.Since(began)
	route, method := routeOf(c)
	if _, waited := c.Get(waitedKey); !waited {
		m.duration.WithLabelValues(route).Observe(took.Seconds())
	}
	m.requests.WithLabelValues(route, method, strconv.Itoa(c.Response.StatusCode())).Inc()
	if slog.Default().Enabled(ctx, slog.LevelDebug) {
		slog.DebugContext(ctx, "answered", "method", method, "path", string(c.Path()),
			"status", c.Response.StatusCode(), "took", took.String())
	}
}

// waitedKey is under which a request has that its answer was held back: that is no time that
// the service took.
const waitedKey = "waited"

// wait counts a request whose answer is held back, until done is called.
func (m *metrics) wait(c *app.RequestContext) (done func()) {
	c.Set(waitedKey, true)
	m.waiters.Inc()
	m.inFlight.Dec()
	return func() {
		m.waiters.Dec()
		m.inFlight.Inc()
	}
}

// routeOf returns the route and the method of a request, as metrics and spans have them. What
// clients make up would have them grow without end: it is "none".
func routeOf(c *app.RequestContext) (route, method string) {
	if c.FullPath() == "" {
		return "none", "none"
	}
	return c.FullPath(), string(c.Method())
}

// tracer makes the spans.
var tracer = otel.Tracer("im/http-server")

// trace is the middleware that makes a request's span, below the one that its traceparent
// header names (W3C Trace Context).
func trace(ctx context.Context, c *app.RequestContext) {
	ctx = otel.GetTextMapPropagator().Extract(ctx, propagation.MapCarrier{
		"traceparent": string(c.GetHeader("traceparent")), "tracestate": string(c.GetHeader("tracestate")),
	})
	route, method := routeOf(c)
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
