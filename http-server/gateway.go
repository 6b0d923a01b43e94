package main

import (
	"context"
	"crypto/rand"
	_ "embed"
	"fmt"
	"net/http"
	"regexp"
	"slices"
	"time"

	"github.com/cloudwego/hertz/pkg/app"
	"github.com/cloudwego/hertz/pkg/app/middlewares/server/recovery"
	"github.com/cloudwego/hertz/pkg/route"
	"github.com/hertz-contrib/cors"

	"im/http-server/api_gen/api"
	"im/http-server/kitex_gen/rpc"
)

// messageService is what the rpc-servers do. The error of a call wraps errLate if time ran
// out; any other means that nobody was reached.
type messageService interface {
	Send(context.Context, *rpc.SendRequest) (*rpc.SendResponse, error)
	Pull(context.Context, *rpc.PullRequest) (*rpc.PullResponse, error)
}

// gateway answers HTTP requests by asking the rpc-servers.
type gateway struct {
	rpc     messageService
	metrics *metrics
	auth    *auth // nil lets everybody do everything
	maxBody int   // bytes
	buffers *buffers
	cors    app.HandlerFunc // nil lets no page of another origin in
}

func (g *gateway) route(r *route.Engine) {
	r.Use(identify, g.metrics.observe, recovery.Recovery(recovery.WithRecoveryHandler(panicked)), tellBrowsers, strict)
	if g.cors != nil {
		r.Use(g.cors)
	}
	r.GET("/openapi.yaml", describe)
	r.GET("/ping", g.ping)
	r.POST("/api/send", handle(g.send))
	r.GET("/api/pull", handle(g.pull))
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

func (g *gateway) ping(_ context.Context, c *app.RequestContext) {
	c.Data(http.StatusOK, "application/json", []byte(`{"message":"pong"}`))
}

// send stores a message. The answer is empty.
func (g *gateway) send(ctx context.Context, c *app.RequestContext) error {
	caller, err := g.auth.caller(c)
	if err != nil {
		return err
	}
	var req api.SendRequest
	if err := g.decode(c, &req); err != nil {
		return err
	}
	if err := caller.maySendAs(req.Sender); err != nil {
		return err
	}
	key, err := idempotencyKey(c)
	if err != nil {
		return err
	}
	resp, err := g.rpc.Send(ctx, &rpc.SendRequest{
		Message: &rpc.Message{Chat: req.Chat, Text: req.Text, Sender: req.Sender},
		Key:     &key,
	})
	return told(resp, err)
}

// pull answers with a page of a chat.
func (g *gateway) pull(ctx context.Context, c *app.RequestContext) error {
	caller, err := g.auth.caller(c)
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
	resp, err := g.rpc.Pull(ctx, &rpc.PullRequest{
		Chat: req.Chat, Cursor: req.Cursor, Limit: req.Limit, Reverse: &req.Reverse, Total: &req.Total,
	})
	if err := told(resp, err); err != nil {
		return err
	}
	page := &api.PullResponse{
		Messages:   make([]*api.Message, len(resp.Messages)),
		HasMore:    resp.GetHasMore(),
		NextCursor: resp.GetNextCursor(),
		Total:      resp.GetTotal(),
	}
	messages := make([]api.Message, len(resp.Messages)) // at once: one by one they cost more
	for i, m := range resp.Messages {
		page.Messages[i] = &messages[i]
		messages[i].Chat, messages[i].Text, messages[i].Sender, messages[i].SendTime = m.Chat, m.Text, m.Sender, m.SendTime
	}
	if err := encode(c, page); err != nil {
		return err
	}
	return g.buffers.take(c, len(c.Response.Body()))
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

// handle makes a route of f: it answers with the problem that f gives.
func handle(f func(context.Context, *app.RequestContext) error) app.HandlerFunc {
	return func(ctx context.Context, c *app.RequestContext) {
		if err := f(ctx, c); err != nil {
			refuse(ctx, c, err)
		}
	}
}

const requestID = "X-Request-Id"

// saneID matches the ids that are taken over: 1 to 128 visible ASCII characters.
var saneID = regexp.MustCompile(`^[!-~]{1,128}$`)

// identify gives a request and its answer an id: the caller's, if it is a sane
// one, else a fresh one.
func identify(ctx context.Context, c *app.RequestContext) {
	id := string(c.GetHeader(requestID))
	if !saneID.MatchString(id) {
		id = rand.Text()
	}
	c.Header(requestID, id)
	c.Next(context.WithValue(ctx, requestIDKey{}, id))
}

// tellBrowsers says to a browser that an answer is for the one who asked, and is no
// page: nothing of it is to be kept, guessed at, run or shown in a frame.
func tellBrowsers(ctx context.Context, c *app.RequestContext) {
	for _, field := range browserFields {
		c.Response.Header.SetCanonical(field.name, field.value)
	}
	c.Next(ctx)
}

var browserFields = []struct{ name, value []byte }{
	{[]byte("Cache-Control"), []byte("no-store")},
	{[]byte("Content-Security-Policy"), []byte("default-src 'none'; frame-ancestors 'none'")},
	{[]byte("X-Content-Type-Options"), []byte("nosniff")},
}

// stayWithTLS makes a browser that was here once never speak plain text (RFC 6797).
func stayWithTLS(ctx context.Context, c *app.RequestContext) {
	c.Header("Strict-Transport-Security", "max-age=31536000")
	c.Next(ctx)
}

// allowOrigins lets the pages of these origins read answers and send what a call
// needs; "*" is every page. For any other, browsers keep the answers from the page.
func allowOrigins(origins []string) app.HandlerFunc {
	allow := cors.New(cors.Config{
		AllowOrigins:  origins,
		AllowMethods:  []string{http.MethodGet, http.MethodPost},
		AllowHeaders:  []string{"Authorization", "Content-Type", "Idempotency-Key", requestID},
		ExposeHeaders: []string{"Retry-After", "WWW-Authenticate", requestID},
		MaxAge:        time.Hour,
	})
	return func(ctx context.Context, c *app.RequestContext) {
		c.Response.Header.Add("Vary", "Origin")
		if slices.Contains(origins, "*") || slices.Contains(origins, string(c.GetHeader("Origin"))) {
			allow(ctx, c)
		}
	}
}

// leave makes clients leave once stopping ends: each answer is then the last of
// its connection.
func leave(stopping context.Context) app.HandlerFunc {
	return func(ctx context.Context, c *app.RequestContext) {
		if stopping.Err() != nil {
			c.SetConnectionClose()
		}
		c.Next(ctx)
	}
}

func panicked(ctx context.Context, c *app.RequestContext, err any, stack []byte) {
	refuse(ctx, c, defect(fmt.Errorf("panic: %v\n%s", err, stack)))
}

func notFound(ctx context.Context, c *app.RequestContext) {
	refuse(ctx, c, newProblem(http.StatusNotFound, "there is no such path; see /api/send, /api/pull and /ping", nil))
}

// notAllowed answers a path that exists with the methods that it has.
func notAllowed(r *route.Engine) app.HandlerFunc {
	return func(ctx context.Context, c *app.RequestContext) {
		for _, known := range r.Routes() {
			if known.Path == string(c.Path()) {
				c.Response.Header.Add("Allow", known.Method)
			}
		}
		refuse(ctx, c, newProblem(http.StatusMethodNotAllowed, "the method is not one of this path's, which the Allow header lists", nil))
	}
}
