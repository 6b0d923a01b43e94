package backend

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"sync"
	"sync/atomic"
	"time"

	"github.com/cloudwego/gopkg/concurrency/gopool"
	"github.com/cloudwego/kitex/client/callopt"
	"github.com/cloudwego/kitex/pkg/kerrors"

	"im/internal/gen/rpc"
)

const (
	// maxBatchCalls and maxBatchBytes bound the calls of a batch and the bytes of their
	// requests, so that it keeps neither an rpc-server nor its neighbours for long.
	maxBatchCalls = 64
	maxBatchBytes = 1 << 20
	// maxAttempts is how often a call is tried, each time at another rpc-server.
	maxAttempts = 3
)

var (
	// ErrLate is the error of a call that no rpc-server answered in time.
	ErrLate = errors.New("no answer in time")
	// ErrUnavailable is the error of a call for which no rpc-server was reached.
	ErrUnavailable = errors.New("no rpc-server was reached")
	// ErrOverload is the error of a call that was not made, since too many others are.
	ErrOverload = errors.New("as many calls as MAX_IN_FLIGHT allows are under way")
)

// response is what an rpc-server answers.
type response interface {
	GetCode() int32
	GetMsg() string
}

// batcher makes calls of one method, and lets those that are made at the same time share
// an RPC. A call waits in a queue until an rpc-server has room for a batch, which takes
// what is there then; nothing waits for more to come.
type batcher[Req any, Resp response] struct {
	method   method
	balancer *balancer
	metrics  *metrics
	budget   time.Duration // of a call, its time in the queue and its retries included
	maxQueue int           // calls
	// one makes a single call, many makes calls that share an RPC. Where all are large, many,
	// size and goesOn are nil.
	one  func(context.Context, Req, ...callopt.Option) (Resp, error)
	many func(context.Context, []Req, ...callopt.Option) ([]Resp, error)
	// size returns the bytes of a request, about.
	size func(Req) int
	// large reports whether a call would keep its neighbours waiting, and goesOn whether a
	// response of many says so: such a call is made by one.
	large  func(Req) bool
	goesOn func(Resp) bool

	mu        sync.Mutex
	queue     []*pending[Req, Resp]
	gathering bool // whether a batch is gathered: it takes what comes meanwhile
}

// pending is a call that waits for its outcome.
type pending[Req, Resp any] struct {
	req     Req
	began   time.Time
	late    time.Time            // when nobody waits for it any more
	outcome chan outcome[Resp]   // has room for one
	refused atomic.Pointer[Resp] // what the last attempt was answered with; nil is nothing
}

type outcome[Resp any] struct {
	resp Resp
	err  error // wraps ErrLate or ErrUnavailable
}

// do makes a call. Once the budget is used up it returns ErrLate or, where an attempt was
// answered with UNAVAILABLE, that answer, while the call goes on: what it was given must not
// change. The other errors are ErrUnavailable and ErrOverload.
func (b *batcher[Req, Resp]) do(ctx context.Context, req Req) (resp Resp, err error) {
	now := time.Now()
	c := &pending[Req, Resp]{req: req, began: now, late: now.Add(b.budget), outcome: make(chan outcome[Resp], 1)}
	late := time.NewTimer(b.budget)
	defer late.Stop()
	wait := func() outcome[Resp] {
		select {
		case o := <-c.outcome:
			return o
		case <-late.C:
		case <-ctx.Done():
		}
		if refused := c.refused.Load(); refused != nil {
			return outcome[Resp]{resp: *refused}
		}
		return outcome[Resp]{err: ErrLate}
	}
	var o outcome[Resp]
	alone := b.large(req)
	if !alone {
		if !b.add(c) {
			return resp, ErrOverload
		}
		o = wait()
		alone = o.err == nil && b.goesOn(o.resp)
	}
	if alone {
		go b.ask(b.balancer.next(b.method, nil), []*pending[Req, Resp]{c}, true)
		o = wait()
	}
	return o.resp, o.err
}

// add puts a call into the queue. It reports whether there was room.
func (b *batcher[Req, Resp]) add(c *pending[Req, Resp]) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	if len(b.queue) >= b.maxQueue {
		return false
	}
	b.queue = append(b.queue, c)
	b.begin()
	return true
}

// begin begins to gather a batch if calls wait. The caller must hold mu.
func (b *batcher[Req, Resp]) begin() {
	if len(b.queue) > 0 && !b.gathering {
		b.gathering = true
		gopool.Go(b.send) // whose goroutines have stacks that need not grow
	}
}

// send sends what has gathered once an rpc-server has room for it.
func (b *batcher[Req, Resp]) send() {
	to := b.balancer.reserve(b.method, nil)
	runtime.Gosched() // whoever is about to make a call does so first
	if calls := b.take(); len(calls) > 0 {
		b.ask(to, calls, false)
	} else if to != nil {
		b.balancer.release(b.method, nil, to)
	}
}

// take takes a batch from the queue, without the calls that nobody waits for any more.
func (b *batcher[Req, Resp]) take() []*pending[Req, Resp] {
	b.mu.Lock()
	defer b.mu.Unlock()
	now := time.Now()
	var calls []*pending[Req, Resp]
	n, bytes := 0, 0
	for ; n < len(b.queue) && len(calls) < maxBatchCalls; n++ {
		c := b.queue[n]
		if now.After(c.late) {
			continue
		}
		if bytes += b.size(c.req); bytes > maxBatchBytes && len(calls) > 0 {
			break
		}
		calls = append(calls, c)
		b.metrics.queueDuration.Observe(now.Sub(c.began).Seconds())
	}
	clear(b.queue[:n])
	b.queue = b.queue[n:]
	b.gathering = false
	b.begin()
	return calls
}

// ask makes calls at an rpc-server, in one RPC or, where they are alone, each in its own;
// nil is none that is known. Those that are unavailable there, or all if it was not
// reached, are tried again elsewhere together, which is safe since every send has a key.
func (b *batcher[Req, Resp]) ask(to *instance, calls []*pending[Req, Resp], alone bool) {
	var tried, refusing []*instance
	for attempt := 1; ; attempt++ {
		if to == nil {
			for _, c := range calls {
				c.outcome <- outcome[Resp]{err: fmt.Errorf("%w: none is known", ErrUnavailable)}
			}
			return
		}
		outcomes := b.attempt(to, calls, alone)
		if !alone {
			b.balancer.release(b.method, tried, to)
		}
		switch served, refused := judge(outcomes); {
		case served:
			b.balancer.servedBy(to, b.method)
			for _, i := range refusing {
				if i != to {
					b.balancer.refusedBy(i, b.method)
				}
			}
			refusing = nil
		case refused && b.many != nil: // a long list says nothing of the server
			refusing = append(refusing, to)
		}
		var again []*pending[Req, Resp]
		for i, o := range outcomes {
			if attempt < maxAttempts && (o.err != nil || o.resp.GetCode() == int32(rpc.Code_UNAVAILABLE)) && time.Now().Before(calls[i].late) {
				again = append(again, calls[i])
				if o.err == nil {
					calls[i].refused.Store(&o.resp)
				}
			} else {
				calls[i].outcome <- o
			}
		}
		if calls = again; len(calls) == 0 {
			return
		}
		if attempt == maxAttempts-1 {
			time.Sleep(b.budget / maxAttempts) // a master that stood still for a moment is back then
		}
		if tried = append(tried, to); alone {
			to = b.balancer.next(b.method, tried)
		} else {
			to = b.balancer.reserve(b.method, tried)
		}
	}
}

// judge reports whether an rpc-server served some of the calls with these outcomes; or whether
// it served none, and refused some though it had room.
func judge[Resp response](outcomes []outcome[Resp]) (served, refused bool) {
	for _, o := range outcomes {
		if o.err != nil {
			continue
		}
		switch rpc.Code(o.resp.GetCode()) {
		case rpc.Code_OK:
			served = true
		case rpc.Code_UNAVAILABLE:
			refused = refused || o.resp.GetMsg() != rpc.MSG_OVERLOAD
		}
	}
	return served, refused && !served
}

// attempt makes calls at an rpc-server and returns the outcome of each.
func (b *batcher[Req, Resp]) attempt(to *instance, calls []*pending[Req, Resp], alone bool) []outcome[Resp] {
	ctx := withInstance(to)
	outcomes := make([]outcome[Resp], len(calls))
	if alone || !to.batches {
		var all sync.WaitGroup
		for i, c := range calls {
			all.Go(func() {
				resp, err := b.one(ctx, c.req)
				outcomes[i] = outcome[Resp]{resp, b.balancer.observe(to, err)}
			})
		}
		all.Wait()
		return outcomes
	}
	b.metrics.batchCalls.Observe(float64(len(calls)))
	reqs := make([]Req, len(calls))
	for i, c := range calls {
		reqs[i] = c.req
	}
	resps, err := b.many(ctx, reqs)
	if err == nil && len(resps) != len(reqs) {
		err = fmt.Errorf("%d answers to %d calls", len(resps), len(reqs))
	}
	err = b.balancer.observe(to, err)
	for i := range outcomes {
		if outcomes[i].err = err; err == nil {
			outcomes[i].resp = resps[i]
		}
	}
	return outcomes
}

// transportError tells an rpc-server that gave no answer in time from one that was not
// reached. nil stays nil.
func transportError(err error) error {
	switch {
	case err == nil:
		return nil
	case errors.Is(err, kerrors.ErrRPCTimeout):
		return fmt.Errorf("%w: %w", ErrLate, err)
	}
	return fmt.Errorf("%w: %w", ErrUnavailable, err)
}
