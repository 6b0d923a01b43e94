package check

import (
	"context"
	"math/rand/v2"
	"time"
)

// poller follows its share of the chats forward, by next_cursor.
type poller struct {
	*run
	chats   []int
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
	for ctx.Err() == nil {
		for _, chat := range p.chats {
			p.poll(chat, p.pull)
			select {
			case <-ctx.Done():
				return
			case <-time.After(5 * time.Millisecond):
			}
		}
	}
}

// poll asks for what follows in a chat.
func (p *poller) poll(chat int, pull func(query) (page, error)) (more bool) {
	cursor := p.cursors[chat]
	got, err := pull(query{chat: p.chat(chat), cursor: cursor, limit: 100})
	if err != nil {
		return false
	}
	if got.Total < cursor {
		p.back++
	}
	for i, m := range got.Messages {
		p.seen[chat] = append(p.seen[chat], seen{cursor + i, numberOf(m.Text)})
	}
	p.polled.Add(int64(len(got.Messages)))
	p.cursors[chat] = got.NextCursor
	return got.HasMore
}

// catchUp polls on to the end of each chat, as it is known now.
func (p *poller) catchUp(all [][]stored) {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	pull := func(q query) (page, error) { return p.pullServed(ctx, q) }
	for _, chat := range p.chats {
		for p.cursors[chat] < len(all[chat]) && p.poll(chat, pull) {
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
			got, err := r.pull(query{chat: r.chat(s.chat), cursor: len(s.numbers), limit: 20, total: s.total, reverse: true})
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
