package main

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

// connections bounds those of clients, in number and in time. A client that is slow,
// or says nothing at all, is one that wants to hold what others need.
type connections struct {
	most         int
	readTimeout  time.Duration // of a request, from its first byte to its last
	writeTimeout time.Duration // of an answer
	closed       prometheus.Counter

	mu   sync.Mutex
	open map[*conn]struct{}
}

func newConnections(most int, readTimeout, writeTimeout time.Duration, closed prometheus.Counter) *connections {
	return &connections{most: most, readTimeout: readTimeout, writeTimeout: writeTimeout, closed: closed, open: map[*conn]struct{}{}}
}

// tolerance is how long a client has its place in any case. Whoever has waited, or been
// waited for, longer than that makes room for a new one where there is none.
const tolerance = time.Second

// sample is how many connections are looked at for one that has waited long, which is
// nearly as good as to look at all.
const sample = 16

func (s *connections) count() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.open)
}

// enter takes a new connection in, for which another one may have to go. It tells
// whether there was room.
func (s *connections) enter(c *conn) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.open) >= s.most {
		s.closed.Inc()
		longest, looked := time.Now().Add(-tolerance).UnixNano(), 0
		var goes *conn
		for other := range s.open { // in no order
			if since := other.since.Load(); since < longest {
				longest, goes = since, other
			}
			if looked++; looked == sample {
				break
			}
		}
		if goes == nil {
			return false
		}
		delete(s.open, goes)
		go goes.Close()
	}
	s.open[c] = struct{}{}
	return true
}

func (s *connections) leave(c *conn) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.open, c)
}

// transport makes Hertz's transport: netpoll's, or the standard library's where TLS is
// spoken, which netpoll cannot.
func (s *connections) transport(o *hertzconfig.Options) network.Transporter {
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
func (s *connections) accept(accepted net.Conn) context.Context {
	c := s.newConn(accepted.(*hertznetpoll.Conn))
	if !s.enter(c) {
		c.Close()
		return context.Background()
	}
	c.silence = time.AfterFunc(s.readTimeout, func() { c.Close() })
	accepted.(*hertznetpoll.Conn).Conn.(netpoll.Connection).AddCloseCallback(func(netpoll.Connection) error {
		c.silence.Stop()
		s.leave(c)
		return nil
	})
	return context.WithValue(context.Background(), connKey{}, c)
}

func (s *connections) serve(ctx context.Context, _ hertzConn, next network.OnData) error {
	c := ctx.Value(connKey{}).(*conn)
	c.silence.Stop()
	defer c.answered()
	c.SetReadTimeout(s.readTimeout)
	return next(ctx, c)
}

// serveTLS is called at once, and its connection ends when it returns.
func (s *connections) serveTLS(ctx context.Context, accepted hertzConn, next network.OnData) error {
	c := s.newConn(accepted)
	if !s.enter(c) {
		return c.Close()
	}
	defer s.leave(c)
	defer c.answered()
	c.SetReadTimeout(s.readTimeout) // of the handshake, too
	return next(ctx, c)
}

func (s *connections) newConn(accepted hertzConn) *conn {
	c := &conn{hertzConn: accepted, writeTimeout: s.writeTimeout}
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
	writeTimeout time.Duration
	since        atomic.Int64 // Unix nanoseconds: when it began what it does or waits for
	silence      *time.Timer  // closes it if no byte comes; with TLS, a deadline does
	onAnswer     []func()
}

// SetReadTimeout bounds all that is read from now on together. Netpoll's own would
// give each read the whole time: one that sends byte by byte would have no end.
func (c *conn) SetReadTimeout(d time.Duration) error {
	now := time.Now()
	c.since.Store(now.UnixNano())
	return c.SetReadDeadline(now.Add(d))
}

// Peek gives the next n bytes.
func (c *conn) Peek(n int) ([]byte, error) {
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
	c.SetWriteDeadline(now.Add(c.writeTimeout))
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
