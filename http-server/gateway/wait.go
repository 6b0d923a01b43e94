package gateway

import (
	"context"
	"errors"
	"math/rand/v2"
	"time"

	"github.com/cloudwego/hertz/pkg/app"

	"im/http-server/backend"
	"im/http-server/edge"
	"im/internal/member"
)

const (
	// maxWait is the longest wait: proxies give up after a minute. A longer one is served as
	// this.
	maxWait = 50 * time.Second
	// maxName is the most bytes of a chat. The rpc-servers refuse what is longer, and are not to
	// remember it.
	maxName = 2*member.MaxBytes + len(":")
	// maxLooks is how many of those who wait for news of a chat look again at a time. Those who
	// wait for a list look together with others, who are as few.
	maxLooks = 256
)

// errWaiters is the error of a request that would wait, where too many do.
var errWaiters = errors.New("as many requests as MAX_WAITERS allows wait")

// checkWait returns the problem of a request that asks for a wait which it cannot have: not
// where excluded is given, a field by that name.
func checkWait(wait int32, field string, excluded bool) error {
	switch {
	case wait < 0:
		return badRequest("wait: must not be negative")
	case wait > 0 && excluded:
		return badRequest("wait: must not be given with " + field)
	}
	return nil
}

// held is a request whose answer may be held back.
type held[Resp counted] struct {
	wait   int32  // seconds
	name   string // of the chat or the member
	waiter func(ctx context.Context, name string) *backend.Waiter
	look   func(ctx context.Context) (Resp, error)
	// again looks after something has happened; turns has an element for each look of this kind
	// that is under way.
	again  func(ctx context.Context) (Resp, error)
	turns  chan struct{}
	isNews func(Resp) bool // whether there is something to answer
}

// counted is an answer that tells how many messages there are.
type counted interface{ GetTotal() int64 }

// await looks at once, and again when there may be news, until there is some or the wait is
// over. The first look and the last one may fail, and then so does the wait.
func await[Resp counted](ctx context.Context, g *Gateway, c *app.RequestContext, h held[Resp], until time.Time) (resp Resp, err error) {
	if h.wait == 0 || len(h.name) > maxName {
		return h.look(ctx)
	}
	select {
	case g.waiters <- struct{}{}:
		defer func() { <-g.waiters }()
	default:
		return resp, errWaiters
	}
	over := time.NewTimer(min(time.Duration(h.wait)*time.Second, maxWait))
	defer over.Stop()
	waiter := h.waiter(ctx, h.name)
	defer waiter.Close()
	resp, err = h.look(ctx)
	if err != nil || h.isNews(resp) {
		return resp, err
	}
	waiter.Saw(resp.GetTotal())

	defer g.metrics.wait(c)()
	defer func() {
		if g.Stopping.Err() != nil {
			c.SetConnectionClose()
		}
	}()
	left, release := edge.Hold(c)
	defer release()
	var tokenEnds, leave <-chan time.Time
	if !until.IsZero() {
		tokenEnds = time.After(time.Until(until))
	}
	stopping := g.Stopping.Done()
	if g.Stopping.Err() != nil {
		stopping, leave = nil, time.After(g.leaveWait(1))
	}
	type outcome struct {
		resp Resp
		err  error
	}
	news, looked := waiter.News(), make(chan outcome, 1)
	var turn chan<- struct{} // while a look is due: a chat may have many waiters
	var stored time.Time
	var hinted bool
	for {
		select {
		case <-news:
			news, turn = nil, h.turns
		case turn <- struct{}{}:
			turn = nil
			stored, hinted = waiter.Hint()
			go func() {
				resp, err := h.again(ctx)
				<-h.turns
				looked <- outcome{resp, err}
			}()
		case next := <-looked:
			news = waiter.News()
			if next.err != nil {
				waiter.Failed()
				continue
			}
			resp = next.resp
			waiter.Saw(resp.GetTotal())
			if !h.isNews(resp) {
				continue
			}
			if hinted {
				g.metrics.waitDelivery.Observe(time.Since(stored).Seconds())
			}
			return resp, nil
		case <-over.C:
			return h.look(ctx)
		case <-stopping:
			stopping, leave = nil, time.After(g.leaveWait(rand.Float64()))
		case <-leave:
			return resp, nil
		case <-tokenEnds:
			return resp, nil
		case <-left:
			c.SetConnectionClose()
			return resp, nil // to nobody
		}
	}
}

// leaveWait returns how long a part of LEAVE_WAIT lasts from now, while the server stops.
func (g *Gateway) leaveWait(part float64) time.Duration {
	return time.Until(g.stopsAt().Add(-time.Duration((1 - part) * float64(g.LeaveWait))))
}
