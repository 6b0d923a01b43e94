package backend

import (
	"cmp"
	"context"
	"sync"
	"time"

	"im/internal/gen/rpc"
	"im/internal/member"
)

const (
	// listPause is the time from one look at a member's list to the next one at least, for all
	// who wait for it; longListPause is that where it has more than longList chats, so that
	// one whose chats get many messages costs a bounded share of Redis.
	listPause, longListPause = 100 * time.Millisecond, time.Second
	longList                 = 1000
	// defaultListed is how many chats are asked for where the limit is 0.
	defaultListed = 10
	// maxLists is how many members' lists are looked at at a time.
	maxLists = 64
)

// lists has all who wait for news of a member's list look at it together.
type lists struct {
	read func(context.Context, *rpc.ChatsRequest) (*rpc.ChatsResponse, error)

	slots chan struct{} // has an element for each look that is under way

	mu       sync.Mutex
	byMember map[string]*list // by folded name; those that are read, or were a moment ago
}

// list is one that is read again and again while there are looks.
type list struct {
	next *look // which is yet to begin; nil is none
}

// look is one at a list, that several wait for.
type look struct {
	name  string // of the member, as one of them wrote it: a folded one may be too long
	limit int    // the highest that is asked for
	done  chan struct{}
	resp  *rpc.ChatsResponse
	err   error
}

func newLists(read func(context.Context, *rpc.ChatsRequest) (*rpc.ChatsResponse, error)) *lists {
	return &lists{read: read, slots: make(chan struct{}, maxLists), byMember: map[string]*list{}}
}

// WaitList returns a Waiter for news of any chat of a member, as Wait does for a chat.
func (c *Client) WaitList(ctx context.Context, name string) *Waiter {
	return c.waits.add(ctx, member.Fold(name))
}

// SharedChats makes a call, as Chats does, from cursor 0 on. Those that are made at the same time
// for a member, or one shortly after the other, share it: it begins after this one.
func (c *Client) SharedChats(ctx context.Context, req *rpc.ChatsRequest) (*rpc.ChatsResponse, error) {
	limit := int(cmp.Or(req.Limit, defaultListed))
	l := c.lists.join(req.Member, limit)
	select {
	case <-l.done:
	case <-ctx.Done():
		return nil, ErrLate
	}
	if l.err != nil || len(l.resp.Chats) <= limit {
		return l.resp, l.err
	}
	cut := *l.resp
	cut.Chats, cut.HasMore, cut.NextCursor = cut.Chats[:limit], new(true), new(int64(limit))
	return &cut, nil
}

// join returns a look that begins from now on.
func (s *lists) join(name string, limit int) *look {
	folded := member.Fold(name)
	s.mu.Lock()
	defer s.mu.Unlock()
	l := s.byMember[folded]
	if l == nil {
		l = &list{}
		s.byMember[folded] = l
		go s.look(folded, l)
	}
	if l.next == nil {
		l.next = &look{name: name, done: make(chan struct{})}
	}
	l.next.limit = max(l.next.limit, limit)
	return l.next
}

// look reads a member's list for as long as anybody asks for it.
func (s *lists) look(folded string, l *list) {
	for {
		s.slots <- struct{}{}
		s.mu.Lock()
		next := l.next
		if l.next = nil; next == nil {
			delete(s.byMember, folded)
		}
		s.mu.Unlock()
		if next == nil {
			<-s.slots
			return
		}
		began, pause := time.Now(), listPause
		next.resp, next.err = s.read(context.Background(), &rpc.ChatsRequest{Member: next.name, Limit: int32(next.limit)})
		<-s.slots
		close(next.done)
		if next.err == nil && next.resp.GetCount() > longList {
			pause = longListPause
		}
		time.Sleep(time.Until(began.Add(pause)))
	}
}
