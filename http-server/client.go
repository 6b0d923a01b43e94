package main

import (
	"context"
	"errors"
	"log/slog"
	"sync/atomic"
	"time"

	"github.com/cloudwego/kitex/client"
	"github.com/cloudwego/kitex/client/callopt"
	"github.com/cloudwego/kitex/pkg/circuitbreak"
	"github.com/cloudwego/kitex/pkg/discovery"
	"github.com/cloudwego/kitex/pkg/endpoint"
	"github.com/cloudwego/kitex/pkg/loadbalance/lbcache"
	"github.com/cloudwego/kitex/pkg/remote"
	"github.com/cloudwego/kitex/pkg/remote/trans/netpollmux"
	"github.com/cloudwego/kitex/pkg/remote/transmeta"
	"github.com/cloudwego/kitex/pkg/retry"
	"github.com/cloudwego/kitex/pkg/rpcinfo"
	"github.com/cloudwego/kitex/pkg/utils"
	"github.com/cloudwego/kitex/transport"
	etcd "github.com/kitex-contrib/registry-etcd"
	clientv3 "go.etcd.io/etcd/client/v3"

	"im/http-server/kitex_gen/rpc"
	"im/http-server/kitex_gen/rpc/imservice"
)

const (
	// service is the name under which the rpc-servers are in etcd.
	service = "demo.rpc.server"
	// refresh is how often etcd is asked for them, and how often the balancer
	// takes what was found: the view is at most twice that old.
	refresh = 500 * time.Millisecond
)

// rpcServers is the client that all requests share, with what it knows of the
// rpc-servers. Sends and pulls have connections of their own, so that a large page
// never delays a send.
type rpcServers struct {
	sends, pulls imservice.Client
	resolver     *resolver
	balancer     *balancer
}

func (s *rpcServers) Send(ctx context.Context, req *rpc.SendRequest, options ...callopt.Option) (*rpc.SendResponse, error) {
	return s.sends.Send(ctx, req, options...)
}

func (s *rpcServers) Pull(ctx context.Context, req *rpc.PullRequest, options ...callopt.Option) (*rpc.PullResponse, error) {
	return s.pulls.Pull(ctx, req, options...)
}

// dial needs neither etcd nor an rpc-server yet.
func dial(ctx context.Context, config clientv3.Config, attemptTimeout time.Duration, more ...client.Option) (*rpcServers, error) {
	s := &rpcServers{balancer: newBalancer(), resolver: newResolver(func() (discovery.Resolver, error) {
		return etcd.NewEtcdResolver(nil, func(c *etcd.Config) { c.EtcdConfig = &config })
	})}
	go s.resolver.watch(ctx)
	var err error
	if s.sends, err = newClient(s.resolver, s.balancer, attemptTimeout, more...); err != nil {
		return nil, err
	}
	s.pulls, err = newClient(s.resolver, s.balancer, attemptTimeout, more...)
	return s, err
}

// newClient calls the rpc-servers that r knows. Each attempt of a call gets
// attemptTimeout, all of them end with the call's budget. A call that fails in
// transport, or at an rpc-server that is unavailable, is tried twice more, which is
// safe since every send has a key.
//
// All calls to an rpc-server share one connection: what many write at a time goes
// out, and comes in, by one system call.
func newClient(r discovery.Resolver, b *balancer, attemptTimeout time.Duration, more ...client.Option) (imservice.Client, error) {
	again := retry.AllErrorRetry()
	again.RespRetryWithCtx = func(_ context.Context, resp any, _ rpcinfo.RPCInfo) bool {
		answer, ok := resp.(utils.KitexResult).GetResult().(answered)
		return ok && answer.GetCode() == int32(rpc.Code_UNAVAILABLE)
	}
	shared := &pool{attemptTimeout: attemptTimeout}
	return imservice.NewClient(service, append(more,
		client.WithMiddleware(within(attemptTimeout)),
		client.WithResolver(r),
		client.WithLoadBalancer(b, &lbcache.Options{RefreshInterval: refresh, ExpireInterval: time.Hour}),
		client.WithInstanceMW(b.observe),
		client.WithInstanceMW(shared.observe),
		client.WithConnPool(shared),
		client.WithTransHandlerFactory(sharedTransport{netpollmux.NewCliTransHandlerFactory()}),
		client.WithTransportProtocol(transport.TTHeader),
		client.WithMetaHandler(requestIDs{}),
		client.WithConnectTimeout(attemptTimeout/2), // leaves time for another instance
		client.WithFailureRetry(retry.NewFailurePolicyWithResultRetry(again)),
		// A breaker that is told nothing stays closed. Kitex's own would give up
		// retries while most attempts fail, which is when they are needed: the
		// request's deadline, three attempts and the balancer are bounds enough.
		client.WithRetryContainer(retry.NewRetryContainer(retry.WithContainerCBSuite(circuitbreak.NewCBSuite(circuitbreak.RPCInfo2Key)))),
	)...)
}

// requestIDs gives each call the id of its request, in TTHeader's field for it.
type requestIDs struct{}

func (requestIDs) WriteMeta(ctx context.Context, call remote.Message) (context.Context, error) {
	if id, ok := ctx.Value(requestIDKey{}).(string); ok {
		call.TransInfo().TransIntInfo()[transmeta.LogID] = id
	}
	return ctx, nil
}

func (requestIDs) ReadMeta(ctx context.Context, _ remote.Message) (context.Context, error) {
	return ctx, nil
}

// budgetKey is under which a context has the time.Time at which the call must end.
type budgetKey struct{}

// withBudget gives a call as long as d. It is no deadline of the context: for one
// that ends, Kitex makes each call in another goroutine.
func withBudget(ctx context.Context, d time.Duration) context.Context {
	return context.WithValue(ctx, budgetKey{}, time.Now().Add(d))
}

// within is the middleware that ends an attempt after timeout, or when the call's
// budget is used up.
func within(timeout time.Duration) endpoint.Middleware {
	return func(next endpoint.Endpoint) endpoint.Endpoint {
		return func(ctx context.Context, req, resp any) error {
			end := time.Now().Add(timeout)
			if budget, ok := ctx.Value(budgetKey{}).(time.Time); ok && budget.Before(end) {
				end = budget
			}
			ctx, cancel := context.WithDeadline(ctx, end)
			defer cancel()
			return next(ctx, req, resp)
		}
	}
}

// resolver gives the rpc-servers that etcd named last: while etcd is away, calls
// go on with them.
type resolver struct {
	connect  func() (discovery.Resolver, error)
	etcd     discovery.Resolver // what connect gave
	asked    chan struct{}      // closed once etcd was asked, with whatever outcome
	known    atomic.Pointer[discovery.Result]
	began    time.Time
	answered atomic.Pointer[time.Time] // when etcd named them last; nil is never
	failure  atomic.Pointer[error]     // of the last attempt; nil is none
}

// newResolver asks the resolver that connect gives, once it gives one.
func newResolver(connect func() (discovery.Resolver, error)) *resolver {
	return &resolver{connect: connect, asked: make(chan struct{}), began: time.Now()}
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

// Resolve answers at once, save to the first calls of a gateway that just began:
// they wait for etcd's first answer.
func (r *resolver) Resolve(ctx context.Context, _ string) (discovery.Result, error) {
	select {
	case <-r.asked:
	case <-ctx.Done():
	}
	if known := r.known.Load(); known != nil {
		return *known, nil
	}
	return discovery.Result{}, errNoServer
}

// Target is what Resolve is asked for.
func (r *resolver) Target(_ context.Context, target rpcinfo.EndpointInfo) string {
	return target.ServiceName()
}

// Diff tells what changed.
func (r *resolver) Diff(cacheKey string, prev, next discovery.Result) (discovery.Change, bool) {
	return discovery.DefaultDiff(cacheKey, prev, next)
}

// Name is that of this resolver's cache.
func (r *resolver) Name() string { return "etcd-last-known" }

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
			r.known.Store(&found)
			r.answered.Store(&now)
			if r.failure.Swap(nil) != nil {
				slog.Info("etcd names rpc-servers again")
			}
		case r.failure.Swap(&err) == nil && ctx.Err() == nil:
			slog.Warn("etcd names no rpc-server; going on with those known", "err", err)
		}
		if first {
			close(r.asked)
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
	_, err := s.Pull(withBudget(context.WithoutCancel(ctx), lookTimeout), &rpc.PullRequest{})
	return err
}

// instances tells how each rpc-server that is known does.
func (s *rpcServers) instances() []health {
	known := s.resolver.known.Load()
	if known == nil {
		return nil
	}
	var all []health
	for _, instance := range known.Instances {
		address := instance.Address().String()
		all = append(all, s.balancer.record(address).health(address))
	}
	return all
}
