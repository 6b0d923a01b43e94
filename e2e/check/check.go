// Package check tells whether a system keeps its promises: it sends numbered
// messages, follows them while they are sent, pulls all of them back, and
// compares what it was told with what is there.
package check

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	mathrand "math/rand/v2"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

// Options say how a run goes.
type Options struct {
	// URLs are the base URLs of the gateways. One of them is asked, until it accepts
	// no connection or closes one; then the next is.
	URLs []string
	// Dials is how many connections a request tries to open, one after the other, while
	// they are refused; 0 is one for each URL.
	Dials int
	// Unkept has each request open a connection of its own.
	Unkept bool

	Duration time.Duration // of sending
	Chats    int           // that the messages are spread over
	// Fresh is over how many more chats half of the messages are spread, which nobody follows:
	// where there are many, nearly each is the first of its chat.
	Fresh   int
	Writers int // that send, each one message at a time, where Rate is 0
	// Rate is how many messages are sent a second, whether or not answers come; 0
	// sends as fast as the writers can.
	Rate int
	// Patience is how long a message with a key is sent again after a failure; 0 is
	// not at all.
	Patience time.Duration
	Repeats  int // of a hundred acknowledged messages with a key, how many are sent again
	Pollers  int // that follow the chats forward, each its share of them
	// Wait is how long a poller's pull waits for news, in whole seconds; with 0 it asks again
	// and again.
	Wait    time.Duration
	Readers int    // that page chats backward
	Seed    uint64 // of what is chosen at random: chats, keys, repeats

	// Progress is told how it goes, a line a second; nil is not.
	Progress io.Writer
	// Observe is called with each request once it has ended, by several goroutines at a
	// time; nil is not.
	Observe func(Request)
}

const (
	// retryPause is how long a request that failed waits before it is made again.
	retryPause = 100 * time.Millisecond
	// repeatPause is how long after its acknowledgement a message is sent again:
	// long enough for others to stand behind it.
	repeatPause = 700 * time.Millisecond
	// patience is how long the system may take to serve again, once the time for
	// sending is over.
	patience = 30 * time.Second
)

// message is one that was sent, by its number, which its text tells.
type message struct {
	chat    int
	key     string // empty without one
	began   time.Time
	acked   time.Time // zero if it never was
	refused bool
}

// Request is one that the checker made.
type Request struct {
	At     time.Time // when it ended
	Took   time.Duration
	Call   string // "send", "pull" or, of a pull that waits, "wait"
	Chat   string
	Status int    // 0 for a broken connection
	News   bool   // whether a wait gave messages, or said that the chat went back
	Err    string `json:",omitempty"`
}

// run is a check under way.
type run struct {
	Options
	client client
	name   string // of this run: no other has chats with it

	mu       sync.Mutex
	messages []*message
	failures []Request

	acked, again, polled atomic.Int64
	lastAck              atomic.Int64 // Unix nanoseconds
	longestPause         atomic.Int64 // nanoseconds
	repeats              sync.WaitGroup
}

// Run sends and follows messages for the duration, or until ctx ends, and then
// pulls everything back. The error is a system that does not give it back.
func Run(ctx context.Context, o Options) (*Report, error) {
	r := &run{Options: o, client: newClient(o), name: strings.ToLower(rand.Text()[:8])}
	began := time.Now()
	r.lastAck.Store(began.UnixNano())
	sending, stop := context.WithTimeout(ctx, o.Duration)
	defer stop()
	following, unfollow := context.WithCancel(context.Background())
	defer unfollow()

	var followers sync.WaitGroup
	pollers := make([]*poller, o.Pollers)
	for i := range pollers {
		pollers[i] = newPoller(r, i)
		followers.Go(func() { pollers[i].follow(following) })
	}
	readers := make([]*reader, o.Readers)
	for i := range readers {
		readers[i] = &reader{run: r, random: r.random(uint64(1000 + i))}
		followers.Go(func() { readers[i].read(following) })
	}
	go r.tell(sending, began)
	r.send(sending)
	took := time.Since(began)

	stored, err := r.pullAll()
	unfollow()
	followers.Wait()
	if err != nil {
		return nil, err
	}
	lists, err := r.listAll()
	if err != nil {
		return nil, err
	}
	for _, p := range pollers {
		p.catchUp(stored)
	}
	report := r.compare(stored, pollers, readers)
	r.compareLists(lists, report)
	report.Began, report.Took = began, took
	return report, nil
}

func (r *run) random(stream uint64) *mathrand.Rand {
	return mathrand.New(mathrand.NewPCG(r.Seed, stream))
}

// hubs is how many members have several chats: the second one of each chat is one of them.
const hubs = 4

// member is one of the two that talk in a chat.
func (r *run) member(chat int, second bool) string {
	if second {
		return fmt.Sprintf("check-%s-hub-%d", r.name, chat%hubs)
	}
	return fmt.Sprintf("check-%s-%d", r.name, chat)
}

func (r *run) chat(n int) string { return r.member(n, false) + ":" + r.member(n, true) }

// send sends until ctx ends, and returns when all answers are there.
func (r *run) send(ctx context.Context) {
	var senders sync.WaitGroup
	defer func() {
		senders.Wait()
		r.pause(time.Now()) // one that lasts to the end counts too
		r.repeats.Wait()
	}()
	if r.Rate == 0 {
		for w := range r.Writers {
			random := r.random(uint64(w))
			senders.Go(func() {
				for ctx.Err() == nil {
					r.sendOne(r.choose(random))
				}
			})
		}
		return
	}
	random := r.random(0)
	began := time.Now()
	for n := 0; ; n++ {
		select {
		case <-ctx.Done():
			return
		case <-time.After(time.Until(began.Add(time.Duration(n) * time.Second / time.Duration(r.Rate)))):
		}
		number, again := r.choose(random)
		senders.Go(func() { r.sendOne(number, again) })
	}
}

// choose makes the next message: every second has a key, and some of those are
// sent again after they were acknowledged.
func (r *run) choose(random *mathrand.Rand) (number int, again bool) {
	m := &message{chat: random.IntN(r.Chats)}
	if r.Fresh > 0 && random.IntN(2) == 0 {
		m.chat = r.Chats + random.IntN(r.Fresh)
	}
	if random.IntN(2) == 0 {
		m.key = rand.Text()
		again = random.IntN(100) < r.Repeats
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.messages = append(r.messages, m)
	return len(r.messages) - 1, again
}

// sendOne sends a message; one with a key again and again until it is
// acknowledged or refused.
func (r *run) sendOne(number int, again bool) {
	r.mu.Lock()
	m := r.messages[number]
	r.mu.Unlock()
	m.began = time.Now()
	for m.acked.IsZero() && !m.refused {
		switch status := r.post(number, m); {
		case status == http.StatusOK:
			m.acked = time.Now()
			r.acked.Add(1)
			r.pause(m.acked)
		case status >= 400 && status < 500:
			m.refused = true
		case m.key == "" || time.Since(m.began) >= r.Patience:
			return // it may be stored or not
		default:
			time.Sleep(retryPause)
		}
	}
	if again && !m.refused {
		r.again.Add(1)
		r.repeats.Go(func() {
			time.Sleep(repeatPause)
			r.post(number, m)
		})
	}
}

// post sends a message once, notes a failure, and gives the status: 0 for a broken
// connection.
func (r *run) post(number int, m *message) int {
	began := time.Now()
	status, err := r.client.send(r.chat(m.chat), text(number), r.member(m.chat, number%2 == 1), m.key)
	r.note(Request{Call: "send", Chat: r.chat(m.chat), Status: status}, began, err)
	return status
}

// note tells of a request that has ended, and keeps it if it failed.
func (r *run) note(req Request, began time.Time, err error) {
	req.At, req.Took = time.Now(), time.Since(began)
	if err != nil {
		req.Err = err.Error()
	}
	if r.Observe != nil {
		r.Observe(req)
	}
	if err == nil && req.Status < 500 {
		return
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.failures = append(r.failures, req)
}

// pause notes how long nothing was acknowledged before now.
func (r *run) pause(now time.Time) {
	pause := now.UnixNano() - r.lastAck.Swap(now.UnixNano())
	for {
		longest := r.longestPause.Load()
		if pause <= longest || r.longestPause.CompareAndSwap(longest, pause) {
			return
		}
	}
}

// text tells a message's number, numberOf reads it: -1 where there is none.
func text(number int) string { return "message " + strconv.Itoa(number) }

func numberOf(s string) int {
	digits, found := strings.CutPrefix(s, "message ")
	number, err := strconv.Atoi(digits)
	if !found || err != nil {
		return -1
	}
	return number
}

// errRefused is the error of a request that is answered with 4xx.
var errRefused = errors.New("refused")

// pull pulls a page once. It fails where ctx ends.
func (r *run) pull(ctx context.Context, q query) (page, error) {
	began := time.Now()
	p, status, err := r.client.pull(ctx, q)
	if ctx.Err() != nil { // the checker gave up, for which nobody is to blame
		return page{}, ctx.Err()
	}
	req := Request{Call: "pull", Chat: q.chat, Status: status}
	if q.wait > 0 {
		req.Call, req.News = "wait", len(p.Messages) > 0 || status == http.StatusOK && p.Total < q.cursor
	}
	r.note(req, began, err)
	switch {
	case err != nil:
		return page{}, fmt.Errorf("pulling %s: %w", q.chat, err)
	case status >= 500:
		return page{}, fmt.Errorf("pulling %s: %d", q.chat, status)
	case status != http.StatusOK:
		return page{}, fmt.Errorf("pulling %s: %w: %d", q.chat, errRefused, status)
	}
	return p, nil
}

// pullServed pulls a page, again and again until it is served or refused, or ctx ends.
func (r *run) pullServed(ctx context.Context, q query) (page, error) {
	for {
		p, err := r.pull(ctx, q)
		if err == nil || errors.Is(err, errRefused) {
			return p, err
		}
		select {
		case <-ctx.Done():
			return page{}, err
		case <-time.After(retryPause):
		}
	}
}

// pullAll gives the numbers of all messages of each chat, in order.
func (r *run) pullAll() ([][]stored, error) {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	all := make([][]stored, r.Chats+r.Fresh)
	for chat := range all {
		for more := true; more; {
			p, err := r.pullServed(ctx, query{chat: r.chat(chat), cursor: len(all[chat]), limit: 1000})
			if err != nil {
				return nil, err
			}
			if more = p.HasMore; more && len(p.Messages) == 0 {
				return nil, fmt.Errorf("%s: has_more with an empty page at %d", r.chat(chat), len(all[chat]))
			}
			for _, m := range p.Messages {
				all[chat] = append(all[chat], stored{numberOf(m.Text), m.SendTime})
			}
		}
	}
	return all, nil
}

// stored is a message as it is found in the end.
type stored struct {
	number int
	time   int64 // Unix seconds
}

// tell says how it goes until ctx ends.
func (r *run) tell(ctx context.Context, began time.Time) {
	if r.Progress == nil {
		return
	}
	for {
		select {
		case <-ctx.Done():
			return
		case <-time.After(time.Second):
		}
		r.mu.Lock()
		sent, failed := len(r.messages), len(r.failures)
		r.mu.Unlock()
		fmt.Fprintf(r.Progress, "%4.0f s  sent %d  acknowledged %d  polled %d  failed requests %d\n",
			time.Since(began).Seconds(), sent, r.acked.Load(), r.polled.Load(), failed)
	}
}
