package backend

import (
	"context"
	"log/slog"
	"maps"
	"math/rand/v2"
	"slices"
	"time"

	"github.com/cloudwego/kitex/client"
	"github.com/cloudwego/kitex/client/callopt/streamcall"
	"github.com/cloudwego/kitex/pkg/remote/trans/ttstream"
	"github.com/cloudwego/kitex/pkg/streaming"

	"im/internal/etcd"
	"im/internal/gen/rpc"
	"im/internal/gen/rpc/imservice"
)

const (
	// silence is how long an rpc-server may say nothing on its stream, on which a heartbeat
	// comes each second.
	silence = 3 * time.Second
	// reopen is the pause before a stream that ended is opened again, give or take a half.
	reopen = time.Second
)

// stream is one that is open to an rpc-server. The mu of waits guards it.
type stream struct {
	changes map[string]bool // what the rpc-server is yet to be told: whether a name is waited for
	version int64           // of that
	heard   int64           // version that it has heard of; negative until it has said anything
	whole   int64           // the first version that it can have heard of, which is that of everything
	wake    chan struct{}   // has an element where there is something to tell
}

// change has the rpc-server told that names are waited for, or are not. The caller must hold
// the mu of waits.
func (s *stream) change(version int64, waitedFor bool, names ...string) {
	s.version = version
	for _, name := range names {
		s.changes[name] = waitedFor
	}
	select {
	case s.wake <- struct{}{}:
	default:
	}
}

// streams keeps a stream open to each rpc-server that gives hints.
type streams struct {
	waits    *waits
	balancer *balancer
	kitex    imservice.Client
}

// newStreams returns streams whose client has nothing in common with that of the calls: there,
// an attempt has a time-out.
func newStreams(w *waits, b *balancer) (*streams, error) {
	kitex, err := imservice.NewClient(etcd.Service,
		// A connection for each stream: an rpc-server that stops would wait for one that is kept.
		client.WithTTHeaderStreamingOptions(client.WithTTHeaderStreamingTransportOptions(ttstream.WithClientShortConnPool())),
		client.WithStreamOptions(client.WithStreamRecvTimeoutConfig(streaming.TimeoutConfig{Timeout: silence})),
	)
	return &streams{w, b, kitex}, err
}

// keep opens streams to the rpc-servers that are known until ctx ends.
func (s *streams) keep(ctx context.Context) {
	kept, ended := map[string]bool{}, make(chan string)
	for {
		for _, address := range s.balancer.listeners() {
			if kept[address] {
				continue
			}
			kept[address] = true
			go func() {
				s.follow(ctx, address)
				select {
				case ended <- address:
				case <-ctx.Done():
				}
			}()
		}
		select {
		case <-ctx.Done():
			return
		case address := <-ended:
			delete(kept, address)
		case <-time.After(refresh):
		}
	}
}

// follow keeps a stream open to an rpc-server for as long as it is known.
func (s *streams) follow(ctx context.Context, address string) {
	for ctx.Err() == nil && slices.Contains(s.balancer.listeners(), address) {
		err := s.listen(ctx, address)
		slog.Debug("the stream of an rpc-server has ended", "address", address, "err", err)
		select {
		case <-ctx.Done():
		case <-time.After(reopen/2 + rand.N(reopen)):
		}
	}
}

// listen hears what an rpc-server has to tell until the stream ends.
func (s *streams) listen(ctx context.Context, address string) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	remote, err := s.kitex.Listen(ctx, streamcall.WithHostPort(address))
	if err != nil {
		return err
	}
	own := s.waits.open(address)
	defer s.waits.close(address, own)
	// Where the rpc-server takes nothing any more, Recv may wait for Send, and Send for ever.
	mute := time.AfterFunc(silence+time.Second, func() { s.waits.close(address, own) })
	defer mute.Stop()
	go func() {
		defer cancel()
		for {
			select {
			case <-own.wake:
			case <-ctx.Done():
				return
			}
			if err := remote.Send(ctx, s.waits.take(own)); err != nil {
				return
			}
		}
	}()
	for told := false; ; {
		hints, err := remote.Recv(ctx)
		if err != nil {
			return err
		}
		mute.Reset(silence + time.Second)
		if !told && hints.Version >= own.whole {
			told = true
			s.waits.lookAgain(s.waits.names())
		}
		s.waits.hear(own, hints)
	}
}

// open opens the stream of an rpc-server, which is yet to be told of everything.
func (w *waits) open(address string) *stream {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.version++ // so that its answer tells that it has heard of everything
	s := &stream{changes: map[string]bool{}, heard: -1, whole: w.version, wake: make(chan struct{}, 1)}
	s.change(w.version, true, slices.Collect(maps.Keys(w.interests))...)
	w.streams[address] = s
	return s
}

// close closes a stream of an rpc-server, unless it was before. What it did not tell any more is
// counted soon.
func (w *waits) close(address string, s *stream) {
	names := w.names()
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.streams[address] != s {
		return
	}
	delete(w.streams, address)
	w.announce()
	w.again(names...)
}

// listensTo reports whether the stream of an rpc-server is open, and it has heard of everything
// that is waited for.
func (w *waits) listensTo(address string) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	s := w.streams[address]
	return s != nil && s.heard >= s.whole
}

// take returns what an rpc-server is yet to be told.
func (w *waits) take(s *stream) *rpc.Interest {
	w.mu.Lock()
	defer w.mu.Unlock()
	i := &rpc.Interest{Version: s.version}
	for name, waitedFor := range s.changes {
		if waitedFor {
			i.Added = append(i.Added, name)
		} else {
			i.Removed = append(i.Removed, name)
		}
	}
	clear(s.changes)
	return i
}

// hear takes what an rpc-server tells.
func (w *waits) hear(s *stream, h *rpc.Hints) {
	w.mu.Lock()
	if h.Version > s.heard {
		s.heard = h.Version
		w.announce()
	}
	w.mu.Unlock()
	for _, hint := range h.Hints {
		w.hinted(hint.Room, hint.Time)
	}
}
