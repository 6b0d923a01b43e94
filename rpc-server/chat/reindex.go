package chat

import (
	"context"
	"errors"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/redis/go-redis/v9"
)

const (
	// reindexKey is a hash from the run id of a server to how far its chats were gone through.
	// A cursor means something only to the process that gave it. It is kept for reindexKept
	// after an interruption.
	reindexKey  = "reindex"
	reindexKept = time.Hour
	// scanned is how many keys a server looks at for an answer, about.
	scanned = 1000
	// reindexRetry is the pause before something is tried again that Redis did not serve.
	reindexRetry = time.Second
)

// Reindex puts every room that has messages into the inboxes of its members. It only adds, so
// that others may send meanwhile. Where it ends before its time, the next one goes on from
// there. It tells progress how many rooms it has put.
func (s *Store) Reindex(ctx context.Context, progress func(rooms int)) error {
	var mu sync.Mutex
	all := 0
	err := s.appends.each(ctx, func(ctx context.Context, server *redis.Client) error {
		return s.reindex(ctx, server, func(rooms int) {
			mu.Lock()
			defer mu.Unlock()
			all += rooms
			progress(all)
		})
	})
	if err != nil {
		return err
	}
	return s.sends.Del(ctx, reindexKey).Err()
}

// reindex puts the rooms that a server has.
func (s *Store) reindex(ctx context.Context, server *redis.Client, progress func(rooms int)) error {
	var id string
	var cursor uint64
	err := s.persist(ctx, func(ctx context.Context) (err error) {
		if id, err = runID(ctx, server); err != nil {
			return err
		}
		cursor, err = s.sends.HGet(ctx, reindexKey, id).Uint64()
		if errors.Is(err, redis.Nil) {
			err = nil
		}
		return err
	})
	if err != nil {
		return err
	}
	for {
		var keys []string
		err := s.persist(ctx, func(ctx context.Context) (err error) {
			keys, cursor, err = server.Scan(ctx, cursor, "chat:*", scanned).Result()
			return err
		})
		if err != nil {
			return err
		}
		var rooms []Room
		for _, key := range keys {
			name := strings.TrimPrefix(key, "chat:")
			if room, err := ParseFoldedRoom(name); err == nil && room.String() == name { // else it is foreign
				rooms = append(rooms, room)
			}
		}
		for some := range slices.Chunk(rooms, putTogether) {
			err := s.persist(ctx, func(ctx context.Context) error { return errors.Join(s.put(ctx, some)...) })
			if err != nil {
				return err
			}
		}
		progress(len(rooms))
		if cursor == 0 {
			return nil
		}
		err = s.persist(ctx, func(ctx context.Context) error {
			return errors.Join(s.sends.HSet(ctx, reindexKey, id, cursor).Err(), s.sends.Expire(ctx, reindexKey, reindexKept).Err())
		})
		if err != nil {
			return err
		}
	}
}

// persist does something until Redis serves it, or ctx ends.
func (s *Store) persist(ctx context.Context, do func(context.Context) error) error {
	for {
		within, cancel := s.deadline(ctx)
		err := do(within)
		if err != nil && !errors.Is(err, ErrUnavailable) {
			err = s.failure(within, err)
		}
		cancel()
		if !errors.Is(err, ErrUnavailable) {
			return err
		}
		slog.Warn("trying again", "err", err)
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(reindexRetry):
		}
	}
}
