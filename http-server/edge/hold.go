package edge

import (
	"errors"
	"math"
	"net"
	"time"

	"github.com/cloudwego/hertz/pkg/app"
	"github.com/cloudwego/hertz/pkg/network/standard"
)

// Hold has the connection of a request stay while its answer is held back: no other one takes
// its place, and it keeps no room in the buffers, as its body is read. left is closed when the client closes the connection, or its half of it. The
// caller must call release before it answers.
func Hold(c *app.RequestContext) (left <-chan struct{}, release func()) {
	conn := c.GetConn().(*conn)
	conn.answered()
	conn.since.Store(math.MaxInt64)
	stay := func() { conn.since.Store(time.Now().UnixNano()) }
	if conn.left != nil {
		return conn.left, stay
	}
	left, stop := conn.watch()
	return left, func() {
		stop()
		stay()
	}
}

// watch has Hertz read on to see whether the client leaves. It takes nothing of what it reads.
func (c *conn) watch() (left <-chan struct{}, stop func()) {
	gone := make(chan struct{})
	watched := standard.NewStatefulConn(c.hertzConn, func(err error) {
		if timeout := net.Error(nil); !errors.As(err, &timeout) || !timeout.Timeout() { // else it is stop
			close(gone)
		}
	})
	watched.DetectConnectionClose()
	return gone, watched.AbortBlockingRead
}
