package main

import (
	"context"
	"log/slog"
	"runtime"

	"github.com/cloudwego/gopkg/concurrency/gopool"
)

// runNetpoll runs what netpoll finds to do, in goroutines that are kept: a new one's
// stack would have to grow for every request.
//
// A task without a context is the writer of a connection that many calls share. It
// lets all that can run go first: what they want to write goes out by one system
// call. Where the connection closes under its hands, netpoll lets it panic.
func runNetpoll(ctx context.Context, task func()) {
	if ctx != nil {
		gopool.CtxGo(ctx, task)
		return
	}
	gopool.Go(func() {
		defer func() {
			if err := recover(); err != nil {
				slog.Debug("a connection closed while it was written to", "err", err)
			}
		}()
		runtime.Gosched()
		task()
	})
}
