package check

import (
	"context"
	"math/rand/v2"
	"sync"
	"time"
)

// poller follows its share of the chats forward, by next_cursor.
type poller struct {
	*run
	chats []int

	mu      sync.Mutex     // where it waits, each of its chats has a goroutine
	cursors map[int]int    // of each chat: where it asks next
	seen    map[int][]seen // of each chat: its messages, as they came
	back    int            // how often a chat was found shorter than it had been
}

// seen is a message at the position where a follower saw it.
type seen struct{ position, number int }

func newPoller(r *run, n int) *poller {
	p := &poller{run: r, cursors: map[int]int{}, seen: map[int][]seen{}}
	for chat := n; chat < r.Chats; chat += r.Pollers {
		p.chats = append(p.chats, chat)
	}
	return p
}

// follow polls until ctx ends. A chat that cannot be pulled is asked again in the next
// round: it keeps nobody from following the others.
func (p *poller) follow(ctx context.Context) {
	pull := func(q query) (page, error) { return p.pull(ctx, q) }
	if p.Wait > 0 {
		var all sync.WaitGroup
		for _, chat := range p.chats {
			all.Go(func() {
				for ctx.Err() == nil {
					began, before := time.Now(), p.cursor(chat)
					_, err := p.poll(chat, p.Wait, pull)
					nothing := err != nil || p.cursor(chat) == before
					if nothing && time.Since(began) < retryPause { // as servers that do not know wait
						sleep(ctx, retryPause)
					}
				}
			})
		}
		all.Wait()
		return
	}
	for ctx.Err() == nil {
		for _, chat := range p.chats {
			p.poll(chat, 0, pull)
			sleep(ctx, 5*time.Millisecond)
			if ctx.Err() != nil {
				return
			}
		}
	}
}

// sleep waits for d, or until ctx ends.
func sleep(ctx context.Context, d time.Duration) {
	select {
	case <-ctx.Done():
	case <-time.After(d):
	}
}

func (p *poller) cursor(chat int) int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.cursors[chat]
}

// poll asks for what follows in a chat, which may wait.
func (p *poller) poll(chat int, wait time.Duration, pull func(query) (page, error)) (more bool, err error) {
	cursor := p.cursor(chat)
	got, err := pull(query{chat: p.chat(chat), cursor: cursor, limit: 100, wait: int(wait.Seconds())})
	if err != nil {
		return false, err
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if got.Total < cursor {
		p.back++
	}
	for i, m := range got.Messages {
		p.seen[chat] = append(p.seen[chat], seen{cursor + i, numberOf(m.Text)})
	}
	p.polled.Add(int64(len(got.Messages)))
	p.cursors[chat] = got.NextCursor
	return got.HasMore, nil
}

// catchUp polls on to the end of each chat, as it is known now.
func (p *poller) catchUp(all [][]stored) {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	pull := func(q query) (page, error) { return p.pullServed(ctx, q) }
	for _, chat := range p.chats {
		for more := true; more && p.cursors[chat] < len(all[chat]); {
			more, _ = p.poll(chat, 0, pull)
		}
	}
}

// reader pages the newest messages of chats backward, counting from the total of
// the first page.
type reader struct {
	*run
	random *rand.Rand
	sweeps []sweep
}

// sweep is what a reader saw of a chat.
type sweep struct {
	chat, total int
	numbers     []int // from the newest on
}

// read sweeps chats until ctx ends. A sweep ends early where a page cannot be pulled.
func (r *reader) read(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-time.After(20 * time.Millisecond):
		}
		s := sweep{chat: r.random.IntN(r.Chats)}
		for more := true; more && len(s.numbers) < 60; {
			got, err := r.pull(ctx, query{chat: r.chat(s.chat), cursor: len(s.numbers), limit: 20, total: s.total, reverse: true})
			if err != nil {
				break
			}
			for _, m := range got.Messages {
				s.numbers = append(s.numbers, numberOf(m.Text))
			}
			s.total, more = got.Total, got.HasMore
		}
		r.sweeps = append(r.sweeps, s)
	}
}
