package check

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"time"
)

// listed is a chat in a member's list, beside what is there when the list is read.
type listed struct {
	member string
	// name, total and unread are those of the list, last is the number of its newest message.
	name         string
	total        int
	unread, last int
	time         int64
}

// list is what /api/chats answers.
type list struct {
	Chats []struct {
		Chat   string
		Total  int
		Unread int
		Last   struct {
			Text     string
			SendTime int64 `json:"send_time"`
		}
	}
	HasMore    bool `json:"has_more"`
	NextCursor int  `json:"next_cursor"`
	Total      int
}

// memberList is the whole list of a member.
type memberList struct {
	chats []listed
	total int
}

// errNoLists is the error of a system that knows no lists.
var errNoLists = errors.New("the system has no lists")

// listAll gives the list of each member, by name; nil where the system knows no lists.
func (r *run) listAll() (map[string]memberList, error) {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	all := map[string]memberList{}
	for chat := range r.Chats + r.Fresh {
		for _, second := range []bool{false, true} {
			member := r.member(chat, second)
			if _, known := all[member]; known {
				continue
			}
			l, err := r.listServed(ctx, member)
			if errors.Is(err, errNoLists) {
				return nil, nil
			}
			if err != nil {
				return nil, err
			}
			all[member] = l
		}
	}
	return all, nil
}

// listServed reads the list of a member, again and again until it is served, or ctx ends.
func (r *run) listServed(ctx context.Context, member string) (memberList, error) {
	for {
		l, err := r.listOnce(ctx, member)
		if err == nil || errors.Is(err, errNoLists) || errors.Is(err, errRefused) {
			return l, err
		}
		select {
		case <-ctx.Done():
			return memberList{}, err
		case <-time.After(retryPause):
		}
	}
}

func (r *run) listOnce(ctx context.Context, member string) (all memberList, err error) {
	for cursor, more := 0, true; more; {
		began := time.Now()
		l, status, err := r.client.list(ctx, member, cursor)
		if status == http.StatusNotFound {
			return memberList{}, errNoLists
		}
		r.note(Request{Call: "chats", Chat: member, Status: status}, began, err)
		switch {
		case err != nil:
			return memberList{}, fmt.Errorf("listing the chats of %s: %w", member, err)
		case status >= 500:
			return memberList{}, fmt.Errorf("listing the chats of %s: %d", member, status)
		case status != http.StatusOK:
			return memberList{}, fmt.Errorf("listing the chats of %s: %w: %d", member, errRefused, status)
		}
		for _, c := range l.Chats {
			all.chats = append(all.chats, listed{member, c.Chat, c.Total, c.Unread, numberOf(c.Last.Text), c.Last.SendTime})
		}
		all.total, cursor, more = l.Total, l.NextCursor, l.HasMore
	}
	return all, nil
}

// compareLists reports where a list is not what the chats say. They were pulled before, so a
// message may be in the list that was stored later; none may be missing.
func (r *run) compareLists(lists map[string]memberList, report *Report) {
	if lists == nil {
		return
	}
	wrong := func(format string, args ...any) {
		report.WrongLists = append(report.WrongLists, fmt.Sprintf(format, args...))
	}
	report.Lists = len(lists)
	for member, l := range lists {
		found, sum := map[string]listed{}, 0
		for i, c := range l.chats {
			found[c.name] = c
			sum += c.total
			if i > 0 && c.time > l.chats[i-1].time {
				wrong("%s: %s stands behind an older chat", member, c.name)
			}
		}
		if sum != l.total {
			wrong("%s: the total is %d, that of the chats %d", member, l.total, sum)
		}
		want := 0
		for chat := range r.Chats + r.Fresh {
			there := report.stored[chat]
			if len(there) == 0 || member != r.member(chat, false) && member != r.member(chat, true) {
				continue
			}
			want++
			c, ok := found[r.chat(chat)]
			if !ok {
				wrong("%s: %s is missing", member, r.chat(chat))
				continue
			}
			if c.total > len(there) {
				continue // what is the newest one, nobody knows
			}
			if c.total < len(there) {
				wrong("%s: %s has %d messages, not %d", member, c.name, c.total, len(there))
				continue
			}
			if newest := there[len(there)-1]; c.last != newest.number {
				wrong("%s: %s ends with message %d, not %d", member, c.name, c.last, newest.number)
			}
			if unread := r.unread(there, member == r.member(chat, true)); c.unread != unread {
				wrong("%s: %s has %d unread, not %d", member, c.name, c.unread, unread)
			}
		}
		if len(l.chats) < want {
			wrong("%s: has %d chats, fewer than %d", member, len(l.chats), want)
		}
	}
}

// unread counts the messages behind a member's own last one, up to 100. Nobody reads in a check.
func (r *run) unread(there []stored, second bool) int {
	for n := range min(len(there), 100) {
		if number := there[len(there)-1-n].number; number%2 == 1 == second {
			return n
		}
	}
	return min(len(there), 100)
}
