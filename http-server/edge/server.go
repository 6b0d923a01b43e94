package edge

import (
	"crypto/tls"
	"net"
	"time"

	"github.com/cloudwego/hertz/pkg/app/server"
	hertzconfig "github.com/cloudwego/hertz/pkg/common/config"
)

// MaxHeaderBytes is how long the head of a request may be: room for a token and cookies.
const MaxHeaderBytes = 32 << 10

// NewServer returns a server without routes, which speaks plain text where https is nil. A
// connection may be open for idle between requests; when the server stops, it waits up to
// drain for those that are open.
func NewServer(listener net.Listener, https *tls.Config, connections *Connections, idle, drain time.Duration) *server.Hertz {
	return server.New(
		hertzconfig.Option{F: func(o *hertzconfig.Options) { o.TLS, o.NoDefaultServerHeader = https, true }},
		server.WithListener(listener),
		server.WithTransport(connections.transport),
		server.WithReadTimeout(connections.readTimeout),
		server.WithIdleTimeout(idle),
		server.WithMaxHeaderBytes(MaxHeaderBytes),
		server.WithExitWaitTime(drain),
		server.WithStreamBody(true),        // the gateway reads bodies, and says itself when one is too large
		server.WithMaxKeepBodySize(64<<10), // bytes of a buffer that a connection keeps; all share larger ones
		server.WithDisablePreParseMultipartForm(true),
		server.WithHandleMethodNotAllowed(true),
		server.WithRedirectTrailingSlash(false),
		server.WithDisableDefaultContentType(true),
		server.WithDisablePrintRoute(true),
		server.WithSenseClientDisconnection(https == nil), // with TLS, it would read on during each request
	)
}
