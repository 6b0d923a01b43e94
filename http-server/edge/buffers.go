package edge

import (
	"container/list"
	"errors"
	"sync"
	"time"

	"github.com/cloudwego/hertz/pkg/app"
)

// ThresholdBytes is the size up to which a body or an answer needs no room in the buffers.
const ThresholdBytes = 16 << 10

// ErrNoRoom is the error of a request for which there is no room.
var ErrNoRoom = errors.New("as many bytes as MAX_BUFFER_BYTES allows are held")

// Buffers bounds the memory of large bodies and answers. Where there is no room, the
// connection that has held some for longest, since its client reads or writes slowly, is
// closed. If none has for longer than the grace period, the new one is refused at once: to
// wait takes memory, too.
type Buffers struct {
	max int // bytes

	mu           sync.Mutex
	reserved     int       // bytes
	reservations list.List // of *reservation, the oldest in front
}

type reservation struct {
	*conn
	bytes int
	since time.Time
}

// NewBuffers returns a bound of max bytes.
func NewBuffers(max int) *Buffers { return &Buffers{max: max} }

// Reserved returns the bytes that are reserved.
func (b *Buffers) Reserved() int {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.reserved
}

// Reserve reserves n bytes until the request is answered in full. The error is ErrNoRoom.
func (b *Buffers) Reserve(c *app.RequestContext, n int) error {
	if n <= ThresholdBytes {
		return nil
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	for b.reserved+n > b.max {
		oldest := b.reservations.Front()
		if oldest == nil || time.Since(oldest.Value.(*reservation).since) < gracePeriod {
			return ErrNoRoom
		}
		go oldest.Value.(*reservation).Close()
		b.release(oldest)
	}
	r := &reservation{c.GetConn().(*conn), n, time.Now()}
	e := b.reservations.PushBack(r)
	b.reserved += n
	r.onAnswered(func() {
		b.mu.Lock()
		defer b.mu.Unlock()
		b.release(e)
	})
	return nil
}

// release releases a reservation, unless it was before. The caller must hold mu.
func (b *Buffers) release(e *list.Element) {
	if r := e.Value.(*reservation); r.bytes > 0 {
		b.reservations.Remove(e)
		b.reserved -= r.bytes
		r.bytes = 0
	}
}
