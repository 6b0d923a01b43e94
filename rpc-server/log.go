package main

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"log/slog"

	"github.com/cloudwego/kitex/pkg/klog"
	"github.com/redis/go-redis/v9"
	"go.opentelemetry.io/otel/trace"
)

// requestIDKey is under which a context has the request's id.
type requestIDKey struct{}

// logLevel is the least level that is logged.
var logLevel slog.LevelVar

// logTo makes w receive all log lines as JSON, those of Kitex and
// go-redis too.
func logTo(w io.Writer) {
	slog.SetDefault(slog.New(contextLines{slog.NewJSONHandler(w, &slog.HandlerOptions{Level: &logLevel})}))
	klog.SetLevel(klog.LevelDebug)
	klog.SetOutput(frameworkLines{})
	redis.SetLogger(redisLines{})
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

// frameworkLines turns the framework's "time file:line: [Level] text" lines into
// structured ones.
type frameworkLines struct{}

func (frameworkLines) Write(line []byte) (int, error) {
	_, rest, _ := bytes.Cut(line, []byte("["))
	name, text, _ := bytes.Cut(rest, []byte("] "))
	var level slog.Level // info for a name that slog does not know
	level.UnmarshalText(name)
	slog.Log(context.Background(), level, string(bytes.TrimSpace(text)))
	return len(line), nil
}

// redisLines takes the lines of go-redis, which tells of each connection that
// breaks; what comes of it is logged where it matters.
type redisLines struct{}

func (redisLines) Printf(ctx context.Context, format string, v ...any) {
	slog.DebugContext(ctx, "redis: "+fmt.Sprintf(format, v...))
}
