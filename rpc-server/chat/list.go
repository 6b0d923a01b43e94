package chat

import (
	"cmp"
	"context"
	_ "embed"
	"fmt"
	"slices"
	"strconv"

	"github.com/redis/go-redis/v9"

	"im/internal/member"
)

const (
	// longList is of how many chats a list is at most that anybody may have read at any time.
	longList = 1000
	// lastTogether is how many newest messages are read at a time.
	lastTogether = 16
	// newestTogether is of how many rooms one Redis tells the newest message's time in a call.
	newestTogether = 16
	// unreadChunk is of how many messages the senders are looked at in a call.
	unreadChunk = 16
	// beginningBytes has the id and the sender of any message, in any escaping.
	beginningBytes = len(`{"id":"","sender":""`) + 2*128 + 2*member.MaxBytes
)

//go:embed newest.lua
var newestLua string

//go:embed beginnings.lua
var beginningsLua string

//go:embed read.lua
var readLua string

var (
	newestScript     = newScript(newestLua)
	beginningsScript = newScript(beginningsLua)
	readScript       = newScript(readLua)
)

// errWentBack is why Redis is unavailable that lost what was there a moment ago.
var errWentBack = fmt.Errorf("%w: a chat went back while it was read", ErrUnavailable)

func (m Member) marksKey() string { return "read:" + m.name }

// Total counts the messages in all chats of a member.
func (s *Store) Total(ctx context.Context, m Member) (int64, error) {
	ctx, cancel := s.deadline(ctx)
	defer cancel()
	rooms, release, err := s.inbox(ctx, m)
	if err != nil {
		return 0, err
	}
	defer release()
	total := int64(0)
	for _, count := range s.totals(ctx, s.pages.runApart, rooms) {
		if count.Err != nil {
			return 0, count.Err
		}
		total += count.Value
	}
	return total, nil
}

// Chats reads some of a member's chats, those in which somebody wrote. The error is as that of
// Page.
func (s *Store) Chats(ctx context.Context, q ListQuery) (List, error) {
	ctx, cancel := s.deadline(ctx)
	defer cancel()
	rooms, release, err := s.inbox(ctx, q.member)
	if err != nil {
		return List{}, err
	}
	defer release()
	all, total, err := s.ordered(ctx, rooms)
	if err != nil {
		return List{}, err
	}
	page := all[min(q.cursor, int64(len(all))):]
	page = page[:min(q.limit, int64(len(page)))]
	if page, err = s.newest(ctx, page); err != nil {
		return List{}, err
	}
	if err := s.marks(ctx, q.member, page); err != nil {
		return List{}, err
	}
	if err := s.unread(ctx, q.member, page); err != nil {
		return List{}, err
	}
	l := List{Chats: make([]Listed, len(page)), NextCursor: q.cursor + int64(len(page)), Total: total, Count: int64(len(all))}
	l.HasMore = l.NextCursor < l.Count
	for i, c := range page {
		l.Chats[i] = c.Listed
	}
	return l, nil
}

// listed is a chat of a list that is being read.
type listed struct {
	Listed
	name string  // of the room
	time float64 // of the newest message
}

// inbox returns the rooms in a member's inbox. Where there are many, it waits for its turn; the
// caller must release it.
func (s *Store) inbox(ctx context.Context, m Member) (rooms []Room, release func(), err error) {
	inbox := newPlainCommand(redis.NewStringSliceCmd, "smembers", m.inboxKey())
	if err := s.runAll(ctx, []*command{inbox}); err != nil {
		return nil, nil, err
	}
	for _, name := range inbox.Cmder.(*redis.StringSliceCmd).Val() {
		if room, err := ParseFoldedRoom(name); err == nil && room.has(m.name) { // else it is foreign
			rooms = append(rooms, room)
		}
	}
	if len(rooms) <= longList {
		return rooms, func() {}, nil
	}
	select {
	case s.large <- struct{}{}:
		return rooms, func() { <-s.large }, nil
	case <-ctx.Done():
		return nil, nil, s.failure(ctx, ctx.Err())
	}
}

// runAll runs commands, and returns the error of one that failed.
func (s *Store) runAll(ctx context.Context, commands []*command) error {
	for _, err := range s.pages.runApart(ctx, commands) {
		if err != nil {
			return s.failure(ctx, err)
		}
	}
	return nil
}

// ordered returns those of rooms that have messages, the one with the newest message first, equal
// times by the room's name, and how many messages all have. Whatever is read later is of the
// messages that were counted: what comes meanwhile is in none of it.
func (s *Store) ordered(ctx context.Context, rooms []Room) (chats []listed, total int64, err error) {
	together := newestTogether
	if s.pages.several() {
		together = 1 // rooms lie in different slots
	}
	var commands []*command
	for some := range slices.Chunk(rooms, together) {
		commands = append(commands, newCommandOf(redis.NewStringSliceCmd, newestScript, some))
	}
	if err := s.runAll(ctx, commands); err != nil {
		return nil, 0, err
	}
	for i, r := range rooms {
		reply := commands[i/together].Cmder.(*redis.StringSliceCmd).Val()[2*(i%together):]
		count, err := strconv.ParseInt(reply[0], 10, 64)
		if err != nil {
			return nil, 0, err
		}
		if count == 0 {
			continue
		}
		chat := listed{Listed: Listed{Room: r, Total: count}, name: r.String()}
		if chat.time, err = strconv.ParseFloat(reply[1], 64); err != nil {
			return nil, 0, err
		}
		chats, total = append(chats, chat), total+count
	}
	slices.SortFunc(chats, func(a, b listed) int {
		return cmp.Or(cmp.Compare(b.time, a.time), cmp.Compare(a.name, b.name))
	})
	return chats, total, nil
}

// newest reads the newest message of each chat. It ends, after the first at the earliest,
// before these have more than MaxPageBytes.
func (s *Store) newest(ctx context.Context, chats []listed) ([]listed, error) {
	size, read := 0, 0
	for some := range slices.Chunk(chats, lastTogether) {
		commands := make([]*command, len(some))
		for i, c := range some {
			commands[i] = newPlainCommand(redis.NewZSliceCmd, "zrange", c.Room.key(), c.Total-1, c.Total-1, "withscores")
		}
		if err := s.runAll(ctx, commands); err != nil {
			return nil, err
		}
		for i, c := range commands {
			found := c.Cmder.(*redis.ZSliceCmd).Val()
			if len(found) == 0 {
				return nil, errWentBack
			}
			message := found[0].Member.(string)
			if size += len(message); size > MaxPageBytes && read > 0 {
				return chats[:read], nil
			}
			last, err := newEntry(message, found[0].Score)
			if err != nil {
				return nil, err
			}
			some[i].Last = last
			read++
		}
	}
	return chats, nil
}

// marks reads how far the member has read each chat.
func (s *Store) marks(ctx context.Context, m Member, chats []listed) error {
	if len(chats) == 0 {
		return nil
	}
	names := make([]any, len(chats))
	for i, c := range chats {
		names[i] = c.name
	}
	marks := newPlainCommand(redis.NewSliceCmd, "hmget", m.marksKey(), names...)
	if err := s.runAll(ctx, []*command{marks}); err != nil {
		return err
	}
	for i, mark := range marks.Cmder.(*redis.SliceCmd).Val() {
		text, ok := mark.(string)
		if !ok {
			continue // none
		}
		read, err := strconv.ParseInt(text, 10, 64)
		if err != nil {
			return ErrCorrupt
		}
		chats[i].Read = min(read, chats[i].Total)
	}
	return nil
}

// unread counts what is unread in each chat, the newest message first.
func (s *Store) unread(ctx context.Context, m Member, chats []listed) error {
	next := make([]int64, len(chats)) // the position after those that are yet to be looked at
	for i, c := range chats {
		next[i] = c.Total
	}
	for {
		var commands []*command
		var places []int
		for i, c := range chats {
			if first := max(c.Read, next[i]-unreadChunk); first < next[i] {
				commands = append(commands, newCommand(redis.NewStringSliceCmd, beginningsScript, c.Room.key(), first, next[i]-1, beginningBytes))
				places, next[i] = append(places, i), first
			}
		}
		if len(commands) == 0 {
			return nil
		}
		if err := s.runAll(ctx, commands); err != nil {
			return err
		}
		for n, i := range places {
			ended, err := chats[i].count(m, commands[n].Cmder.(*redis.StringSliceCmd).Val())
			if err != nil {
				return err
			}
			if ended {
				next[i] = chats[i].Read
			}
		}
	}
}

// count counts the messages of others that begin so, the newest last. It reports whether
// counting has come to its end.
func (l *listed) count(m Member, beginnings []string) (ended bool, err error) {
	for _, beginning := range slices.Backward(beginnings) {
		sender, err := senderOf(beginning)
		if err != nil {
			return false, err
		}
		if member.Fold(sender) == m.name {
			return true, nil
		}
		if l.Unread++; l.Unread == MaxUnread {
			return true, nil
		}
	}
	return false, nil
}

// Mark moves the mark of how far a member has read a room, and returns what is kept: it only
// grows, and ends at the room's total. The error is as that of Page.
func (s *Store) Mark(ctx context.Context, m Mark) (int64, error) {
	ctx, cancel := s.deadline(ctx)
	defer cancel()
	read, total, err := s.mark(ctx, m, "")
	if err == nil && read > total { // by a later count, or the room went back: then it is above the next one, too
		if read, total, err = s.mark(ctx, m, ""); err == nil && read > total {
			read, _, err = s.mark(ctx, m, strconv.FormatInt(read, 10))
		}
	}
	return read, err
}

// mark moves a mark, but lowers it to the room's total, which it returns, too, if it is lowered.
func (s *Store) mark(ctx context.Context, m Mark, lowered string) (read, total int64, err error) {
	count := s.totals(ctx, s.pages.run, []Room{m.room})[0]
	if count.Err != nil {
		return 0, 0, count.Err
	}
	c := newCommand(redis.NewStringCmd, readScript, m.member.marksKey(), m.room.String(), min(m.read, maxIndex), count.Value, lowered)
	if err := s.appends.run(ctx, []*command{c})[0]; err != nil {
		return 0, 0, s.failure(ctx, err)
	}
	read, err = strconv.ParseInt(c.Cmder.(*redis.StringCmd).Val(), 10, 64)
	return read, count.Value, err
}
