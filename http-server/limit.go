package main

import (
	"container/list"
	"errors"
	"sync"
	"time"

	"github.com/cloudwego/hertz/pkg/app"
	"github.com/prometheus/client_golang/prometheus"
)

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
