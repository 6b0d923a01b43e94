package main

import (
	"context"
	"errors"

	"github.com/cloudwego/hertz/pkg/app"
)

var errOverload = errors.New("as many requests as MAX_IN_FLIGHT allows are being served")

// limit is a middleware that serves at most n requests at a time. Any more are
// refused at once, so that what is being served keeps its speed.
func limit(n int) app.HandlerFunc {
	slots := make(chan struct{}, n)
	return func(ctx context.Context, c *app.RequestContext) {
		select {
		case slots <- struct{}{}:
			defer func() { <-slots }()
			c.Next(ctx)
		default:
			refuse(ctx, c, unavailable(errOverload))
			c.Abort()
		}
	}
}
