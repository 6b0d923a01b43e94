package chat

import (
	"context"
	_ "embed"
	"log/slog"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/redis/go-redis/v9"
)

const (
	// rememberedTime is how long it is remembered at most that a room is in its inboxes.
	rememberedTime = 10 * time.Minute
	// maxRemembered is of how many rooms at most that is remembered.
	maxRemembered = 1 << 17
	// lostTime is how far back a server may have lost what it acknowledged, where another one
	// takes its place.
	lostTime = time.Minute
	// lookInterval is the pause between two looks at which servers there are.
	lookInterval = time.Second
	// putTogether is how many rooms are put again at a time.
	putTogether = 64
)

//go:embed inbox.lua
var inboxLua string

var inboxScript = newScript(inboxLua)

func (m Member) inboxKey() string { return "inbox:" + m.name }

// each returns the members of a room: one, where it talks to itself.
func (r Room) each() []Member {
	return slices.Compact([]Member{{r.members[0]}, {r.members[1]}})
}

// inboxes remembers which rooms are in the inboxes of their members, so that most sends need
// not put them there. A server that takes the place of another one may have lost them: what is
// remembered is forgotten then, and what was put of late is put again.
type inboxes struct {
	mu sync.RWMutex
	// put has the rooms that were put of late, with the time; older has those before them. When
	// put has half of what may be remembered, it becomes older.
	put, older map[Room]time.Time
	turned     time.Time         // when put became older
	servers    []string          // run ids of those that take writes
	epoch      int               // counts how often everything was forgotten
	again      map[Room]struct{} // rooms that are to be put again
	hurry      chan struct{}     // has an element where that is to be soon
}

func newInboxes() *inboxes {
	return &inboxes{put: map[Room]time.Time{}, older: map[Room]time.Time{}, turned: time.Now(), again: map[Room]struct{}{}, hurry: make(chan struct{}, 1)}
}

// split returns the places of those of ms whose rooms are in the inboxes of their members, and
// of those for which that is not known.
func (b *inboxes) split(ms []Message) (known, unknown []int) {
	b.mu.RLock()
	defer b.mu.RUnlock()
	for i, m := range ms {
		_, put := b.put[m.room]
		if _, before := b.older[m.room]; put || before {
			known = append(known, i)
		} else {
			unknown = append(unknown, i)
		}
	}
	return known, unknown
}

// remember takes that rooms were put. It reports whether they were: not where everything was
// forgotten since epoch.
func (b *inboxes) remember(epoch int, rooms []Room) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	if epoch != b.epoch {
		return false
	}
	now := time.Now()
	for _, room := range rooms {
		b.put[room] = now
		b.turn(now, len(b.put) >= maxRemembered/2)
	}
	return true
}

// turn drops what was put longest ago, where it is time or there is too much. The caller must
// hold mu.
func (b *inboxes) turn(now time.Time, full bool) {
	if full || now.Sub(b.turned) >= rememberedTime/2 {
		b.older, b.put, b.turned = b.put, map[Room]time.Time{}, now
	}
}

// serve takes the run ids of the servers that take writes. Where others did before, or other
// ones too, everything is forgotten.
func (b *inboxes) serve(ids []string, all bool) {
	slices.Sort(ids)
	b.mu.Lock()
	defer b.mu.Unlock()
	isNew := func(id string) bool { return !slices.Contains(b.servers, id) }
	changed := slices.ContainsFunc(ids, isNew)
	switch {
	case all:
		changed = changed || len(ids) != len(b.servers)
		b.servers = ids
	case changed:
		b.servers = append(b.servers, slices.DeleteFunc(ids, func(id string) bool { return !isNew(id) })...)
	}
	now := time.Now()
	b.turn(now, false)
	if !changed {
		return
	}
	b.epoch++
	for _, rooms := range []map[Room]time.Time{b.put, b.older} {
		for room, put := range rooms {
			if now.Sub(put) < lostTime {
				b.again[room] = struct{}{}
			}
		}
		clear(rooms)
	}
	select {
	case b.hurry <- struct{}{}:
	default:
	}
}

// takeAgain returns the rooms that are to be put again.
func (b *inboxes) takeAgain() []Room {
	b.mu.Lock()
	defer b.mu.Unlock()
	rooms := slices.Collect(maps.Keys(b.again))
	clear(b.again)
	return rooms
}

// putAgain takes that rooms are to be put again.
func (b *inboxes) putAgain(rooms []Room) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, room := range rooms {
		b.again[room] = struct{}{}
	}
}

// onConnect looks at which server a new connection leads to. Some lead to Sentinels, and to
// replicas, which take no writes.
func (b *inboxes) onConnect(ctx context.Context, conn *redis.Conn) error {
	id, err := runID(ctx, conn)
	role := ""
	if err == nil {
		role, err = infoOf(ctx, conn, "replication", "role")
	}
	switch {
	case err == nil && role == "master":
		b.serve([]string{id}, false)
	case err != nil && !isReply(err):
		return err
	}
	return nil // where Redis does not say, keepInboxes does not find out either
}

// runID returns the id that a server has from its start to its end.
func runID(ctx context.Context, server redis.Cmdable) (string, error) {
	return infoOf(ctx, server, "server", "run_id")
}

// infoOf returns what INFO says of a server; empty where it does not say it.
func infoOf(ctx context.Context, server redis.Cmdable, section, name string) (string, error) {
	info, err := server.Info(ctx, section).Result()
	_, value, _ := strings.Cut(info, "\n"+name+":")
	value, _, _ = strings.Cut(value, "\r")
	return value, err
}

// keepInboxes looks at which servers there are, and puts again what they may have lost, until
// ctx ends.
func (s *Store) keepInboxes(ctx context.Context) {
	wait := time.NewTicker(lookInterval)
	defer wait.Stop()
	for ctx.Err() == nil {
		s.lookAtServers(ctx)
		for rooms := range slices.Chunk(s.inboxes.takeAgain(), putTogether) {
			if err := s.putAgain(ctx, rooms); err != nil {
				slog.Debug("rooms cannot be put into inboxes again yet", "err", err)
			}
		}
		select {
		case <-ctx.Done():
		case <-wait.C:
		case <-s.inboxes.hurry:
		}
	}
}

func (s *Store) lookAtServers(ctx context.Context) {
	ctx, cancel := s.deadline(ctx)
	defer cancel()
	var mu sync.Mutex
	var ids []string
	err := s.appends.each(ctx, func(ctx context.Context, server *redis.Client) error {
		id, err := runID(ctx, server)
		if err == nil {
			mu.Lock()
			ids = append(ids, id)
			mu.Unlock()
		}
		return err
	})
	s.inboxes.serve(ids, err == nil)
}

func (s *Store) putAgain(ctx context.Context, rooms []Room) error {
	ctx, cancel := s.deadline(ctx)
	defer cancel()
	var first error
	for i, err := range s.put(ctx, rooms) {
		if err != nil {
			first = err
			s.inboxes.putAgain(rooms[i : i+1])
		}
	}
	return first
}

// put puts rooms into the inboxes of their members, and returns the error of each.
func (s *Store) put(ctx context.Context, rooms []Room) []error {
	errs := make([]error, len(rooms))
	for {
		s.inboxes.mu.RLock()
		epoch := s.inboxes.epoch
		s.inboxes.mu.RUnlock()
		var commands []*command
		var places []int
		for i, room := range rooms {
			for _, m := range room.each() {
				commands, places = append(commands, newCommand(redis.NewIntCmd, inboxScript, m.inboxKey(), room.String(), s.appends.replicas)), append(places, i)
			}
		}
		clear(errs)
		for n, err := range s.appends.run(ctx, commands) {
			if err != nil {
				errs[places[n]] = s.failure(ctx, err)
			}
		}
		var put []Room
		for i, room := range rooms {
			if errs[i] == nil {
				put = append(put, room)
			}
		}
		if s.inboxes.remember(epoch, put) || ctx.Err() != nil {
			return errs
		}
	}
}

// putFor puts the rooms of those of ms at places, and returns the places of those for which
// that was done. The others have an error as their result.
func (s *Store) putFor(ctx context.Context, ms []Message, places []int, results []Result[int64]) (put []int) {
	if len(places) == 0 {
		return nil
	}
	errs := map[Room]error{}
	for _, i := range places {
		errs[ms[i].room] = nil
	}
	rooms := slices.Collect(maps.Keys(errs))
	for n, err := range s.put(ctx, rooms) {
		errs[rooms[n]] = err
	}
	for _, i := range places {
		if err := errs[ms[i].room]; err != nil {
			results[i].Err = err
		} else {
			put = append(put, i)
		}
	}
	return put
}
