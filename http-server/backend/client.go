// Package backend is the rpc-servers, as one client: it knows from etcd which there are,
// chooses between them, lets calls that are made at the same time share an RPC, and tries
// again elsewhere what fails.
package backend

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/cloudwego/kitex/client"
	"github.com/cloudwego/kitex/pkg/connpool"
	"github.com/cloudwego/kitex/pkg/discovery"
	"github.com/cloudwego/kitex/pkg/endpoint"
	"github.com/cloudwego/kitex/pkg/kerrors"
	"github.com/cloudwego/kitex/pkg/rpcinfo"
	"github.com/cloudwego/kitex/pkg/rpcinfo/remoteinfo"
	"github.com/cloudwego/kitex/transport"

	"im/internal/admin"
	"im/internal/etcd"
	"im/internal/gen/rpc"
	"im/internal/gen/rpc/imservice"
	"im/internal/logging"
)

// largeLimit is the most messages that a page may ask for that shares an RPC.
const largeLimit = 100

// Client calls the rpc-servers. All requests share one.
type Client struct {
	balancer *balancer
	resolver *resolver
	sends    *batcher[*rpc.SendRequest, *rpc.SendResponse]
	pulls    *batcher[*rpc.PullRequest, *rpc.PullResponse]
	chats    *batcher[*rpc.ChatsRequest, *rpc.ChatsResponse]
	reads    *batcher[*rpc.ReadRequest, *rpc.ReadResponse]
	lists    *lists
	waits    *waits
	streams  *streams
	metrics  *metrics
	permits  chan struct{} // has an element for each call that is under way
}

// Dial returns a client of the rpc-servers that a resolver names, which connect returns. It
// needs neither etcd nor an rpc-server yet. A call may take timeout, of which each attempt
// gets a third; at most maxInFlight calls may be under way.
func Dial(ctx context.Context, connect func() (discovery.Resolver, error), timeout time.Duration, maxInFlight int) (*Client, error) {
	c, err := newClient(timeout, maxInFlight)
	if err != nil {
		return nil, err
	}
	c.resolver = newResolver(c.balancer, connect)
	go c.resolver.watch(ctx)
	go c.streams.keep(ctx)
	go c.waits.check(ctx)
	return c, nil
}

// newClient returns a client of the rpc-servers that its balancer is told of.
func newClient(timeout time.Duration, maxInFlight int) (*Client, error) {
	attempt := timeout / maxAttempts
	kitex, err := imservice.NewClient(etcd.Service,
		client.WithMiddleware(toInstance),
		client.WithTransportProtocol(transport.TTHeader),
		client.WithLongConnection(connpool.IdleConfig{MaxIdlePerAddress: maxBatchCalls * maxBatches, MaxIdleGlobal: 1 << 20, MaxIdleTimeout: time.Minute}),
		client.WithConnectTimeout(attempt/2), // leaves time for another instance
		client.WithRPCTimeout(attempt),
	)
	if err != nil {
		return nil, err
	}
	m := newMetrics()
	c := &Client{metrics: m, permits: make(chan struct{}, maxInFlight)}
	c.balancer = newBalancer(func(i *instance) error { // to which any Code is a sign of life
		_, err := kitex.Pull(withInstance(i), &rpc.PullRequest{})
		return err
	})
	c.waits = newWaits(func(ctx context.Context, names []string) ([]int64, error) {
		i := c.balancer.counting(slices.ContainsFunc(names, isMember))
		if i == nil {
			return nil, errNoTotals
		}
		totals, err := kitex.Totals(withInstance(i), names)
		if err == nil && len(totals) != len(names) {
			err = fmt.Errorf("%d counts of %d names", len(totals), len(names))
		}
		if errors.Is(err, kerrors.ErrRPCTimeout) { // members with many chats say nothing of the server
			return nil, err
		}
		return totals, c.balancer.observe(i, err)
	})
	if c.streams, err = newStreams(c.waits, c.balancer); err != nil {
		return nil, err
	}
	c.sends = &batcher[*rpc.SendRequest, *rpc.SendResponse]{
		method: methodSend, balancer: c.balancer, metrics: m, budget: timeout, maxQueue: maxInFlight,
		one: kitex.Send, many: kitex.SendMany,
		size:   func(req *rpc.SendRequest) int { return len(req.GetMessage().GetText()) },
		large:  func(*rpc.SendRequest) bool { return false },
		goesOn: func(*rpc.SendResponse) bool { return false },
	}
	c.pulls = &batcher[*rpc.PullRequest, *rpc.PullResponse]{
		method: methodPull, balancer: c.balancer, metrics: m, budget: timeout, maxQueue: maxInFlight,
		one: kitex.Pull, many: kitex.PullMany,
		size:   func(*rpc.PullRequest) int { return 0 },
		large:  func(req *rpc.PullRequest) bool { return req.Limit > largeLimit },
		goesOn: func(resp *rpc.PullResponse) bool { return resp.GetHasMore() && len(resp.Messages) == 0 },
	}
	c.chats = &batcher[*rpc.ChatsRequest, *rpc.ChatsResponse]{
		method: methodChats, balancer: c.balancer, metrics: m, budget: timeout, one: kitex.Chats,
		large: func(*rpc.ChatsRequest) bool { return true },
	}
	c.reads = &batcher[*rpc.ReadRequest, *rpc.ReadResponse]{
		method: methodRead, balancer: c.balancer, metrics: m, budget: timeout, one: kitex.Read,
		large: func(*rpc.ReadRequest) bool { return true },
	}
	c.lists = newLists(c.Chats)
	return c, nil
}

// Send makes a call. Its error wraps ErrLate, ErrOverload or ErrUnavailable; without one, the
// response has the Code of an rpc-server. The call may go on after Send returns: req must not
// change.
func (c *Client) Send(ctx context.Context, req *rpc.SendRequest) (*rpc.SendResponse, error) {
	return observed(ctx, c, c.sends, req)
}

// Pull makes a call, as Send does.
func (c *Client) Pull(ctx context.Context, req *rpc.PullRequest) (*rpc.PullResponse, error) {
	return observed(ctx, c, c.pulls, req)
}

// Chats makes a call, as Send does.
func (c *Client) Chats(ctx context.Context, req *rpc.ChatsRequest) (*rpc.ChatsResponse, error) {
	return observed(ctx, c, c.chats, req)
}

// Read makes a call, as Send does.
func (c *Client) Read(ctx context.Context, req *rpc.ReadRequest) (*rpc.ReadResponse, error) {
	return observed(ctx, c, c.reads, req)
}

// observed makes a call if there is a permit, with the id of its request, a span and
// metrics. Without a permit it fails at once, so that the calls under way keep their
// speed. A request whose body is yet to come has none: many slow ones would leave none to
// others.
func observed[Req request, Resp response](ctx context.Context, c *Client, b *batcher[Req, Resp], req Req) (resp Resp, err error) {
	select {
	case c.permits <- struct{}{}:
		defer func() { <-c.permits }()
	default:
		return resp, ErrOverload
	}
	if id := logging.RequestID(ctx); id != "" {
		req.SetRequestID(&id)
	}
	end := traceCall(ctx, b.method, req)
	began := time.Now()
	resp, err = b.do(ctx, req)
	c.metrics.count(b.method, began, resp, err)
	end(err)
	return resp, err
}

// Checks returns the checks of the rpc-servers and of etcd.
func (c *Client) Checks() []*admin.Check {
	return []*admin.Check{
		{Name: "rpc-servers", Required: true, Run: c.reach, About: c.instances},
		{Name: "etcd", Run: c.resolver.check, About: func() any { return map[string]float64{"resolve_age_seconds": c.resolver.age().Seconds()} }},
	}
}

// instances returns how each rpc-server does, and whether its stream is open.
func (c *Client) instances() any {
	type state struct {
		health
		Hints bool `json:"hints"`
	}
	all := []state{}
	for _, h := range c.balancer.instances() {
		all = append(all, state{h, c.waits.listensTo(h.Address)})
	}
	return all
}

// reach asks whether an rpc-server answers: it wants a page of no chat, to which any Code is
// a sign of life.
func (c *Client) reach(ctx context.Context) error {
	_, err := c.pulls.do(ctx, &rpc.PullRequest{})
	return err
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
