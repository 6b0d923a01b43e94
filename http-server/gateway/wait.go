package gateway

import (
	"context"
	"errors"
	"math/rand/v2"
	"time"

	"github.com/cloudwego/hertz/pkg/app"

	"im/http-server/edge"
	"im/internal/gen/api"
	"im/internal/gen/rpc"
	"im/internal/member"
)

const (
	// maxWait is the longest wait: proxies give up after a minute. A longer one is served as
	// this.
	maxWait = 50 * time.Second
	// maxChat is the most bytes of a chat. The rpc-servers refuse what is longer, and are not to
	// remember it.
	maxChat = 2*member.MaxBytes + len(":")
	// maxLooks is how many of those who wait look again at a time.
	maxLooks = 256
)

// errWaiters is the error of a request that would wait, where too many do.
var errWaiters = errors.New("as many requests as MAX_WAITERS allows wait")

// checkWait returns the problem of a pull that asks for a wait which it cannot have.
func checkWait(req *api.PullRequest) error {
	switch {
	case req.Wait < 0:
		return badRequest("wait: must not be negative")
	case req.Wait > 0 && req.Reverse:
		return badRequest("wait: must not be given with reverse")
	}
	return nil
}

// isNews reports whether there is something to answer to a pull that waits: messages, or a
// chat that went back.
func isNews(req *api.PullRequest, resp *rpc.PullResponse) bool {
	return len(resp.Messages) > 0 || resp.GetTotal() < req.Cursor
}

// await looks at once, and again when there may be news, until there is some or the wait is
// over. The first look and the last one may fail, and then so does the wait.
func (g *Gateway) await(ctx context.Context, c *app.RequestContext, req *api.PullRequest, until time.Time) (*rpc.PullResponse, error) {
	if len(req.Chat) > maxChat {
		return g.look(ctx, req)
	}
	select {
	case g.waiters <- struct{}{}:
		defer func() { <-g.waiters }()
	default:
		return nil, errWaiters
	}
	over := time.NewTimer(min(time.Duration(req.Wait)*time.Second, maxWait))
	defer over.Stop()
	waiter := g.Backend.Wait(ctx, req.Chat)
	defer waiter.Close()
	resp, err := g.look(ctx, req)
	if err != nil || isNews(req, resp) {
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
	var turn chan<- struct{} // g.looks while a look is due: a chat may have many waiters
	for {
		select {
		case <-waiter.News():
			turn = g.looks
		case turn <- struct{}{}:
			turn = nil
			stored, hinted := waiter.Hint()
			next, err := g.look(ctx, req)
			<-g.looks
			if err != nil {
				waiter.Failed()
				continue
			}
			resp = next
			waiter.Saw(resp.GetTotal())
			if !isNews(req, resp) {
				continue
			}
			if hinted {
				g.metrics.waitDelivery.Observe(time.Since(stored).Seconds())
			}
			return resp, nil
		case <-over.C:
			return g.look(ctx, req)
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

// look pulls once.
func (g *Gateway) look(ctx context.Context, req *api.PullRequest) (*rpc.PullResponse, error) {
	resp, err := g.Backend.Pull(ctx, &rpc.PullRequest{
		Chat: req.Chat, Cursor: req.Cursor, Limit: req.Limit, Reverse: &req.Reverse, Total: &req.Total,
	})
	return resp, failure(resp, err)
}

// leaveWait returns how long a part of LEAVE_WAIT lasts from now, while the server stops.
func (g *Gateway) leaveWait(part float64) time.Duration {
	return time.Until(g.stopsAt().Add(-time.Duration((1 - part) * float64(g.LeaveWait))))
}
