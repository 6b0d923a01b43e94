package gateway

import (
	"bytes"
	"context"
	"crypto/rand"
	"net/http"
	"regexp"
	"slices"
	"time"

	"github.com/cloudwego/hertz/pkg/app"
	"github.com/hertz-contrib/cors"

	"im/http-server/edge"
	"im/internal/logging"
)

const requestIDHeader = "X-Request-Id"

// validID matches the request ids that are taken over: 1 to 128 visible ASCII characters.
var validID = regexp.MustCompile(`^[!-~]{1,128}$`)

// identify gives a request and its answer an id: the caller's if it is valid, else a fresh
// one.
func identify(ctx context.Context, c *app.RequestContext) {
	id := string(c.GetHeader(requestIDHeader))
	if !validID.MatchString(id) {
		id = rand.Text()
	}
	c.Header(requestIDHeader, id)
	c.Next(logging.WithRequestID(ctx, id))
}

// headers sets those that each answer has.
func (g *Gateway) headers(ctx context.Context, c *app.RequestContext) {
	for _, field := range browserFields {
		c.Response.Header.SetCanonical(field.name, field.value)
	}
	if g.TLS { // a browser that was here once never speaks plain text (RFC 6797)
		c.Header("Strict-Transport-Security", "max-age=31536000")
	}
	if g.Stopping.Err() != nil {
		c.SetConnectionClose()
	}
	c.Next(ctx)
}

// browserFields say to a browser that an answer is for the one who asked, and is no page:
// nothing of it is to be kept, guessed at, run or shown in a frame.
var browserFields = []struct{ name, value []byte }{
	{[]byte("Cache-Control"), []byte("no-store")},
	{[]byte("Content-Security-Policy"), []byte("default-src 'none'; frame-ancestors 'none'")},
	{[]byte("X-Content-Type-Options"), []byte("nosniff")},
}

// strictHead is a middleware that refuses a request whose end is in doubt. A proxy in front
// may see it elsewhere, and so another request could be smuggled in (RFC 9112, 11.2).
func strictHead(ctx context.Context, c *app.RequestContext) {
	closes, ambiguity := edge.ReadHead(c.Request.Header.RawHeaders(), c.Request.Header.IsHTTP11())
	if closes {
		c.SetConnectionClose()
	}
	if ambiguity != "" {
		c.SetConnectionClose() // what follows may be a part of this request or another
		c.Request.CloseBodyStream()
		refuse(ctx, c, badRequest(ambiguity))
		c.Abort()
		return
	}
	c.Next(ctx)
}

// strictPath is a middleware that refuses a path that is not written as it is known, since a
// proxy in front may take it for another one.
func strictPath(ctx context.Context, c *app.RequestContext) {
	if !bytes.Equal(c.Path(), c.Request.URI().PathOriginal()) {
		notFound(ctx, c)
		c.Abort()
		return
	}
	c.Next(ctx)
}

// allowOrigins lets the pages of these origins read answers and send what a call
// needs; "*" is every page. For any other, browsers keep the answers from the page.
func allowOrigins(origins []string) app.HandlerFunc {
	allow := cors.New(cors.Config{
		AllowOrigins:  origins,
		AllowMethods:  []string{http.MethodGet, http.MethodPost},
		AllowHeaders:  []string{"Authorization", "Content-Type", "Idempotency-Key", requestIDHeader, "traceparent", "tracestate", "baggage"},
		ExposeHeaders: []string{"Retry-After", "WWW-Authenticate", requestIDHeader},
		MaxAge:        time.Hour,
	})
	return func(ctx context.Context, c *app.RequestContext) {
		c.Response.Header.Add("Vary", "Origin")
		if slices.Contains(origins, "*") || slices.Contains(origins, string(c.GetHeader("Origin"))) {
			allow(ctx, c)
		}
	}
}
