package main

import (
	"bytes"
	"context"

	"github.com/cloudwego/hertz/pkg/app"
	"golang.org/x/net/http/httpguts"
)

// strict is a middleware that refuses what a proxy in front may understand otherwise
// than this server: a request whose end is in doubt, in which another one could be
// smuggled (RFC 9112, 11.2), and a path that is not written as it is known.
func strict(ctx context.Context, c *app.RequestContext) {
	if fault := ambiguity(c.Request.Header.RawHeaders(), c.Request.Header.IsHTTP11()); fault != "" {
		c.SetConnectionClose() // what follows may be a part of this request or another
		c.Request.CloseBodyStream()
		refuse(ctx, c, badRequest(fault))
		c.Abort()
		return
	}
	if !bytes.Equal(c.Path(), c.Request.URI().PathOriginal()) {
		notFound(ctx, c)
		c.Abort()
		return
	}
	c.Next(ctx)
}

// ambiguity tells what makes the header fields, as they were sent, ambiguous; nothing
// if they are not.
func ambiguity(fields []byte, http11 bool) string {
	var hosts, lengths, codings int
	for line := range bytes.Lines(fields) {
		line = bytes.TrimRight(line, "\r\n")
		if len(line) == 0 {
			break
		}
		name, value, found := bytes.Cut(line, []byte(":"))
		if !found || !httpguts.ValidHeaderFieldName(string(name)) {
			return "a header field must be a name, a colon and a value, on one line" // RFC 9112, 5.1 and 5.2
		}
		switch {
		case isField(name, "Host"):
			hosts++
		case isField(name, "Content-Length"):
			lengths++
			if len(bytes.Trim(bytes.TrimSpace(value), "0123456789")) > 0 {
				return "Content-Length must be a number" // RFC 9110, 8.6
			}
		case isField(name, "Transfer-Encoding"):
			codings++
			if !bytes.EqualFold(bytes.TrimSpace(value), []byte("chunked")) {
				return "Transfer-Encoding must be chunked" // RFC 9112, 6.1
			}
		}
	}
	switch {
	case hosts > 1: // RFC 9112, 3.2
		return "Host must be given once"
	case lengths+codings > 1: // RFC 9112, 6.3
		return "Content-Length or Transfer-Encoding must be given once, and not both"
	case codings > 0 && !http11: // RFC 9112, 6.1
		return "Transfer-Encoding needs HTTP/1.1"
	}
	return ""
}

func isField(name []byte, known string) bool {
	return len(name) == len(known) && bytes.EqualFold(name, []byte(known))
}
