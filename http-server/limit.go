package main

import (
	"container/list"
	"context"
	"errors"
	"sync"
	"time"

	"github.com/cloudwego/hertz/pkg/app"
	"github.com/cloudwego/kitex/client/callopt"
	"github.com/prometheus/client_golang/prometheus"

	"im/http-server/kitex_gen/rpc"
	"im/http-server/kitex_gen/rpc/imservice"
)

var errOverload = errors.New("as many calls as MAX_IN_FLIGHT allows are under way")

// limited is a client with at most so many calls under way as it has slots. Any more
// fail at once, so that those keep their speed. A request whose body is yet to come
// has no slot: many slow ones would leave none to others.
type limited struct {
	imservice.Client
	slots chan struct{}
	shed  prometheus.Counter
}

func (l limited) Send(ctx context.Context, req *rpc.SendRequest, options ...callopt.Option) (*rpc.SendResponse, error) {
	if !l.enter() {
		return nil, errOverload
	}
	defer l.leave()
	return l.Client.Send(ctx, req, options...)
}

func (l limited) Pull(ctx context.Context, req *rpc.PullRequest, options ...callopt.Option) (*rpc.PullResponse, error) {
	if !l.enter() {
		return nil, errOverload
	}
	defer l.leave()
	return l.Client.Pull(ctx, req, options...)
}

func (l limited) enter() bool {
	select {
	case l.slots <- struct{}{}:
		return true
	default:
		l.shed.Inc()
		return false
	}
}

func (l limited) leave() { <-l.slots }

// smallBytes is how large a body or an answer may be that needs no room in the buffers.
const smallBytes = 16 << 10

// buffers bounds the memory of large bodies and answers: they may have so many bytes
// together. Where there is no room, whoever has had it longest, as he reads or writes
// slowly, loses his connection; if that is not long, the new one is refused at once, as
// to wait takes memory, too.
type buffers struct {
	most int
	shed prometheus.Counter

	mu      sync.Mutex
	held    int
	holders list.List // of *holder, the one that began first in front
}

type holder struct {
	*conn
	bytes int
	since time.Time
}

var errNoRoom = errors.New("as many bytes as MAX_BUFFER_BYTES allows are held")

// take takes room for n bytes, until the request is answered in full. The error is a
// problem.
func (b *buffers) take(c *app.RequestContext, n int) error {
	if n <= smallBytes {
		return nil
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	for b.held+n > b.most {
		longest := b.holders.Front()
		if longest == nil || time.Since(longest.Value.(*holder).since) < tolerance {
			b.shed.Inc()
			return unavailable(errNoRoom)
		}
		go longest.Value.(*holder).Close()
		b.drop(longest)
	}
	own := b.holders.PushBack(&holder{c.GetConn().(*conn), n, time.Now()})
	b.held += n
	own.Value.(*holder).onAnswered(func() {
		b.mu.Lock()
		defer b.mu.Unlock()
		b.drop(own)
	})
	return nil
}

// drop takes an element off the holders, where it still is one of them.
func (b *buffers) drop(e *list.Element) {
	if h := e.Value.(*holder); h.bytes > 0 {
		b.holders.Remove(e)
		b.held -= h.bytes
		h.bytes = 0
	}
}
