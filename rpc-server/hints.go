package main

import (
	"context"
	"io"
	"sync"
	"sync/atomic"
	"time"

	"im/internal/gen/rpc"
	"im/rpc-server/chat"
)

const (
	// heartbeat is how often a listener hears something.
	heartbeat = time.Second
	// maxPendingHints is how many rooms a listener may be yet to hear of. More are left out:
	// it is one that has stopped reading.
	maxPendingHints = 1 << 16
)

// hints tells gateways of what is stored, over the streams that they keep open. They may be
// lost: a gateway also looks by itself from time to time.
type hints struct {
	ctx context.Context // ends when all streams are to end

	mu        sync.RWMutex
	listeners map[string]map[*listener]struct{} // by what they wait for: the name of a room or of a member
	names     atomic.Int64                      // is len(listeners)
}

// errLeft is the end of a stream whose gateway has left. Kitex logs any other one as an error
// where the connection is broken.
var errLeft = io.EOF

// newHints returns hints whose streams end when ctx does.
func newHints(ctx context.Context) *hints {
	return &hints{ctx: ctx, listeners: map[string]map[*listener]struct{}{}}
}

// listener is the stream of a gateway.
type listener struct {
	names map[string]struct{} // what it waits for; hints.mu guards it

	mu      sync.Mutex
	pending map[string]int64 // send time of the first message yet to be told, by room
	version int64            // of its last Interest
	wake    chan struct{}    // has an element where there is something to tell
}

// tell has the listener hear of a message.
func (l *listener) tell(room string, time int64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if _, told := l.pending[room]; !told && len(l.pending) < maxPendingHints {
		l.pending[room] = time
		l.rouse()
	}
}

// rouse has what is pending sent. The caller must hold mu.
func (l *listener) rouse() {
	select {
	case l.wake <- struct{}{}:
	default:
	}
}

// take returns what is pending.
func (l *listener) take() *rpc.Hints {
	l.mu.Lock()
	defer l.mu.Unlock()
	h := &rpc.Hints{Hints: make([]*rpc.Hint, 0, len(l.pending)), Version: l.version}
	for room, time := range l.pending {
		h.Hints = append(h.Hints, &rpc.Hint{Room: room, Time: time})
	}
	clear(l.pending)
	return h
}

// stored tells who waits for the room, or for one of its members, that a message is stored.
func (h *hints) stored(room chat.Room, time int64) {
	if h.names.Load() == 0 {
		return
	}
	name := room.String()
	first, second := room.Members()
	h.mu.RLock()
	defer h.mu.RUnlock()
	for _, waitedFor := range []string{name, first, second} {
		for l := range h.listeners[waitedFor] {
			l.tell(name, time)
		}
	}
}

// listen serves the stream of a gateway until either side ends it.
func (h *hints) listen(ctx context.Context, stream rpc.IMService_ListenServer) error {
	l := &listener{names: map[string]struct{}{}, pending: map[string]int64{}, wake: make(chan struct{}, 1)}
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		defer h.remove(l)
		for {
			interest, err := stream.Recv(ctx)
			if err != nil {
				return
			}
			h.change(l, interest.Added, interest.Removed)
			l.mu.Lock()
			l.version = interest.Version
			l.rouse()
			l.mu.Unlock()
		}
	}()
	beat := time.NewTicker(heartbeat)
	defer beat.Stop()
	for {
		if err := stream.Send(ctx, l.take()); err != nil {
			return errLeft
		}
		select {
		case <-l.wake:
		case <-beat.C:
		case <-ended:
			return errLeft
		case <-h.ctx.Done():
			stream.Send(ctx, l.take()) // the last ones
			return nil
		}
	}
}

// change changes what a listener waits for.
func (h *hints) change(l *listener, added, removed []string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, name := range removed {
		h.forget(l, name)
	}
	for _, name := range added {
		l.names[name] = struct{}{}
		if h.listeners[name] == nil {
			h.listeners[name] = map[*listener]struct{}{}
		}
		h.listeners[name][l] = struct{}{}
	}
	h.names.Store(int64(len(h.listeners)))
}

// remove removes a listener.
func (h *hints) remove(l *listener) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for name := range l.names {
		h.forget(l, name)
	}
	h.names.Store(int64(len(h.listeners)))
}

// forget has a listener wait for a name no longer. The caller must hold mu.
func (h *hints) forget(l *listener, name string) {
	delete(l.names, name)
	delete(h.listeners[name], l)
	if len(h.listeners[name]) == 0 {
		delete(h.listeners, name)
	}
}
