package backend

import (
	"context"
	"errors"
	"log/slog"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"im/internal/gen/rpc"
	"im/internal/member"
)

const (
	// heardTimeout is how long a waiter waits at most until the rpc-servers have heard of it.
	heardTimeout = 50 * time.Millisecond
	// A lost hint costs minCheck to maxCheck: so often what is waited for is counted.
	minCheck, maxCheck = 10 * time.Second, 15 * time.Second
	// recheck is the pause after which chats are counted again that could not be.
	recheck = time.Second
	// spread is the time over which all who wait look again.
	spread = time.Second
	// maxTotals is how many chats are counted in one call. They share pipelines with pulls.
	maxTotals = 256
	// maxMemberTotals is how many members' chats are: one has many.
	maxMemberTotals = 16
	// maxInterests is how many names the streams are told of before none stays that nobody
	// waits for.
	maxInterests = 1 << 16
)

// waits knows who waits for news of a room or a member, and has the rpc-servers' streams know
// it. Hints may be lost; so it also has what is waited for counted from time to time.
type waits struct {
	// totals counts the messages of chats, and of members, in their order: rpc.UNKNOWN_TOTAL where
	// that failed. The error is errNoTotals where no rpc-server can.
	totals  func(context.Context, []string) ([]int64, error)
	metrics *waitMetrics

	mu      sync.Mutex
	waiters map[string]map[*Waiter]struct{} // by the name of the room or of the member
	// interests are the names that the streams are told of. One stays for a while after its
	// last waiter, who mostly comes back.
	interests map[string]*interest
	version   int64               // counts changes of interests
	streams   map[string]*stream  // by address; those that are open
	heard     chan struct{}       // closed, and another one made, when a stream has heard of a version or ends
	uncounted map[string]struct{} // names that check is to count soon
	hurry     chan struct{}       // has an element where there are any
}

// errNoTotals is the error of a count where all rpc-servers are of a version that cannot.
var errNoTotals = errors.New("no rpc-server counts chats")

// interest is a name that the streams are told of.
type interest struct {
	version int64     // at which it was added
	idle    time.Time // since when nobody waits for it; zero while somebody does
}

// Waiter waits for news of one room, or of all rooms of a member.
type Waiter struct {
	waits *waits
	name  string
	news  chan struct{} // has an element where there may be news
	total atomic.Int64  // that it saw last
	hint  atomic.Int64  // send time of the message that the last hint was of, in microseconds; 0 is none
}

func newWaits(totals func(context.Context, []string) ([]int64, error)) *waits {
	return &waits{
		totals: totals, metrics: newWaitMetrics(), waiters: map[string]map[*Waiter]struct{}{}, interests: map[string]*interest{},
		streams: map[string]*stream{}, heard: make(chan struct{}), uncounted: map[string]struct{}{}, hurry: make(chan struct{}, 1),
	}
}

// Wait returns a Waiter for news of a chat. The rpc-servers have heard of it then, or there is
// news once they have: what is stored from then on has a hint, and what was stored before is
// there to be seen. The caller must look once, and must close the Waiter.
func (c *Client) Wait(ctx context.Context, chat string) *Waiter {
	first, second, _ := strings.Cut(chat, ":")
	return c.waits.add(ctx, member.Room(first, second))
}

func (w *waits) add(ctx context.Context, name string) *Waiter {
	waiter := &Waiter{waits: w, name: name, news: make(chan struct{}, 1)}
	waiter.total.Store(rpc.UNKNOWN_TOTAL)
	w.mu.Lock()
	if w.waiters[name] == nil {
		w.waiters[name] = map[*Waiter]struct{}{}
	}
	w.waiters[name][waiter] = struct{}{}
	i := w.interests[name]
	if i == nil {
		w.version++
		i = &interest{version: w.version}
		w.interests[name] = i
		for _, s := range w.streams {
			s.change(w.version, true, name)
		}
	}
	i.idle = time.Time{}
	w.mu.Unlock()
	if !w.awaitHeard(ctx, i.version, heardTimeout) {
		go func() {
			w.awaitHeard(context.WithoutCancel(ctx), i.version, silence)
			waiter.wake("stream")
		}()
	}
	return waiter
}

// awaitHeard waits until all rpc-servers whose streams are open have heard of a version, and
// reports whether they have in time.
func (w *waits) awaitHeard(ctx context.Context, version int64, timeout time.Duration) bool {
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	for ctx.Err() == nil {
		w.mu.Lock()
		all, heard := true, w.heard
		for _, s := range w.streams {
			all = all && (s.heard < 0 || s.heard >= version)
		}
		w.mu.Unlock()
		if all {
			return true
		}
		select {
		case <-heard:
		case <-ctx.Done():
		}
	}
	return false
}

// announce has awaitHeard look again. The caller must hold mu.
func (w *waits) announce() {
	close(w.heard)
	w.heard = make(chan struct{})
}

// News has an element where there may be news: the caller looks then.
func (w *Waiter) News() <-chan struct{} { return w.news }

// Hint returns when the message was stored that the last hint was of; ok is false where there
// was none since the last call.
func (w *Waiter) Hint() (stored time.Time, ok bool) {
	micros := w.hint.Swap(0)
	return time.UnixMicro(micros), micros != 0
}

// Saw takes how many messages the caller saw in all. Where that is not what is counted
// later, there is news.
func (w *Waiter) Saw(total int64) { w.total.Store(total) }

// Failed takes that the caller looked in vain. There is news as soon as the chat can be read.
func (w *Waiter) Failed() {
	w.Saw(rpc.UNKNOWN_TOTAL)
	w.waits.mu.Lock()
	defer w.waits.mu.Unlock()
	w.waits.again(w.name)
}

// Close ends the wait.
func (w *Waiter) Close() {
	w.waits.mu.Lock()
	defer w.waits.mu.Unlock()
	waiters := w.waits.waiters[w.name]
	delete(waiters, w)
	if len(waiters) > 0 {
		return
	}
	delete(w.waits.waiters, w.name)
	w.waits.interests[w.name].idle = time.Now()
	if len(w.waits.interests) > maxInterests {
		w.waits.remove(w.name)
	}
}

// wake has the waiter look.
func (w *Waiter) wake(cause string) {
	select {
	case w.news <- struct{}{}:
		w.waits.metrics.looks.WithLabelValues(cause).Inc()
	default:
	}
}

// hinted wakes who waits for a room, or for one of its members.
func (w *waits) hinted(room string, micros int64) {
	first, second, _ := strings.Cut(room, ":")
	names := []string{room, first, second}
	if first == second {
		names = names[:2]
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.metrics.hints.Inc()
	for _, name := range names {
		for waiter := range w.waiters[name] {
			waiter.hint.CompareAndSwap(0, micros)
			waiter.wake("hint")
		}
	}
}

// lookAgain wakes who waits for names, over the time spread.
func (w *waits) lookAgain(names []string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, name := range names {
		for waiter := range w.waiters[name] {
			time.AfterFunc(rand.N(spread), func() { waiter.wake("stream") })
		}
	}
}

// check counts what is waited for, again and again until ctx ends, and wakes who saw another
// total.
func (w *waits) check(ctx context.Context) {
	due := time.NewTimer(minCheck)
	for {
		select {
		case <-ctx.Done():
			return
		case <-due.C:
			due.Reset(minCheck + rand.N(maxCheck-minCheck))
			w.forget(time.Now().Add(-minCheck))
			w.count(ctx, w.names())
		case <-w.hurry:
			time.Sleep(recheck/2 + rand.N(recheck))
			w.count(ctx, w.takeUncounted())
		}
	}
}

// count counts what names have, and wakes who saw another total.
func (w *waits) count(ctx context.Context, names []string) {
	var rooms, members []string
	for _, name := range names {
		if isMember(name) {
			members = append(members, name)
		} else {
			rooms = append(rooms, name)
		}
	}
	for some := range slices.Chunk(rooms, maxTotals) {
		w.countTogether(ctx, some)
	}
	for some := range slices.Chunk(members, maxMemberTotals) {
		w.countTogether(ctx, some)
	}
}

func (w *waits) countTogether(ctx context.Context, names []string) {
	totals, err := w.totals(ctx, names)
	switch {
	case errors.Is(err, errNoTotals):
		w.lookAgain(names)
		return
	case err != nil:
		slog.Debug("chats that are waited for cannot be counted", "err", err)
		totals = slices.Repeat([]int64{rpc.UNKNOWN_TOTAL}, len(names))
	}
	w.metrics.counts.Add(float64(len(names)))
	w.compare(names, totals)
}

// isMember tells the name of a member from that of a room.
func isMember(name string) bool { return !strings.Contains(name, ":") }

// again has names counted soon. The caller must hold mu.
func (w *waits) again(names ...string) {
	for _, name := range names {
		w.uncounted[name] = struct{}{}
	}
	select {
	case w.hurry <- struct{}{}:
	default:
	}
}

// takeUncounted returns the names that are to be counted soon.
func (w *waits) takeUncounted() []string {
	w.mu.Lock()
	defer w.mu.Unlock()
	names := slices.Collect(maps.Keys(w.uncounted))
	clear(w.uncounted)
	return names
}

// names returns what is waited for.
func (w *waits) names() []string {
	w.mu.Lock()
	defer w.mu.Unlock()
	return slices.Collect(maps.Keys(w.waiters))
}

// compare wakes who saw another total than what is there now.
func (w *waits) compare(names []string, totals []int64) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for i, name := range names {
		if totals[i] == rpc.UNKNOWN_TOTAL && len(w.waiters[name]) > 0 {
			w.again(name)
			continue
		}
		for waiter := range w.waiters[name] {
			if waiter.total.Load() != totals[i] {
				waiter.wake("timer")
			}
		}
	}
}

// forget has the streams no longer tell of what nobody has waited for since before.
func (w *waits) forget(before time.Time) {
	w.mu.Lock()
	defer w.mu.Unlock()
	var idle []string
	for name, i := range w.interests {
		if !i.idle.IsZero() && i.idle.Before(before) {
			idle = append(idle, name)
		}
	}
	w.remove(idle...)
}

// remove has the streams no longer tell of names. The caller must hold mu.
func (w *waits) remove(names ...string) {
	if len(names) == 0 {
		return
	}
	for _, name := range names {
		delete(w.interests, name)
	}
	w.version++
	for _, s := range w.streams {
		s.change(w.version, false, names...)
	}
}

// waitMetrics are those of who waits.
type waitMetrics struct {
	hints, counts prometheus.Counter
	looks         *prometheus.CounterVec // by cause
}

func newWaitMetrics() *waitMetrics {
	return &waitMetrics{
		hints:  prometheus.NewCounter(prometheus.CounterOpts{Name: "rpc_client_hints_total", Help: "Hints of the rpc-servers that something was stored which is waited for."}),
		counts: prometheus.NewCounter(prometheus.CounterOpts{Name: "rpc_client_wait_counts_total", Help: "Chats and lists that the rpc-servers were asked to count for those who wait for their news."}),
		looks: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "rpc_client_wait_looks_total", Help: "Looks of those who wait, by cause: hint, timer, or stream where a new one was opened.",
		}, []string{"cause"}),
	}
}
