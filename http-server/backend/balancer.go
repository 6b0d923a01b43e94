package backend

import (
	"log/slog"
	"slices"
	"sync"
	"time"

	"github.com/cloudwego/kitex/pkg/discovery"
	"github.com/prometheus/client_golang/prometheus"

	"im/internal/gen/rpc"
)

const (
	// consecutiveFailures is how many attempts in a row may fail in transport before an
	// rpc-server is ejected, and how many batches in a row it may refuse.
	consecutiveFailures = 3
	// ejectionTime is the pause between two probes of one that is ejected, and how long one
	// must have refused all batches to be ejected: others may have noticed a moment sooner
	// that a Redis master is back.
	ejectionTime = time.Second
	// maxBatches is how many batches of a method may be under way to an rpc-server, and as
	// many more that are tried again. Fewer and larger ones cost less; with a single one,
	// nothing is on its way while Redis flushes its file.
	maxBatches = 2
)

// method is what is called.
type method int

const (
	methodSend method = iota
	methodPull
	methodChats
	methodRead
	methods // is how many there are
)

func (m method) String() string { return [methods]string{"Send", "Pull", "Chats", "Read"}[m] }

// balancer gives batches to the rpc-servers round robin. One that is ejected, or at which
// these calls were tried before, gets none while there is another.
type balancer struct {
	probe func(*instance) error // asks an rpc-server for a sign of life

	mu      sync.Mutex
	changed sync.Cond // broadcast where a batch that waits may find room
	asked   bool      // whether etcd was asked, with whatever outcome
	known   []*instance
	turn    int // place in known of the next one

	attempts *prometheus.CounterVec // by outcome
	answered prometheus.Counter     // of attempts
	failed   prometheus.Counter     // of attempts
}

// instance is an rpc-server, and how it did of late.
type instance struct {
	discovery.Instance
	batches bool // whether it serves SendMany and PullMany
	hints   bool // whether it serves Listen and Totals
	chats   bool // whether it serves Chats and Read, and Totals of members

	// The balancer's mu guards these.
	inFlight [methods][2]int // batches that are tried for the first time, and again
	failures int             // in a row
	ejected  bool
	refused  [methods]refusals
	refusing bool     // whether it gets no batch for now, for them
	probed   bool     // whether revive runs
	last     *failure // nil is none
}

// refusals are batches in a row that an instance refused while another one served them. It
// refuses a batch if it serves no call of it, and answers some with UNAVAILABLE though it has
// room.
type refusals struct {
	batches int
	since   time.Time // of the first one
	ejected bool      // whether the instance was ejected for them
}

// failure is an attempt that failed in transport.
type failure struct {
	At    time.Time `json:"at"`
	Error string    `json:"error"`
}

// health is what /readyz tells of an instance.
type health struct {
	Address string   `json:"address"`
	Ejected bool     `json:"set_aside"`
	Failure *failure `json:"last_failure"` // null is none
}

func newBalancer(probe func(*instance) error) *balancer {
	b := &balancer{probe: probe, attempts: prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "rpc_client_attempts_total", Help: "Attempts at an rpc-server by a batch of calls, or by a call alone: up to three each.",
	}, []string{"outcome"})}
	b.changed.L = &b.mu
	b.answered, b.failed = b.attempts.WithLabelValues("answered"), b.attempts.WithLabelValues("failed")
	return b
}

// update takes what etcd knows; nil is nothing. What is known of an instance that stays
// is kept.
func (b *balancer) update(found []discovery.Instance) {
	b.mu.Lock()
	defer b.mu.Unlock()
	before := map[string]*instance{}
	for _, i := range b.known {
		before[i.Address().String()] = i
	}
	b.asked, b.known = true, nil
	for _, f := range found {
		_, batches := f.Tag(rpc.TAG_BATCHES)
		_, hints := f.Tag(rpc.TAG_HINTS)
		_, chats := f.Tag(rpc.TAG_CHATS)
		i := before[f.Address().String()]
		if i == nil || i.batches != batches || i.hints != hints || i.chats != chats {
			i = &instance{Instance: f, batches: batches, hints: hints, chats: chats}
		}
		b.known = append(b.known, i)
	}
	b.changed.Broadcast()
}

// reserve waits until an rpc-server has room for a batch of a method, and returns it: nil
// if none is known. A batch goes to one at which it was not tried yet if there is one. Those
// that are tried again have room of their own: while a Redis master is down there are many,
// and they must not keep the calls for other masters waiting. The caller must release it.
func (b *balancer) reserve(m method, tried []*instance) *instance {
	b.mu.Lock()
	defer b.mu.Unlock()
	for {
		i := b.choose(always, tried, func(i *instance) bool { return *i.batchesOf(m, tried) < maxBatches })
		if i != nil {
			*i.batchesOf(m, tried)++
			return i
		}
		if b.asked && len(b.known) == 0 {
			return nil
		}
		b.changed.Wait()
	}
}

// release gives back the room that a batch had by the same arguments of reserve.
func (b *balancer) release(m method, tried []*instance, i *instance) {
	b.mu.Lock()
	defer b.mu.Unlock()
	*i.batchesOf(m, tried)--
	b.changed.Broadcast()
}

func (i *instance) batchesOf(m method, tried []*instance) *int {
	return &i.inFlight[m][min(1, len(tried))]
}

// next returns an rpc-server for a call of a method alone, which needs no room: nil if none is
// known that serves it.
func (b *balancer) next(m method, tried []*instance) *instance {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.choose(func(i *instance) bool { return i.chats || m == methodSend || m == methodPull }, tried, always)
}

// counting returns an rpc-server that counts chats and, if so, those of members: nil if none is
// known.
func (b *balancer) counting(members bool) *instance {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.choose(func(i *instance) bool { return i.hints && (i.chats || !members) }, nil, always)
}

func always(*instance) bool { return true }

// choose returns the next of the best instances that serve what is asked for and have room; nil
// if none has. The caller must hold mu.
func (b *balancer) choose(serves func(*instance) bool, tried []*instance, room func(*instance) bool) *instance {
	const well, ejected, known, none = 0, 1, 2, 3
	rank := func(i *instance) int {
		switch {
		case !serves(i):
			return none
		case slices.Contains(tried, i):
			return known
		case i.ejected || i.refusing:
			return ejected
		}
		return well
	}
	best := known
	for _, i := range b.known {
		best = min(best, rank(i))
	}
	for n := range b.known {
		at := (b.turn + n) % len(b.known)
		if i := b.known[at]; rank(i) == best && room(i) {
			b.turn = at + 1
			return i
		}
	}
	return nil
}

// listeners returns the addresses of the rpc-servers that give hints.
func (b *balancer) listeners() []string {
	b.mu.Lock()
	defer b.mu.Unlock()
	var all []string
	for _, i := range b.known {
		if i.hints {
			all = append(all, i.Address().String())
		}
	}
	return all
}

// observe takes the outcome of an attempt, and returns err as the caller is told it.
func (b *balancer) observe(i *instance, err error) error {
	address := i.Address().String()
	b.mu.Lock()
	defer b.mu.Unlock()
	if err == nil {
		b.answered.Inc()
		i.failures = 0
		if i.ejected {
			i.ejected = false
			b.changed.Broadcast()
			slog.Info("an rpc-server answers again", "address", address)
		}
		return nil
	}
	b.failed.Inc()
	i.failures++
	i.last = &failure{time.Now(), err.Error()}
	if i.failures >= consecutiveFailures && !i.ejected {
		i.ejected = true
		b.changed.Broadcast()
		slog.Warn("an rpc-server is ejected", "address", address, "err", err)
		if !i.probed {
			i.probed = true
			go b.revive(i)
		}
	}
	return transportError(err)
}

// refusedBy takes that an instance refused a batch that another one served. It is ejected if it
// goes on so. No probe would show whether it serves again: after ejectionTime it gets a batch.
func (b *balancer) refusedBy(i *instance, m method) {
	b.mu.Lock()
	defer b.mu.Unlock()
	r := &i.refused[m]
	if r.batches++; r.batches == 1 {
		r.since = time.Now()
	}
	if i.refusing || r.batches < consecutiveFailures || time.Since(r.since) < ejectionTime {
		return
	}
	i.refusing = true
	b.changed.Broadcast()
	time.AfterFunc(ejectionTime, func() {
		b.mu.Lock()
		defer b.mu.Unlock()
		i.refusing = false
		b.changed.Broadcast()
	})
	i.last = &failure{time.Now(), "UNAVAILABLE, while another rpc-server served the same calls"}
	if !r.ejected {
		r.ejected = true
		slog.Warn("an rpc-server is ejected, since it refuses what others serve", "address", i.Address().String())
	}
}

// servedBy takes that an instance served calls of a method.
func (b *balancer) servedBy(i *instance, m method) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if i.refused[m].ejected {
		slog.Info("an rpc-server serves again", "address", i.Address().String())
	}
	i.refused[m] = refusals{}
}

// revive probes an instance for as long as it is ejected and known.
func (b *balancer) revive(i *instance) {
	for {
		time.Sleep(ejectionTime)
		b.mu.Lock()
		i.probed = i.ejected && slices.Contains(b.known, i)
		probed := i.probed
		b.mu.Unlock()
		if !probed {
			return
		}
		b.observe(i, b.probe(i))
	}
}

// instances returns how each rpc-server that is known does.
func (b *balancer) instances() []health {
	b.mu.Lock()
	defer b.mu.Unlock()
	var all []health
	for _, i := range b.known {
		ejected := i.ejected || slices.ContainsFunc(i.refused[:], func(r refusals) bool { return r.ejected })
		all = append(all, health{i.Address().String(), ejected, i.last})
	}
	return all
}
