package edge

import (
	"errors"
	"net"
	"time"

	"github.com/cloudwego/hertz/pkg/app"
	"github.com/cloudwego/hertz/pkg/network"
	"github.com/cloudwego/hertz/pkg/network/standard"
)

// maxAhead is how many bytes a client may send while its answer is held back: its next request.
// One that sends more is taken to have left.
const maxAhead = 1 << 10

var errTooMuch = errors.New("the client sends more than there is room for")

// Hold has the connection of a request stay while its answer is held back: no other one takes
// its place, and it keeps no room in the buffers, as its body is read. left is closed when the
// client closes the connection, or its half of it. The caller must call release before it
// answers.
func Hold(c *app.RequestContext) (left <-chan struct{}, release func()) {
	conn := c.GetConn().(*conn)
	conn.answered()
	conn.connections.hold(conn)
	if conn.left != nil {
		return conn.left, func() { conn.connections.release(conn) }
	}
	left, stop := conn.watch()
	return left, func() {
		stop()
		conn.connections.release(conn)
	}
}

// hold holds a connection that is open.
func (s *Connections) hold(c *conn) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if _, open := s.open[c]; !open {
		return
	}
	delete(s.open, c)
	s.held[c] = struct{}{}
	if !s.inspecting {
		s.inspecting = true
		time.AfterFunc(gracePeriod, s.inspect)
	}
}

// inspect has those leave that send too much: netpoll reads whatever comes. It goes on for as
// long as any are held.
func (s *Connections) inspect() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for c := range s.held {
		if c.left != nil && c.Len() > maxAhead {
			c.leave()
		}
	}
	if s.inspecting = len(s.held) > 0; s.inspecting {
		time.AfterFunc(gracePeriod, s.inspect)
	}
}

// release has one that is held be like any other.
func (s *Connections) release(c *conn) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if _, held := s.held[c]; !held {
		return
	}
	delete(s.held, c)
	c.since.Store(time.Now().UnixNano())
	s.open[c] = struct{}{}
}

// watch has Hertz read on to see whether the client leaves. It takes nothing of what it reads.
func (c *conn) watch() (left <-chan struct{}, stop func()) {
	gone := make(chan struct{})
	watched := standard.NewStatefulConn(reader{c.hertzConn}, func(err error) {
		if timeout := net.Error(nil); !errors.As(err, &timeout) || !timeout.Timeout() { // else it is stop
			close(gone)
		}
	})
	watched.DetectConnectionClose()
	return gone, watched.AbortBlockingRead
}

// reader reads on after the byte that Hertz waits for: behind it, the client may leave.
type reader struct{ network.Conn }

func (r reader) Peek(n int) ([]byte, error) {
	for ; n <= maxAhead; n = r.Len() + 1 {
		if _, err := r.Conn.Peek(n); err != nil {
			return nil, err
		}
	}
	return nil, errTooMuch
}
