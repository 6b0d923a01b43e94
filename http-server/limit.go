package main

import (
	"context"
	"errors"

	"github.com/cloudwego/hertz/pkg/app"
	"github.com/prometheus/client_golang/prometheus"
)

var errOverload = errors.New("as many requests as MAX_IN_FLIGHT allows are being served")

// limit is a middleware that serves at most n requests at a time. Any more are
// refused at once, so that what is being served keeps its speed; shed
// counts them.
func limit(n int, shed prometheus.Counter) app.HandlerFunc {
	slots := make(chan struct{}, n)
	return func(ctx context.Context, c *app.RequestContext) {
		select {
		case slots <- struct{}{}:
			defer func() { <-slots }()
			c.Next(ctx)
		default:
			shed.Inc()
			refuse(ctx, c, unavailable(errOverload))
			c.Abort()
		}
	}
}
