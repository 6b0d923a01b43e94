package main

import (
	"context"
	"fmt"

	"github.com/cloudwego/kitex/pkg/endpoint"
	"github.com/prometheus/client_golang/prometheus"

	"im/rpc-server/chat"
	"im/rpc-server/kitex_gen/rpc"
)

var errOverload = fmt.Errorf("%w: as many calls as MAX_IN_FLIGHT allows are being served", chat.ErrUnavailable)

// limit is a middleware that serves at most n calls at a time. Any more are
// answered at once with Code UNAVAILABLE, so that what is being served keeps its
// speed; shed counts them. (Kitex's own limiter closes their connections.)
func limit(n int, shed prometheus.Counter) endpoint.Middleware {
	slots := make(chan struct{}, n)
	return func(next endpoint.Endpoint) endpoint.Endpoint {
		return func(ctx context.Context, req, resp any) error {
			select {
			case slots <- struct{}{}:
				defer func() { <-slots }()
				return next(ctx, req, resp)
			default:
			}
			shed.Inc()
			code, msg := outcome(ctx, errOverload)
			switch result := resp.(type) {
			case *rpc.IMServiceSendResult:
				result.Success = &rpc.SendResponse{Code: code, Msg: msg}
			case *rpc.IMServicePullResult:
				result.Success = &rpc.PullResponse{Code: code, Msg: msg}
			}
			return nil
		}
	}
}
