// Package gateway is the HTTP contract: it answers requests by asking the rpc-servers.
package gateway

import (
	"context"
	"crypto/rand"
	_ "embed"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"sync"
	"time"

	"github.com/cloudwego/hertz/pkg/app"
	"github.com/cloudwego/hertz/pkg/app/middlewares/server/recovery"
	"github.com/cloudwego/hertz/pkg/route"
	"github.com/prometheus/client_golang/prometheus"
	"google.golang.org/protobuf/proto"

	"im/http-server/backend"
	"im/http-server/edge"
	"im/http-server/gateway/page"
	"im/internal/gen/api"
	"im/internal/gen/rpc"
)

// Backend is what the rpc-servers do. An error wraps backend.ErrLate, backend.ErrOverload or
// backend.ErrUnavailable.
type Backend interface {
	Send(context.Context, *rpc.SendRequest) (*rpc.SendResponse, error)
	Pull(context.Context, *rpc.PullRequest) (*rpc.PullResponse, error)
	Chats(context.Context, *rpc.ChatsRequest) (*rpc.ChatsResponse, error)
	Read(context.Context, *rpc.ReadRequest) (*rpc.ReadResponse, error)
	// SharedChats is Chats for those who wait, who share what it costs.
	SharedChats(context.Context, *rpc.ChatsRequest) (*rpc.ChatsResponse, error)
	// Wait returns who is told when there may be news of a chat, WaitList when there may be some
	// of any chat of a member.
	Wait(ctx context.Context, chat string) *backend.Waiter
	WaitList(ctx context.Context, member string) *backend.Waiter
}

// Options are what a Gateway is made with.
type Options struct {
	Backend      Backend
	Auth         *Auth // nil lets everybody do everything
	MaxBodyBytes int
	Buffers      *edge.Buffers
	CORSOrigins  []string // whose pages may use the service; "*" is every page
	TLS          bool     // whether clients speak TLS
	Tracing      bool     // whether requests have spans
	Page         bool     // whether the page for trying the service is at /
	MaxWaiters   int      // requests whose answers are held back at a time
	// Stopping ends when the server begins to stop: each answer is then the last of its
	// connection. Those that are held back are given within LeaveWait, at random moments.
	Stopping  context.Context
	LeaveWait time.Duration
}

// Gateway answers HTTP requests.
type Gateway struct {
	Options
	metrics *metrics
	waiters chan struct{} // has an element for each request that waits
	// pullLooks and listLooks have an element for each of them that looks again.
	pullLooks, listLooks chan struct{}
	stopsAt              func() time.Time // returns when LeaveWait is over, once the server stops
}

// New returns a Gateway, whose routes are yet to be added to a server.
func New(o Options) *Gateway {
	g := &Gateway{
		Options: o, metrics: newMetrics(), waiters: make(chan struct{}, o.MaxWaiters),
		pullLooks: make(chan struct{}, maxLooks), listLooks: make(chan struct{}, o.MaxWaiters),
		stopsAt: sync.OnceValue(func() time.Time { return time.Now().Add(o.LeaveWait) }),
	}
	context.AfterFunc(o.Stopping, func() { g.stopsAt() })
	return g
}

// Collectors are the metrics of the requests.
func (g *Gateway) Collectors() []prometheus.Collector {
	return []prometheus.Collector{g.metrics.requests, g.metrics.duration, g.metrics.inFlight, g.metrics.shed, g.metrics.waiters, g.metrics.waitDelivery}
}

// Route adds the routes to a server.
func (g *Gateway) Route(r *route.Engine) {
	if g.Tracing {
		r.Use(trace)
	}
	r.Use(identify, g.headers, g.metrics.observe, recovery.Recovery(recovery.WithRecoveryHandler(panicked)), strictHead)
	if len(g.CORSOrigins) > 0 {
		r.Use(allowOrigins(g.CORSOrigins))
	}
	r.Use(strictPath)
	get := func(path string, answer app.HandlerFunc) {
		r.GET(path, answer)
		r.HEAD(path, answer) // Hertz leaves out the body (RFC 9110, 9.3.2)
	}
	get("/openapi.yaml", describe)
	get("/ping", ping)
	r.POST("/api/send", g.handle(g.send))
	get("/api/pull", g.handle(g.pull))
	get("/api/chats", g.handle(g.chats))
	r.POST("/api/read", g.handle(g.read))
	if g.Page {
		for path, answer := range page.Routes {
			get(path, answer)
		}
	}
	r.NoRoute(notFound)
	r.NoMethod(notAllowed(r))
}

// openapi is the description of what route serves.
//
//go:embed openapi.yaml
var openapi []byte

func describe(_ context.Context, c *app.RequestContext) {
	c.Data(http.StatusOK, "application/yaml", openapi)
}

func ping(_ context.Context, c *app.RequestContext) {
	c.Data(http.StatusOK, "application/json", []byte(`{"message":"pong"}`))
}

// send stores a message. The answer is empty.
func (g *Gateway) send(ctx context.Context, c *app.RequestContext) error {
	caller, err := g.Auth.caller(c)
	if err != nil {
		return err
	}
	var req api.SendRequest
	if err := g.decode(c, &req); err != nil {
		return err
	}
	if err := caller.mayBe("sender", req.Sender); err != nil {
		return err
	}
	key, err := idempotencyKey(c)
	if err != nil {
		return err
	}
	resp, err := g.Backend.Send(ctx, &rpc.SendRequest{
		Message: &rpc.Message{Chat: req.Chat, Text: req.Text, Sender: req.Sender},
		Key:     &key,
	})
	return failure(resp, err)
}

// pull answers with a page of a chat.
func (g *Gateway) pull(ctx context.Context, c *app.RequestContext) error {
	caller, err := g.Auth.caller(c)
	if err != nil {
		return err
	}
	var req api.PullRequest
	if err := g.decode(c, &req); err != nil {
		return err
	}
	if err := caller.mayPull(req.Chat); err != nil {
		return err
	}
	if err := checkWait(req.Wait, "reverse", req.Reverse); err != nil {
		return err
	}
	if c.IsHead() { // no rpc-server is asked for what is not sent
		c.SetContentType(answerFormat(c).mediaType())
		return nil
	}
	look := func(ctx context.Context) (*rpc.PullResponse, error) {
		resp, err := g.Backend.Pull(ctx, &rpc.PullRequest{
			Chat: req.Chat, Cursor: req.Cursor, Limit: req.Limit, Reverse: &req.Reverse, Total: &req.Total,
		})
		return resp, failure(resp, err)
	}
	resp, err := await(ctx, g, c, held[*rpc.PullResponse]{
		wait: req.Wait, name: req.Chat, waiter: g.Backend.Wait, look: look, again: look, turns: g.pullLooks,
		isNews: func(resp *rpc.PullResponse) bool { // messages, or the chat went back
			return len(resp.Messages) > 0 || resp.GetTotal() < req.Cursor
		},
	}, caller.until)
	if err != nil {
		return err
	}
	answer := &api.PullResponse{
		Messages:   make([]*api.Message, len(resp.Messages)),
		HasMore:    resp.GetHasMore(),
		NextCursor: resp.GetNextCursor(),
		Total:      resp.GetTotal(),
	}
	messages := make([]api.Message, len(resp.Messages)) // at once: one by one they cost more
	for i, m := range resp.Messages {
		answer.Messages[i] = &messages[i]
		copyMessage(&messages[i], m)
	}
	return g.answer(c, answer)
}

func copyMessage(to *api.Message, m *rpc.Message) {
	to.Chat, to.Text, to.Sender, to.SendTime = m.Chat, m.Text, m.Sender, m.SendTime
}

// chats answers with some of a member's chats.
func (g *Gateway) chats(ctx context.Context, c *app.RequestContext) error {
	caller, err := g.Auth.caller(c)
	if err != nil {
		return err
	}
	var req api.ChatsRequest
	if err := g.decode(c, &req); err != nil {
		return err
	}
	if err := caller.mayBe("member", req.Member); err != nil {
		return err
	}
	if err := checkWait(req.Wait, "cursor", req.Cursor > 0); err != nil {
		return err
	}
	if req.Total < 0 {
		return badRequest(fmt.Sprintf("total: must not be negative, but is %d", req.Total))
	}
	if c.IsHead() { // as in pull
		c.SetContentType(answerFormat(c).mediaType())
		return nil
	}
	look := func(read func(context.Context, *rpc.ChatsRequest) (*rpc.ChatsResponse, error)) func(context.Context) (*rpc.ChatsResponse, error) {
		return func(ctx context.Context) (*rpc.ChatsResponse, error) {
			resp, err := read(ctx, &rpc.ChatsRequest{Member: req.Member, Cursor: req.Cursor, Limit: req.Limit})
			return resp, failure(resp, err)
		}
	}
	resp, err := await(ctx, g, c, held[*rpc.ChatsResponse]{
		wait: req.Wait, name: req.Member, waiter: g.Backend.WaitList, look: look(g.Backend.Chats), again: look(g.Backend.SharedChats), turns: g.listLooks,
		isNews: func(resp *rpc.ChatsResponse) bool { return resp.GetTotal() != req.Total },
	}, caller.until)
	if err != nil {
		return err
	}
	list := &api.ChatsResponse{
		Chats:      make([]*api.Chat, len(resp.Chats)),
		HasMore:    resp.GetHasMore(),
		NextCursor: resp.GetNextCursor(),
		Total:      resp.GetTotal(),
	}
	for i, listed := range resp.Chats {
		list.Chats[i] = &api.Chat{Chat: listed.Chat, Total: listed.Total, Read: listed.Mark, Unread: listed.Unread, Last: new(api.Message)}
		copyMessage(list.Chats[i].Last, listed.Last)
	}
	return g.answer(c, list)
}

// read moves the mark of how far a member has read a chat, and answers with what is kept.
func (g *Gateway) read(ctx context.Context, c *app.RequestContext) error {
	caller, err := g.Auth.caller(c)
	if err != nil {
		return err
	}
	var req api.ReadRequest
	if err := g.decode(c, &req); err != nil {
		return err
	}
	if err := caller.mayBe("member", req.Member); err != nil {
		return err
	}
	resp, err := g.Backend.Read(ctx, &rpc.ReadRequest{Chat: req.Chat, Member: req.Member, Mark: req.Read})
	if err := failure(resp, err); err != nil {
		return err
	}
	return g.answer(c, &api.ReadResponse{Read: resp.GetMark()})
}

// answer answers 200.
func (g *Gateway) answer(c *app.RequestContext, resp proto.Message) error {
	if err := encode(c, resp); err != nil {
		return err
	}
	return g.Buffers.Reserve(c, len(c.Response.Body()))
}

// idempotencyKey is the header's value or, without one, a fresh random key: it
// makes the gateway's own retries store nothing twice.
func idempotencyKey(c *app.RequestContext) (string, error) {
	switch values := c.Request.Header.PeekAll("Idempotency-Key"); len(values) {
	case 0:
		return rand.Text(), nil
	case 1:
		return string(values[0]), nil
	}
	return "", badRequest("Idempotency-Key: is given more than once")
}

// handle makes a route of f: it answers with the problem that the error of f is.
func (g *Gateway) handle(f func(context.Context, *app.RequestContext) error) app.HandlerFunc {
	return func(ctx context.Context, c *app.RequestContext) {
		err := f(ctx, c)
		if err == nil {
			return
		}
		if errors.Is(err, backend.ErrOverload) || errors.Is(err, edge.ErrNoRoom) || errors.Is(err, errWaiters) {
			g.metrics.shed.Inc()
		}
		refuse(ctx, c, err)
	}
}

func panicked(ctx context.Context, c *app.RequestContext, err any, stack []byte) {
	refuse(ctx, c, fmt.Errorf("panic: %v\n%s", err, stack))
}

func notFound(ctx context.Context, c *app.RequestContext) {
	refuse(ctx, c, newProblem(http.StatusNotFound, "there is no such path; see /api/send, /api/pull, /api/chats, /api/read and /ping", nil))
}

// notAllowed answers a path that exists with the methods that it has.
func notAllowed(r *route.Engine) app.HandlerFunc {
	return func(ctx context.Context, c *app.RequestContext) {
		var allowed []string
		for _, known := range r.Routes() {
			if known.Path == string(c.Path()) {
				allowed = append(allowed, known.Method)
			}
		}
		c.Header("Allow", strings.Join(allowed, ", "))
		refuse(ctx, c, newProblem(http.StatusMethodNotAllowed, "the method is not one of this path's, which the Allow header lists", nil))
	}
}
