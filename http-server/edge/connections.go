// Package edge bounds what a client's connection may take: time, number and bytes.
package edge

import (
	"context"
	"errors"
	"net"
	"os"
	"sync"
	"sync/atomic"
	"time"

	hertzconfig "github.com/cloudwego/hertz/pkg/common/config"
	"github.com/cloudwego/hertz/pkg/network"
	hertznetpoll "github.com/cloudwego/hertz/pkg/network/netpoll"
	"github.com/cloudwego/hertz/pkg/network/standard"
	"github.com/cloudwego/netpoll"
	"github.com/prometheus/client_golang/prometheus"
)

// Connections bounds the connections of clients, in number and in time. A client that is
// slow, or says nothing at all, is one that wants to hold what others need.
type Connections struct {
	max          int
	readTimeout  time.Duration // of a request, from its first byte to its last
	writeTimeout time.Duration // of an answer
	evicted      prometheus.Counter

	mu         sync.Mutex
	open       map[*conn]struct{} // of which any may be evicted
	held       map[*conn]struct{} // whose answers are held back
	inspecting bool               // whether inspect runs now and then
}

// NewConnections returns a bound of max open connections. readTimeout is how long a request
// may take to arrive, writeTimeout how long an answer may take to be received.
func NewConnections(max int, readTimeout, writeTimeout time.Duration) *Connections {
	return &Connections{
		max: max, readTimeout: readTimeout, writeTimeout: writeTimeout, open: map[*conn]struct{}{}, held: map[*conn]struct{}{},
		evicted: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "http_connections_closed_total", Help: "Connections closed because of MAX_CONNECTIONS: the one that waited longest or, if that is not long, the new one.",
		}),
	}
}

// Collectors are the metrics of the connections.
func (s *Connections) Collectors() []prometheus.Collector {
	return []prometheus.Collector{s.evicted, prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: "http_connections", Help: "Connections of clients that are open."},
		func() float64 { return float64(s.count()) })}
}

// gracePeriod is how long nothing is taken from a client. Who has waited, or been waited
// for, longer than that is evicted where a new client needs room.
const gracePeriod = time.Second

// sampleSize is how many connections are looked at for the one that has waited longest,
// which is nearly as good as to look at all.
const sampleSize = 16

func (s *Connections) count() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.open) + len(s.held)
}

// add adds a new connection, for which another one may be evicted. It reports whether
// there was room.
func (s *Connections) add(c *conn) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.open)+len(s.held) >= s.max {
		s.evicted.Inc()
		oldest, looked := time.Now().Add(-gracePeriod).UnixNano(), 0
		var victim *conn
		for candidate := range s.open { // in no order
			if since := candidate.since.Load(); since < oldest {
				oldest, victim = since, candidate
			}
			if looked++; looked == sampleSize {
				break
			}
		}
		if victim == nil {
			return false
		}
		delete(s.open, victim)
		go victim.Close()
	}
	s.open[c] = struct{}{}
	return true
}

func (s *Connections) remove(c *conn) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.open, c)
	delete(s.held, c)
}

// transport makes Hertz's transport: netpoll's, or the standard library's where TLS is
// spoken, which netpoll cannot.
func (s *Connections) transport(o *hertzconfig.Options) network.Transporter {
	if o.TLS != nil {
		return transporter{standard.NewTransporter(o), s.serveTLS}
	}
	o.OnAccept = s.accept
	return transporter{hertznetpoll.NewTransporter(o), s.serve}
}

// transporter is one that hands connections to serve.
type transporter struct {
	network.Transporter
	serve func(ctx context.Context, c hertzConn, next network.OnData) error
}

func (t transporter) ListenAndServe(next network.OnData) error {
	return t.Transporter.ListenAndServe(func(ctx context.Context, c any) error {
		return t.serve(ctx, c.(hertzConn), next)
	})
}

// connKey is under which a context has netpoll's conn.
type connKey struct{}

// accept is told of a connection by netpoll, which calls serve only once a byte has
// come.
func (s *Connections) accept(accepted net.Conn) context.Context {
	c := s.newConn(accepted.(*hertznetpoll.Conn))
	if !s.add(c) {
		c.Close()
		return context.Background()
	}
	c.silence = time.AfterFunc(s.readTimeout, func() { c.Close() })
	accepted.(*hertznetpoll.Conn).Conn.(netpoll.Connection).AddCloseCallback(func(netpoll.Connection) error {
		c.silence.Stop()
		s.remove(c)
		return nil
	})
	return context.WithValue(context.Background(), connKey{}, c)
}

func (s *Connections) serve(ctx context.Context, _ hertzConn, next network.OnData) error {
	c := ctx.Value(connKey{}).(*conn)
	c.silence.Stop()
	defer c.answered()
	c.SetReadTimeout(s.readTimeout)
	left, leave := context.WithCancel(ctx)
	defer leave()
	c.left, c.leave = left.Done(), leave
	return next(context.WithoutCancel(ctx), c) // who leaves ends no call that others may share
}

// serveTLS is called at once, and its connection ends when it returns.
func (s *Connections) serveTLS(ctx context.Context, accepted hertzConn, next network.OnData) error {
	c := s.newConn(accepted)
	if !s.add(c) {
		return c.Close()
	}
	defer s.remove(c)
	defer c.answered()
	c.SetReadTimeout(s.readTimeout) // of the handshake, too
	return next(ctx, c)
}

func (s *Connections) newConn(accepted hertzConn) *conn {
	c := &conn{hertzConn: accepted, connections: s}
	c.since.Store(time.Now().UnixNano())
	return c
}

// hertzConn is a connection of either transport.
type hertzConn interface {
	network.Conn
	network.HandleSpecificError
}

// conn is a client's connection.
type conn struct {
	hertzConn
	connections *Connections
	since       atomic.Int64 // Unix nanoseconds: when it began what it does or waits for
	silence     *time.Timer  // closes it if no byte comes; with TLS, a deadline does
	// left is closed when the client closes, or half-closes, and by leave. They are nil with
	// TLS, where nobody tells.
	left     <-chan struct{}
	leave    func()
	onAnswer []func()
	// betweenRequests is whether an empty line may come before what is read next.
	betweenRequests bool
}

// SetReadTimeout bounds all that is read from now on together. Netpoll's own would
// give each read the whole time: one that sends byte by byte would have no end.
func (c *conn) SetReadTimeout(d time.Duration) error {
	c.betweenRequests = true // Hertz sets a timeout between requests only, before and after its first look
	now := time.Now()
	c.since.Store(now.UnixNano())
	return c.SetReadDeadline(now.Add(d))
}

// Peek returns the next n bytes. It skips an empty line before a request, which some clients
// send after a body (RFC 9112, 2.2).
func (c *conn) Peek(n int) ([]byte, error) {
	b, err := c.peek(n)
	if !c.betweenRequests || err != nil {
		return b, err
	}
	c.betweenRequests = false
	if b[0] == '\r' {
		if line, err := c.peek(2); err == nil && line[1] == '\n' {
			c.Skip(2)
		}
	}
	return c.peek(n)
}

func (c *conn) peek(n int) ([]byte, error) {
	b, err := c.hertzConn.Peek(n)
	if errors.Is(err, netpoll.ErrReadTimeout) {
		// Hertz answers this one with 408, and netpoll's as if the request were malformed.
		err = &net.OpError{Op: "read", Net: "tcp", Err: os.ErrDeadlineExceeded}
	}
	return b, err
}

// Flush sends an answer.
func (c *conn) Flush() error {
	defer c.answered()
	now := time.Now()
	c.since.Store(now.UnixNano())
	c.SetWriteDeadline(now.Add(c.connections.writeTimeout))
	return c.hertzConn.Flush()
}

// onAnswered has f called when the answer is sent, or can't be.
func (c *conn) onAnswered(f func()) { c.onAnswer = append(c.onAnswer, f) }

func (c *conn) answered() {
	for _, f := range c.onAnswer {
		f()
	}
	c.onAnswer = c.onAnswer[:0]
}
