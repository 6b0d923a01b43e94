package main

import (
	"bytes"
	"context"
	"io"
	"log/slog"

	"github.com/cloudwego/hertz/pkg/common/hlog"
	"github.com/cloudwego/kitex/pkg/klog"
)

// logLevel is the least level that is logged.
var logLevel slog.LevelVar

// logTo makes w receive all log lines as JSON, those of Hertz and Kitex
// too.
func logTo(w io.Writer) {
	slog.SetDefault(slog.New(slog.NewJSONHandler(w, &slog.HandlerOptions{Level: &logLevel})))
	klog.SetLevel(klog.LevelDebug)
	klog.SetOutput(frameworkLines{})
	hlog.SetLevel(hlog.LevelDebug)
	hlog.SetOutput(frameworkLines{})
	hlog.SetSilentMode(true) // else each request that is no HTTP is an error, and quoted
}

// frameworkLines turns the frameworks' "time file:line: [Level] text" lines into
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
