// Package logging writes log lines as JSON, each with the ids of its request and trace.
package logging

import (
	"bytes"
	"context"
	"io"
	"log/slog"

	"github.com/cloudwego/kitex/pkg/klog"
	"go.opentelemetry.io/otel/trace"
)

// Level is the least level that is logged.
var Level slog.LevelVar

type requestIDKey struct{}

// WithRequestID returns a context of the request with that id.
func WithRequestID(ctx context.Context, id string) context.Context {
	return context.WithValue(ctx, requestIDKey{}, id)
}

// RequestID returns the id of the request that ctx is of; empty means none.
func RequestID(ctx context.Context) string {
	id, _ := ctx.Value(requestIDKey{}).(string)
	return id
}

// To has all log lines written to w, those of Kitex, too.
func To(w io.Writer) {
	slog.SetDefault(slog.New(handler{slog.NewJSONHandler(w, &slog.HandlerOptions{Level: &Level})}))
	klog.SetLevel(klog.LevelDebug)
	klog.SetOutput(Framework)
}

// handler adds the ids of the request and of the trace to each line.
type handler struct{ slog.Handler }

func (h handler) Handle(ctx context.Context, line slog.Record) error {
	if id := RequestID(ctx); id != "" {
		line.AddAttrs(slog.String("request_id", id))
	}
	if span := trace.SpanContextFromContext(ctx); span.IsValid() {
		line.AddAttrs(slog.String("trace_id", span.TraceID().String()))
	}
	return h.Handler.Handle(ctx, line)
}

// Framework takes lines of Kitex and Hertz, "time file:line: [Level] text", and logs
// them.
var Framework io.Writer = framework{}

type framework struct{}

func (framework) Write(line []byte) (int, error) {
	_, rest, _ := bytes.Cut(line, []byte("["))
	name, text, _ := bytes.Cut(rest, []byte("] "))
	var level slog.Level // info for a name that slog does not know
	level.UnmarshalText(name)
	slog.Log(context.Background(), level, string(bytes.TrimSpace(text)))
	return len(line), nil
}
