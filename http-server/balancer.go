package main

import (
	"context"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/cloudwego/kitex/pkg/discovery"
	"github.com/cloudwego/kitex/pkg/endpoint"
	"github.com/cloudwego/kitex/pkg/loadbalance"
	"github.com/cloudwego/kitex/pkg/rpcinfo"
	"github.com/cloudwego/kitex/pkg/rpcinfo/remoteinfo"
	"github.com/prometheus/client_golang/prometheus"
)

const (
	// patience is how many attempts in a row may fail in transport before an
	// rpc-server is set aside.
	patience = 3
	// aside is how long that is; then a single call tries it.
	aside = time.Second
	// turn is how many calls in a row an rpc-server gets. Those that are under way at
	// a time share system calls, here and there, and pipelines to Redis.
	turn = 16
)

// balancer gives calls to the rpc-servers in turn. One that was set aside, or
// that this call just tried, gets none while there is another.
type balancer struct {
	calls    atomic.Uint64
	records  sync.Map               // of address, *record
	attempts *prometheus.CounterVec // by outcome
	answered prometheus.Counter     // of attempts
	failed   prometheus.Counter     // of attempts
}

func newBalancer() *balancer {
	b := &balancer{attempts: prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "rpc_client_attempts_total", Help: "Attempts at an rpc-server: a call takes up to three.",
	}, []string{"outcome"})}
	b.answered, b.failed = b.attempts.WithLabelValues("answered"), b.attempts.WithLabelValues("failed")
	return b
}

func (b *balancer) Name() string { return "in-turn" }

func (b *balancer) GetPicker(known discovery.Result) loadbalance.Picker {
	return picker{b, known.Instances}
}

// Rebalance forgets the instances that are gone.
func (b *balancer) Rebalance(change discovery.Change) {
	for _, gone := range change.Removed {
		b.records.Delete(gone.Address().String())
	}
}

// Delete is there for loadbalance.Rebalancer.
func (b *balancer) Delete(discovery.Change) {}

func (b *balancer) record(address string) *record {
	r, ok := b.records.Load(address)
	if !ok {
		r, _ = b.records.LoadOrStore(address, new(record))
	}
	return r.(*record)
}

// observe is the middleware that tells each instance's record how it did.
func (b *balancer) observe(next endpoint.Endpoint) endpoint.Endpoint {
	return func(ctx context.Context, req, resp any) error {
		err := next(ctx, req, resp)
		if err == nil {
			b.answered.Inc()
		} else {
			b.failed.Inc()
		}
		address := rpcinfo.GetRPCInfo(ctx).To().Address().String()
		b.record(address).add(address, err)
		return err
	}
}

// picker chooses for one call.
type picker struct {
	b     *balancer
	known []discovery.Instance
}

// Next is nil where no instance is known.
func (p picker) Next(ctx context.Context, _ any) discovery.Instance {
	if len(p.known) == 0 {
		return nil
	}
	tried := justTried(ctx)
	first := p.b.calls.Add(1) / turn
	choice := p.known[first%uint64(len(p.known))]
	for i := range uint64(len(p.known)) {
		instance := p.known[(first+i)%uint64(len(p.known))]
		address := instance.Address().String()
		if address == tried {
			continue
		}
		if p.b.record(address).open() {
			return instance
		}
		if choice.Address().String() == tried {
			choice = instance
		}
	}
	return choice
}

// justTried is the address that the call failed at last, empty for a new call.
func justTried(ctx context.Context) string {
	to := remoteinfo.AsRemoteInfo(rpcinfo.GetRPCInfo(ctx).To())
	if instance := to.GetInstance(); instance != nil { // in this attempt
		return instance.Address().String()
	}
	address, _ := to.Tag(rpcinfo.RetryPrevInstTag) // in the attempt before
	return address
}

// record is how an instance did of late.
type record struct {
	failures atomic.Int64 // in a row
	closed   atomic.Int64 // until when it is set aside, in Unix nanoseconds
	last     atomic.Pointer[failure]
}

// failure is an attempt that failed in transport.
type failure struct {
	At    time.Time `json:"at"`
	Error string    `json:"error"`
}

// health is what /readyz tells of an instance.
type health struct {
	Address  string   `json:"address"`
	SetAside bool     `json:"set_aside"`
	Failure  *failure `json:"last_failure"` // null is none
}

func (r *record) health(address string) health {
	return health{address, r.failures.Load() >= patience, r.last.Load()}
}

// open tells whether the instance may have a call. Of those that ask when the
// time of one set aside is over, the first may.
func (r *record) open() bool {
	if r.failures.Load() < patience {
		return true
	}
	now, closed := time.Now(), r.closed.Load()
	return now.UnixNano() >= closed && r.closed.CompareAndSwap(closed, now.Add(aside).UnixNano())
}

// add takes the outcome of an attempt; err is one of transport.
func (r *record) add(address string, err error) {
	if err == nil {
		if r.failures.Load() > 0 && r.failures.Swap(0) >= patience {
			slog.Info("an rpc-server answers again", "address", address)
		}
		return
	}
	now := time.Now()
	r.last.Store(&failure{now, err.Error()})
	r.closed.Store(now.Add(aside).UnixNano())
	if r.failures.Add(1) == patience {
		slog.Warn("an rpc-server is set aside", "address", address, "err", err)
	}
}
