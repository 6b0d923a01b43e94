package main

import (
	"context"
	"errors"
	"log/slog"
	"sync/atomic"
	"time"

	"github.com/cloudwego/kitex/client"
	"github.com/cloudwego/kitex/pkg/connpool"
	"github.com/cloudwego/kitex/pkg/discovery"
	"github.com/cloudwego/kitex/pkg/endpoint"
	"github.com/cloudwego/kitex/pkg/rpcinfo"
	"github.com/cloudwego/kitex/pkg/rpcinfo/remoteinfo"
	"github.com/cloudwego/kitex/transport"
	etcd "github.com/kitex-contrib/registry-etcd"
	clientv3 "go.etcd.io/etcd/client/v3"

	"im/http-server/kitex_gen/rpc"
	"im/http-server/kitex_gen/rpc/imservice"
)

const (
	// service is the name under which the rpc-servers are in etcd.
	service = "demo.rpc.server"
	// refresh is how often etcd is asked for them: the view is at most twice that old.
	refresh = 500 * time.Millisecond
	// largeLimit is the most messages that a page may ask for that shares an RPC.
	largeLimit = 100
)

// rpcServers are the rpc-servers, as one client that all requests share.
type rpcServers struct {
	balancer *balancer
	resolver *resolver
	sends    *batcher[*rpc.SendRequest, *rpc.SendResponse]
	pulls    *batcher[*rpc.PullRequest, *rpc.PullResponse]
	metrics  *metrics
	permits  chan struct{} // has an element for each call that is under way
}

// dial needs neither etcd nor an rpc-server yet. A call may take timeout, of which each
// attempt gets a third; at most maxInFlight calls may be under way.
func dial(ctx context.Context, config clientv3.Config, timeout time.Duration, maxInFlight int, m *metrics) (*rpcServers, error) {
	s, err := newRPCServers(timeout, maxInFlight, m)
	if err != nil {
		return nil, err
	}
	s.resolver = newResolver(s.balancer, func() (discovery.Resolver, error) {
		return etcd.NewEtcdResolver(nil, func(c *etcd.Config) { c.EtcdConfig = &config })
	})
	go s.resolver.watch(ctx)
	return s, nil
}

// newRPCServers calls those that its balancer is told of.
func newRPCServers(timeout time.Duration, maxInFlight int, m *metrics) (*rpcServers, error) {
	attempt := timeout / maxAttempts
	kitex, err := imservice.NewClient(service,
		client.WithMiddleware(toInstance),
		client.WithTransportProtocol(transport.TTHeader),
		client.WithLongConnection(connpool.IdleConfig{MaxIdlePerAddress: maxBatchCalls * maxBatches, MaxIdleGlobal: 1 << 20, MaxIdleTimeout: time.Minute}),
		client.WithConnectTimeout(attempt/2), // leaves time for another instance
		client.WithRPCTimeout(attempt),
	)
	if err != nil {
		return nil, err
	}
	s := &rpcServers{metrics: m, permits: make(chan struct{}, maxInFlight)}
	s.balancer = newBalancer(func(i *instance) error { // to which any Code is a sign of life
		_, err := kitex.Pull(withInstance(i), &rpc.PullRequest{})
		return err
	})
	s.sends = &batcher[*rpc.SendRequest, *rpc.SendResponse]{
		method: methodSend, balancer: s.balancer, metrics: m, budget: timeout, maxQueue: maxInFlight,
		one: kitex.Send, many: kitex.SendMany,
		size:   func(req *rpc.SendRequest) int { return len(req.GetMessage().GetText()) },
		large:  func(*rpc.SendRequest) bool { return false },
		goesOn: func(*rpc.SendResponse) bool { return false },
	}
	s.pulls = &batcher[*rpc.PullRequest, *rpc.PullResponse]{
		method: methodPull, balancer: s.balancer, metrics: m, budget: timeout, maxQueue: maxInFlight,
		one: kitex.Pull, many: kitex.PullMany,
		size:   func(*rpc.PullRequest) int { return 0 },
		large:  func(req *rpc.PullRequest) bool { return req.Limit > largeLimit },
		goesOn: func(resp *rpc.PullResponse) bool { return resp.GetHasMore() && len(resp.Messages) == 0 },
	}
	return s, nil
}

func (s *rpcServers) Send(ctx context.Context, req *rpc.SendRequest) (*rpc.SendResponse, error) {
	return observed(ctx, s, s.sends, req)
}

func (s *rpcServers) Pull(ctx context.Context, req *rpc.PullRequest) (*rpc.PullResponse, error) {
	return observed(ctx, s, s.pulls, req)
}

// observed makes a call if there is a permit, with the id of its request, a span and
// metrics. Without a permit it fails at once, so that the calls under way keep their
// speed. A request whose body is yet to come has none: many slow ones would leave none to
// others.
func observed[Req request, Resp answered](ctx context.Context, s *rpcServers, b *batcher[Req, Resp], req Req) (resp Resp, err error) {
	select {
	case s.permits <- struct{}{}:
		defer func() { <-s.permits }()
	default:
		s.metrics.shed.Inc()
		return resp, errOverload
	}
	if id, ok := ctx.Value(requestIDKey{}).(string); ok {
		req.SetRequestID(&id)
	}
	end := traceCall(ctx, b.method, req)
	began := time.Now()
	resp, err = b.do(ctx, req)
	s.metrics.count(b.method, began, resp, err)
	end(err)
	return resp, err
}

// instanceKey is under which a context has the instance that its call is for.
type instanceKey struct{}

func withInstance(i *instance) context.Context {
	return context.WithValue(context.Background(), instanceKey{}, i)
}

// toInstance is the middleware that sends a call to the instance in its context.
func toInstance(next endpoint.Endpoint) endpoint.Endpoint {
	return func(ctx context.Context, req, resp any) error {
		remoteinfo.AsRemoteInfo(rpcinfo.GetRPCInfo(ctx).To()).SetInstance(ctx.Value(instanceKey{}).(*instance))
		return next(ctx, req, resp)
	}
}

// resolver tells a balancer which rpc-servers etcd names: while etcd is away, calls go on
// with those that it named last.
type resolver struct {
	balancer *balancer
	connect  func() (discovery.Resolver, error)
	etcd     discovery.Resolver // what connect gave
	began    time.Time
	answered atomic.Pointer[time.Time] // when etcd named them last; nil is never
	failure  atomic.Pointer[error]     // of the last attempt; nil is none
}

// newResolver asks the resolver that connect gives, once it gives one.
func newResolver(b *balancer, connect func() (discovery.Resolver, error)) *resolver {
	return &resolver{balancer: b, connect: connect, began: time.Now()}
}

// check is nil while etcd names rpc-servers.
func (r *resolver) check(context.Context) error {
	if err := r.failure.Load(); err != nil {
		return *err
	}
	return nil
}

// age is how long ago etcd named the rpc-servers that are known; it counts from
// the start where it never did.
func (r *resolver) age() time.Duration {
	if at := r.answered.Load(); at != nil {
		return time.Since(*at)
	}
	return time.Since(r.began)
}

var errNoServer = errors.New("no rpc-server is known")

// ask asks etcd, and connects to it first where that is yet to be done.
func (r *resolver) ask(ctx context.Context) (discovery.Result, error) {
	if r.etcd == nil {
		etcd, err := r.connect()
		if err != nil {
			return discovery.Result{}, err
		}
		r.etcd = etcd
	}
	ctx, cancel := context.WithTimeout(ctx, 2*refresh)
	defer cancel()
	return r.etcd.Resolve(ctx, service)
}

// watch asks etcd again and again until ctx ends.
func (r *resolver) watch(ctx context.Context) {
	for first := true; ctx.Err() == nil; first = false {
		found, err := r.ask(ctx)
		switch {
		case err == nil:
			now := time.Now()
			r.balancer.update(found.Instances)
			r.answered.Store(&now)
			if r.failure.Swap(nil) != nil {
				slog.Info("etcd names rpc-servers again")
			}
		case r.failure.Swap(&err) == nil && ctx.Err() == nil:
			slog.Warn("etcd names no rpc-server; going on with those known", "err", err)
		}
		if first && err != nil {
			r.balancer.update(nil)
		}
		select {
		case <-ctx.Done():
		case <-time.After(refresh):
		}
	}
}

// reach asks whether an rpc-server answers: it wants a page of no chat, to which
// any Code is a sign of life.
func (s *rpcServers) reach(ctx context.Context) error {
	_, err := s.pulls.do(ctx, &rpc.PullRequest{})
	return err
}
