package main

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"time"

	"github.com/bytedance/gopkg/cloud/metainfo"
	"github.com/cloudwego/kitex/pkg/endpoint"
	"github.com/cloudwego/kitex/pkg/rpcinfo"
	"github.com/cloudwego/kitex/pkg/utils"
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

// observe is the middleware that counts calls.
func (m *metrics) observe(next endpoint.Endpoint) endpoint.Endpoint {
	return func(ctx context.Context, req, resp any) error {
		began := time.Now()
		m.inFlight.Inc()
		defer m.inFlight.Dec()
		err := next(ctx, req, resp)
		method := rpcinfo.GetRPCInfo(ctx).To().Method()
		m.duration.WithLabelValues(method).Observe(time.Since(began).Seconds())
		m.calls.WithLabelValues(method, codeOf(resp)).Inc()
		return err
	}
}

// codeOf names the Code of an answer.
func codeOf(resp any) string {
	if result, ok := resp.(utils.KitexResult); ok {
		if answer, ok := result.GetResult().(interface{ GetCode() int32 }); ok {
			return rpc.Code(answer.GetCode()).String()
		}
	}
	return "none"
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

// traceCall is the middleware that makes a call's span, below the one that its
// caller tells of (W3C Trace Context).
func traceCall(next endpoint.Endpoint) endpoint.Endpoint {
	return func(ctx context.Context, req, resp any) error {
		carrier := propagation.MapCarrier{}
		for _, key := range otel.GetTextMapPropagator().Fields() {
			carrier[key], _ = metainfo.GetValue(ctx, key)
		}
		ctx = otel.GetTextMapPropagator().Extract(ctx, carrier)
		method := rpcinfo.GetRPCInfo(ctx).To().Method()
		ctx, span := tracer.Start(ctx, service+"/"+method, oteltrace.WithSpanKind(oteltrace.SpanKindServer),
			oteltrace.WithAttributes(semconv.RPCService(service), semconv.RPCMethod(method)))
		defer span.End()
		err := next(ctx, req, resp)
		span.SetAttributes(attribute.String("rpc.response.code", codeOf(resp)))
		return err
	}
}
