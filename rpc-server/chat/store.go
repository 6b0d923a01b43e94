package chat

import (
	"cmp"
	"context"
	_ "embed"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/redis/go-redis/v9"
)

// MaxPageBytes is how many bytes of members a page may hold; one with a longer
// message holds just that.
const MaxPageBytes = 4 << 20

// maxIndex bounds the numbers handed to Redis: its Lua counts in doubles, exact
// up to 2^53, and no room comes near 2^52 messages.
const maxIndex = 1 << 52

// ErrUnavailable is the error of a Redis that cannot be reached or refuses for
// now. What was to be stored may be stored or not, and may be a moment later.
var ErrUnavailable = errors.New("redis is unavailable")

// maxConnAge is how old a connection to Redis may get. An address behind which the master is
// replaced, such as that of a load balancer, leads to the new one after that at the latest.
const maxConnAge = 30 * time.Second

// errSlow is the cause of a context that ended since Redis used up the timeout.
var errSlow = errors.New("no answer within the timeout")

// A page is read in parts, one by one, so that none holds Redis for long.
const (
	// firstBytes bounds the first part.
	firstBytes = 64 << 10
	// sharedLimit is the most messages that a page may ask for whose first part is read
	// along with those of others.
	sharedLimit = 100
	// partBytes is about the size of each other part.
	partBytes = 256 << 10
	// partLimit is the most messages of each other part, and so of what is read in vain
	// where the page reaches MaxPageBytes.
	partLimit = 32
	// partRest is the pause between parts while messages are sent. In it, all processes
	// that work for a large page, Redis and the gateway too, work for those messages.
	partRest = 5 * time.Millisecond
	// largePages is how many pages of several parts are read at a time. It bounds the
	// memory that they take.
	largePages = 8
)

//go:embed append.lua
var appendLua string

//go:embed page.lua
var pageLua string

var (
	appendScript = newScript(appendLua)
	pageScript   = newScript(pageLua)
)

// script is one that Redis keeps under its hash, until it is restarted.
type script struct{ source, hash string }

func newScript(source string) script { return script{source, redis.NewScript(source).Hash()} }

// Store keeps one sorted set a room: the score is the send time, the member is
// the message. Beside these, it keeps for each member the set of its rooms, and
// how far it has read each. It is safe for concurrent use.
type Store struct {
	timeout time.Duration
	// Sends and pulls have a client each, so that a large page never delays a send.
	sends, pulls   redis.UniversalClient
	appends, pages *pipelines
	tries          int // of a ping
	refusals       []string
	metrics        *metrics
	large          chan struct{} // has an element for each large page, or long list, that is being read
	inboxes        *inboxes
	close          context.CancelFunc
	// sent counts messages, so that a large page can tell that it is not alone.
	sent atomic.Int64
}

// Open prepares a store in the Redis that o leads to: one server, the master that
// Sentinel names if o has a MasterName, or a Redis Cluster if it has several Addrs.
// Each call, and each read and write of a connection, may take timeout; at most
// maxQueue messages, and as many pages, wait for a master, and more are refused
// with ErrUnavailable. A message counts as stored once so many replicas have it, too;
// with 0, once the master has. Open does not wait for Redis; Ping reports whether it
// answers.
func Open(o redis.UniversalOptions, timeout time.Duration, maxQueue, replicas int) *Store {
	o.ContextTimeoutEnabled = true
	o.ReadTimeout, o.WriteTimeout, o.DialTimeout = timeout, timeout, timeout
	o.ConnMaxLifetimeJitter = maxConnAge / 10 // more or less
	o.ConnMaxLifetime = cmp.Or(o.ConnMaxLifetime, maxConnAge-o.ConnMaxLifetimeJitter)
	o.DialerRetries, o.MaxRetries = 1, 1 // a dead Redis is told within timeout, not after five dials
	s := &Store{timeout: timeout, tries: 1, refusals: refusals, metrics: newMetrics(), large: make(chan struct{}, largePages), inboxes: newInboxes()}
	open := func(o redis.UniversalOptions, name string, replicas int) (redis.UniversalClient, *pipelines) {
		client, servers := connect(o, func(_ context.Context, began time.Time, cmds []redis.Cmder, err error) {
			s.metrics.observe(name, began, cmds, err)
		})
		return client, &pipelines{servers: servers, failures: s.metrics.failures.WithLabelValues(name), timeout: timeout, maxQueue: maxQueue, replicas: replicas, lines: map[string]*line{}}
	}
	s.pulls, s.pages = open(o, "pulls", 0)
	o.OnConnect = s.inboxes.onConnect
	s.sends, s.appends = open(o, "sends", replicas)
	if s.appends.several() {
		s.tries = 3 // each asks another master
		s.refusals = append(slices.Clone(refusals), "ASK", "MOVED")
	}
	var ctx context.Context
	ctx, s.close = context.WithCancel(context.Background())
	go s.keepInboxes(ctx)
	return s
}

// Close closes the connections. What waits fails.
func (s *Store) Close() error {
	s.close()
	return errors.Join(s.appends.Close(), s.pages.Close())
}

// Ping returns nil if Redis answers; of a Redis Cluster, any master. The error wraps
// ErrUnavailable.
func (s *Store) Ping(ctx context.Context) error {
	var err error
	for range s.tries {
		if err = s.ping(ctx); err == nil {
			return nil
		}
	}
	return err
}

func (s *Store) ping(ctx context.Context) error {
	ctx, cancel := s.deadline(ctx)
	defer cancel()
	return s.failure(ctx, s.sends.Ping(ctx).Err())
}

// Result is what came of one of several calls that are made at a time.
type Result[T any] struct {
	Value T
	// Err wraps ErrUnavailable, is that of the context, or is a defect; nil is success.
	Err error
}

// Append stores each of ms at the end of its room and returns their send times, in
// microseconds since the Unix epoch. When it returns, Redis has each message without an
// error as durable as its configuration says, and so have as many replicas as are waited
// for; and both members' inboxes have the room. A message already there stays as it is. One
// with an error may have been stored all the same.
func (s *Store) Append(ctx context.Context, ms ...Message) []Result[int64] {
	s.sent.Add(int64(len(ms)))
	ctx, cancel := s.deadline(ctx)
	defer cancel()
	results := make([]Result[int64], len(ms))
	known, unknown := s.inboxes.split(ms)
	var apart sync.WaitGroup
	if len(unknown) > 0 {
		apart.Go(func() {
			s.append(ctx, ms, s.putFor(ctx, ms, unknown, results), results)
		})
	}
	s.append(ctx, ms, known, results)
	apart.Wait()
	return results
}

// append stores those of ms at places, and sets their results. Where a message is the first of
// its room, its inboxes are written again before: what is remembered of them may be gone.
func (s *Store) append(ctx context.Context, ms []Message, places []int, results []Result[int64]) {
	commands := make([]*command, len(places))
	for n, i := range places {
		commands[n] = newCommand(redis.NewStringSliceCmd, appendScript, ms[i].room.key(), appendMember(nil, ms[i]), s.appends.replicas)
	}
	var first []int
	for n, err := range s.appends.run(ctx, commands) {
		i := places[n]
		if results[i].Err = s.failure(ctx, err); err != nil {
			continue
		}
		reply := commands[n].Cmder.(*redis.StringSliceCmd).Val()
		if results[i].Value, results[i].Err = strconv.ParseInt(reply[0], 10, 64); reply[1] == "1" {
			first = append(first, i)
		}
	}
	s.putFor(ctx, ms, first, results)
}

// FirstParts reads the pages that qs ask for, or as many bytes of them as may ride along
// with others: one that is longer has HasMore and no Entries, and Page reads it.
func (s *Store) FirstParts(ctx context.Context, qs ...Query) []Result[Page] {
	ctx, cancel := s.deadline(ctx)
	defer cancel()
	results := make([]Result[Page], len(qs))
	for i, part := range s.firstParts(ctx, s.pages.run, qs...) {
		if part.Err == nil && part.Value.goesOn(qs[i]) {
			part.Value.Entries = nil
		}
		results[i] = Result[Page]{part.Value.Page, part.Err}
	}
	return results
}

// Page reads what q asks for, as it is at one instant: positions never change. The
// error wraps ErrUnavailable, is that of ctx, or is a defect.
func (s *Store) Page(ctx context.Context, q Query) (Page, error) {
	ctx, cancel := s.deadline(ctx)
	defer cancel()
	sent := s.sent.Load()
	run := s.pages.run
	if q.limit > sharedLimit {
		run = s.pages.runApart
	}
	first := s.firstParts(ctx, run, q)[0]
	p, err := first.Value, first.Err
	if err != nil || !p.goesOn(q) {
		return p.Page, err
	}
	select {
	case s.large <- struct{}{}:
		defer func() { <-s.large }()
	case <-ctx.Done():
		return Page{}, s.failure(ctx, ctx.Err())
	}
	for err == nil && p.goesOn(q) {
		if before := sent; before != s.sent.Load() {
			time.Sleep(partRest)
			sent = s.sent.Load()
		}
		err = s.nextPart(ctx, q, &p)
	}
	return p.Page, err
}

// Totals counts the messages of rooms.
func (s *Store) Totals(ctx context.Context, rooms ...Room) []Result[int64] {
	ctx, cancel := s.deadline(ctx)
	defer cancel()
	return s.totals(ctx, s.pages.run, rooms)
}

func (s *Store) totals(ctx context.Context, run func(context.Context, []*command) []error, rooms []Room) []Result[int64] {
	commands := make([]*command, len(rooms))
	for i, r := range rooms {
		commands[i] = newPlainCommand(redis.NewIntCmd, "zcard", r.key())
	}
	results := make([]Result[int64], len(rooms))
	for i, err := range run(ctx, commands) {
		if results[i].Err = s.failure(ctx, err); err == nil {
			results[i].Value = commands[i].Cmder.(*redis.IntCmd).Val()
		}
	}
	return results
}

// part is the beginning of a page, with the size of its members in bytes.
type part struct {
	Page
	size int
}

// goesOn reports whether there is more of the page that q asks for.
func (p *part) goesOn(q Query) bool {
	return p.HasMore && int64(len(p.Entries)) < q.limit && p.size < MaxPageBytes
}

// firstParts reads firstBytes of each page at most, but at least one message.
func (s *Store) firstParts(ctx context.Context, run func(context.Context, []*command) []error, qs ...Query) []Result[part] {
	commands := make([]*command, len(qs))
	for i, q := range qs {
		commands[i] = newCommand(redis.NewStringSliceCmd, pageScript, q.room.key(),
			min(q.cursor, maxIndex), q.limit, q.reverse, min(q.total, maxIndex), firstBytes)
	}
	results := make([]Result[part], len(qs))
	for i, err := range run(ctx, commands) {
		if results[i].Err = s.failure(ctx, err); err == nil {
			results[i].Value, results[i].Err = firstPart(qs[i], commands[i].Cmder.(*redis.StringSliceCmd).Val())
		}
	}
	return results
}

// firstPart reads the reply of the page's script.
func firstPart(q Query, reply []string) (p part, err error) {
	p.Entries = make([]Entry, 0, len(reply)/2)
	if p.Total, err = strconv.ParseInt(reply[0], 10, 64); err != nil {
		return part{}, err
	}
	for i := 1; i < len(reply); i += 2 {
		e, err := parseEntry(reply[i], reply[i+1])
		if err != nil {
			return part{}, err
		}
		p.Entries = append(p.Entries, e)
		p.size += len(reply[i])
	}
	p.NextCursor = q.cursor + int64(len(p.Entries))
	p.HasMore = p.NextCursor < p.Total
	return p, nil
}

// nextPart reads on where p ends. Where nothing else may follow, p has MaxPageBytes or
// more then.
func (s *Store) nextPart(ctx context.Context, q Query, p *part) error {
	n := int64(min(partLimit, max(1, partBytes*len(p.Entries)/p.size))) // by the average of those before
	first := p.NextCursor
	last := min(first+n, q.cursor+q.limit, p.Total) - 1
	if q.reverse {
		first, last = p.Total-1-last, p.Total-1-first
	}
	more, err := s.pulls.ZRangeWithScores(ctx, q.room.key(), first, last).Result()
	if err != nil {
		return s.failure(ctx, err)
	}
	if len(more) == 0 { // Redis lost what was there a moment ago: the page ends
		p.size = MaxPageBytes
		return nil
	}
	if q.reverse {
		slices.Reverse(more)
	}
	for _, z := range more {
		member := z.Member.(string)
		if p.size += len(member); p.size > MaxPageBytes {
			break
		}
		e, err := newEntry(member, z.Score)
		if err != nil {
			return err
		}
		p.Entries = append(p.Entries, e)
	}
	p.NextCursor = q.cursor + int64(len(p.Entries))
	p.HasMore = p.NextCursor < p.Total
	return nil
}

// key names the sorted set of a room.
func (r Room) key() string { return "chat:" + r.String() }

func (s *Store) deadline(ctx context.Context) (context.Context, context.CancelFunc) {
	return context.WithTimeoutCause(ctx, s.timeout, errSlow)
}

// failure distinguishes an unavailable Redis from the caller's own deadline and from a
// defect. ctx is the one from deadline. nil stays nil.
func (s *Store) failure(ctx context.Context, err error) error {
	if err == nil {
		return nil
	}
	if ctx.Err() != nil {
		if err = context.Cause(ctx); err != errSlow {
			return err
		}
	}
	if isReply(err) && !slices.ContainsFunc(s.refusals, func(prefix string) bool { return redis.HasErrorPrefix(err, prefix) }) {
		return err
	}
	return fmt.Errorf("%w: %w", ErrUnavailable, err)
}

// refusals are how the replies of any Redis begin by which it refuses for now. NOSCRIPT is
// one where no time is left to send the script.
var refusals = []string{
	"BUSY", "CLUSTERDOWN", "LOADING", "MASTERDOWN", "MISCONF", "NOAUTH", "NOPERM", "NOREPLICAS", "NOSCRIPT", "OOM", "READONLY", "TRYAGAIN", "UNBLOCKED", "WRONGPASS",
	"max number of clients",
}

// durable are the settings of Redis under which an acknowledged message is on
// disk and stays there.
var durable = []struct{ name, want string }{
	{"appendonly", "yes"},
	{"appendfsync", "always"},
	{"no-appendfsync-on-rewrite", "no"},
	{"maxmemory-policy", "noeviction"},
}

// Durability has the values of the settings of Redis, by name, that decide whether it
// keeps what it acknowledged. Where masters of a Redis Cluster differ, the value is one
// that may lose messages.
type Durability map[string]string

// Weak lists the settings that may lose messages, each as "name is value, not value".
func (d Durability) Weak() []string {
	var weak []string
	for _, setting := range durable {
		if got := d[setting.name]; got != setting.want {
			weak = append(weak, fmt.Sprintf("%s is %q, not %q", setting.name, got, setting.want))
		}
	}
	return weak
}

// Durability returns the settings; of a Redis Cluster, those of the masters that answer.
// The error is that of a Redis that does not answer or does not show them.
func (s *Store) Durability(ctx context.Context) (Durability, error) {
	var mu sync.Mutex
	d := Durability{}
	err := s.appends.each(ctx, func(ctx context.Context, server *redis.Client) error {
		for _, setting := range durable {
			config, err := server.ConfigGet(ctx, setting.name).Result()
			if err != nil {
				return err
			}
			mu.Lock()
			if got := d[setting.name]; got == "" || got == setting.want {
				d[setting.name] = config[setting.name]
			}
			mu.Unlock()
		}
		return nil
	})
	if err != nil && (len(d) < len(durable) || isReply(err)) {
		return nil, err
	}
	return d, nil
}
