package main

import (
	"bytes"
	"context"
	"io"
	"log/slog"

	"github.com/cloudwego/hertz/pkg/common/hlog"
	"github.com/cloudwego/kitex/pkg/klog"
	"go.opentelemetry.io/otel/trace"
)

// requestIDKey is under which a context has the request's id.
type requestIDKey struct{}

// logLevel is the least level that is logged.
var logLevel slog.LevelVar

// logTo makes w receive all log lines as JSON, those of Hertz and Kitex
// too.
func logTo(w io.Writer) {
	slog.SetDefault(slog.New(contextLines{slog.NewJSONHandler(w, &slog.HandlerOptions{Level: &logLevel})}))
	klog.SetLevel(klog.LevelDebug)
	klog.SetOutput(frameworkLines{slog.Default()})
	hlog.SetLevel(hlog.LevelDebug)
	hlog.SetOutput(frameworkLines{slog.Default()})
	hlog.SetSilentMode(true) // else each request that is no HTTP is an error, and quoted
}

// contextLines adds to each line the ids of the request that its context is of.
type contextLines struct{ slog.Handler }

func (h contextLines) Handle(ctx context.Context, line slog.Record) error {
	if id, ok := ctx.Value(requestIDKey{}).(string); ok {
		line.AddAttrs(slog.String("request_id", id))
	}
	if span := trace.SpanContextFromContext(ctx); span.IsValid() {
		line.AddAttrs(slog.String("trace_id", span.TraceID().String()))
	}
	return h.Handler.Handle(ctx, line)
}

// frameworkLines turns the frameworks' "time file:line: [Level] text" lines into
// structured ones.
type frameworkLines struct{ *slog.Logger }

func (l frameworkLines) Write(line []byte) (int, error) {
	_, rest, _ := bytes.Cut(line, []byte("["))
	name, text, _ := bytes.Cut(rest, []byte("] "))
	var level slog.Level // info for a name that slog does not know
	level.UnmarshalText(name)
	l.Log(context.Background(), level, string(bytes.TrimSpace(text)))
	return len(line), nil
}
