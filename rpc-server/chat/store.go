package chat

import (
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
	"go.opentelemetry.io/otel"
	semconv "go.opentelemetry.io/otel/semconv/v1.37.0"
	"go.opentelemetry.io/otel/trace"
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

// errSlow is why a call's context ends when Redis took its whole timeout.
var errSlow = errors.New("no answer within the timeout")

// A page is read in parts, one by one, so that none holds Redis for long.
const (
	// firstBytes bounds the first part.
	firstBytes = 64 << 10
	// sharedLimit is the most messages that a page may ask for whose first part is
	// read along with those of others.
	sharedLimit = 100
	// partBytes is about as much as each other part has.
	partBytes = 256 << 10
	// partLimit is the most messages that it has, and so a bound on what is read in
	// vain where the page ends before its bytes run over.
	partLimit = 32
	// partRest is how long a page waits between parts while messages are sent. All
	// processes on the way of a large page, Redis and the gateway too, work for those
	// meanwhile.
	partRest = 5 * time.Millisecond
	// largePages is how many pages of several parts are read at a time, which bounds the
	// memory that they take; others wait for their turn.
	largePages = 8
)

//go:embed append.lua
var appendLua string

//go:embed page.lua
var pageLua string

var (
	appendScript = script{appendLua, redis.NewScript(appendLua).Hash()}
	pageScript   = script{pageLua, redis.NewScript(pageLua).Hash()}
)

// script is one that Redis keeps under its hash, until it is restarted.
type script struct{ source, hash string }

var tracer = otel.Tracer("im/rpc-server/chat")

// traceCall begins a span of a call to Redis below the one in ctx; without one there
// is none, which costs nothing.
func traceCall(ctx context.Context, name string) (context.Context, trace.Span) {
	if above := trace.SpanFromContext(ctx); !above.SpanContext().IsValid() {
		return ctx, above
	}
	return tracer.Start(ctx, name, trace.WithSpanKind(trace.SpanKindClient), trace.WithAttributes(semconv.DBSystemNameRedis))
}

// Store keeps one sorted set a room: the score is the send time, the member is
// the message. It is safe for concurrent use.
type Store struct {
	timeout time.Duration
	// Sends and pulls have a client each, so that a large page never delays a send.
	sends, pulls redis.UniversalClient
	servers      servers // of sends
	// appends and pages let concurrent calls share a pipeline, and so a system call
	// and, of appends, one flush of Redis's append-only file. A batch whose connection
	// breaks is sent again: only what may run twice may ride in it. Where replicas are
	// waited for, each append is on its own instead.
	appends, pages queue
	replicas       int
	tries          int      // of a ping
	refusals       []string // how replies begin by which Redis says that it will not serve for now
	metrics        *metrics
	large          chan struct{} // has an element for each large page that is being read
	// sent counts messages, so that a large page can tell that it is not alone.
	sent atomic.Int64
}

// Open prepares a store in the Redis that o leads to: one server, the master that
// Sentinel names if o has a MasterName, or a Redis Cluster if it has several Addrs.
// Each call, and each read and write of a connection, may take timeout; at most
// maxQueued messages, and as many pages, wait for their turn, and more are refused
// with ErrUnavailable. A message counts as stored once so many replicas have it, too;
// with 0, once the master has. Open does not wait for Redis; Ping tells whether it
// answers.
func Open(o redis.UniversalOptions, timeout time.Duration, maxQueued, replicas int) (*Store, error) {
	o.ContextTimeoutEnabled = true
	o.ReadTimeout, o.WriteTimeout, o.DialTimeout = timeout, timeout, timeout
	o.DialerRetries, o.MaxRetries = 1, 1 // a dead Redis is told within timeout, not after five dials
	s := &Store{timeout: timeout, replicas: replicas, tries: 1, refusals: refusals, metrics: newMetrics(), large: make(chan struct{}, largePages)}
	s.pulls, _ = connect(o, hook{"pulls", s.metrics})
	if replicas > 0 {
		o.PoolSize, o.PipelinePoolSize = waiting, -1 // one pool for all
	}
	sends := hook{"sends", s.metrics}
	s.sends, s.servers = connect(o, sends)
	if _, ok := s.servers.(*cluster); ok {
		s.tries = 3 // each asks another master
		s.refusals = append(slices.Clone(refusals), "ASK", "MOVED")
	}
	options := &redis.AutoPipelineOptions{MaxQueuedCommands: maxQueued}
	pages, err := s.pulls.AsyncAutoPipelineWithOptions(options)
	if err != nil {
		return nil, errors.Join(err, s.Close())
	}
	s.pages = shared{pages}
	if replicas > 0 {
		s.appends = replicated{s.servers, sends, replicas, timeout / 3, make(chan struct{}, maxQueued)}
		return s, nil
	}
	appends, err := s.sends.AsyncAutoPipelineWithOptions(options)
	if err != nil {
		return nil, errors.Join(err, s.Close())
	}
	s.appends = shared{appends}
	return s, nil
}

// queue is where commands wait for their turn.
type queue interface {
	executor
	Len() int // how many wait
}

// shared sends commands along with those of other callers.
type shared struct{ *redis.AutoPipeliner }

// Process gives up when ctx ends; the command may be executed nevertheless.
func (s shared) Process(ctx context.Context, cmd redis.Cmder) error {
	return s.Submit(ctx, cmd).WaitContext(ctx)
}

// Close closes the connections. What waits is sent first.
func (s *Store) Close() error { return errors.Join(s.servers.Close(), s.pulls.Close()) }

// Ping tells whether Redis answers; of a Redis Cluster, any master. The error wraps
// ErrUnavailable, or is what a Redis says that wants another password.
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

// Append stores m at the end of its room and gives its send time in microseconds
// since the Unix epoch. When it returns, Redis has the message as durable as its
// configuration says, and so have as many replicas as are waited for. A message already
// there stays as it is.
//
// The error wraps ErrUnavailable, is that of ctx, or is a defect; the message
// may have been stored all the same.
func (s *Store) Append(ctx context.Context, m Message) (int64, error) {
	s.sent.Add(1)
	ctx, span := traceCall(ctx, "append")
	defer span.End()
	ctx, cancel := s.deadline(ctx)
	defer cancel()
	reply, err := eval(ctx, s.appends, redis.NewStringCmd, appendScript, m.room.key(), appendMember(nil, m), s.replicas)
	if err != nil {
		return 0, s.failure(ctx, err)
	}
	return strconv.ParseInt(reply.Val(), 10, 64)
}

// executor is a client of Redis, or a queue of one.
type executor interface {
	Process(context.Context, redis.Cmder) error
}

// eval runs a script, which Redis may not know yet.
func eval[Cmd redis.Cmder](ctx context.Context, on executor, newCmd func(context.Context, ...any) Cmd, s script, key string, args ...any) (Cmd, error) {
	cmd := newCmd(ctx, append([]any{"evalsha", s.hash, 1, key}, args...)...)
	err := on.Process(ctx, cmd)
	if redis.HasErrorPrefix(err, "NOSCRIPT") {
		cmd = newCmd(ctx, append([]any{"eval", s.source, 1, key}, args...)...)
		err = on.Process(ctx, cmd)
	}
	return cmd, err
}

// Page reads what q asks for, as it is at one instant: positions never change. The
// error wraps ErrUnavailable, is that of ctx, or is a defect.
func (s *Store) Page(ctx context.Context, q Query) (Page, error) {
	ctx, span := traceCall(ctx, "page")
	defer span.End()
	ctx, cancel := s.deadline(ctx)
	defer cancel()
	sent := s.sent.Load()
	p, size, err := s.firstPart(ctx, q)
	more := func() bool {
		return err == nil && p.HasMore && int64(len(p.Entries)) < q.limit && size < MaxPageBytes
	}
	if !more() {
		return p, err
	}
	select {
	case s.large <- struct{}{}:
		defer func() { <-s.large }()
	case <-ctx.Done():
		return Page{}, s.failure(ctx, ctx.Err())
	}
	for more() {
		if before := sent; before != s.sent.Load() {
			time.Sleep(partRest)
			sent = s.sent.Load()
		}
		size, err = s.nextPart(ctx, q, &p, size)
	}
	return p, err
}

// firstPart reads firstBytes at most, but at least one message, and gives their size.
func (s *Store) firstPart(ctx context.Context, q Query) (p Page, size int, err error) {
	var on executor = s.pages
	if q.limit > sharedLimit {
		on = s.pulls
	}
	cmd, err := eval(ctx, on, redis.NewStringSliceCmd, pageScript, q.room.key(),
		min(q.cursor, maxIndex), q.limit, q.reverse, min(q.total, maxIndex), firstBytes)
	if err != nil {
		return Page{}, 0, s.failure(ctx, err)
	}
	reply := cmd.Val()
	p = Page{Entries: make([]Entry, 0, len(reply)/2)}
	if p.Total, err = strconv.ParseInt(reply[0], 10, 64); err != nil {
		return Page{}, 0, err
	}
	for i := 1; i < len(reply); i += 2 {
		e, err := parseEntry(reply[i], reply[i+1])
		if err != nil {
			return Page{}, 0, err
		}
		p.Entries = append(p.Entries, e)
		size += len(reply[i])
	}
	p.NextCursor = q.cursor + int64(len(p.Entries))
	p.HasMore = p.NextCursor < p.Total
	return p, size, nil
}

// nextPart reads on where p, of that size, ends, and gives its new size, which is
// MaxPageBytes or more where nothing else may follow.
func (s *Store) nextPart(ctx context.Context, q Query, p *Page, size int) (int, error) {
	n := int64(min(partLimit, max(1, partBytes*len(p.Entries)/size))) // by the average of those before
	first := p.NextCursor
	last := min(first+n, q.cursor+q.limit, p.Total) - 1
	if q.reverse {
		first, last = p.Total-1-last, p.Total-1-first
	}
	part, err := s.pulls.ZRangeWithScores(ctx, q.room.key(), first, last).Result()
	if err != nil {
		return 0, s.failure(ctx, err)
	}
	if len(part) == 0 { // Redis lost what was there a moment ago: the page ends
		return MaxPageBytes, nil
	}
	if q.reverse {
		slices.Reverse(part)
	}
	for _, z := range part {
		member := z.Member.(string)
		if size += len(member); size > MaxPageBytes {
			break
		}
		e, err := scoredEntry(member, z.Score)
		if err != nil {
			return 0, err
		}
		p.Entries = append(p.Entries, e)
	}
	p.NextCursor = q.cursor + int64(len(p.Entries))
	p.HasMore = p.NextCursor < p.Total
	return size, nil
}

// key names the sorted set of a room.
func (r Room) key() string { return "chat:" + r.String() }

func (s *Store) deadline(ctx context.Context) (context.Context, context.CancelFunc) {
	return context.WithTimeoutCause(ctx, s.timeout, errSlow)
}

// failure tells an unavailable Redis from the caller's own deadline and from a
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
	if reply := redis.Error(nil); errors.As(err, &reply) && !slices.ContainsFunc(s.refusals, func(prefix string) bool { return redis.HasErrorPrefix(reply, prefix) }) {
		return err
	}
	return fmt.Errorf("%w: %w", ErrUnavailable, err)
}

// refusals are those of any Redis.
var refusals = []string{
	"BUSY", "CLUSTERDOWN", "LOADING", "MASTERDOWN", "MISCONF", "NOREPLICAS", "OOM", "READONLY", "TRYAGAIN", "max number of clients",
}

// durable are the settings of Redis under which an acknowledged message is on
// disk and stays there.
var durable = []struct{ name, want string }{
	{"appendonly", "yes"},
	{"appendfsync", "always"},
	{"no-appendfsync-on-rewrite", "no"},
	{"maxmemory-policy", "noeviction"},
}

// Durability is what the settings of Redis are by which it keeps, or loses, what
// it acknowledged: a value by name. Where masters of a Redis Cluster differ, it is
// one that may lose messages.
type Durability map[string]string

// Weak lists the settings that may lose messages, each as "name is value, not
// value"; none is a good sign.
func (d Durability) Weak() []string {
	var weak []string
	for _, setting := range durable {
		if got := d[setting.name]; got != setting.want {
			weak = append(weak, fmt.Sprintf("%s is %q, not %q", setting.name, got, setting.want))
		}
	}
	return weak
}

// Durability asks for the settings; of a Redis Cluster, the masters that answer. The
// error is that of a Redis that does not answer or does not show them.
func (s *Store) Durability(ctx context.Context) (Durability, error) {
	var mu sync.Mutex
	d := Durability{}
	err := s.servers.each(ctx, func(ctx context.Context, server *redis.Client) error {
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
	if reply := redis.Error(nil); err != nil && (len(d) < len(durable) || errors.As(err, &reply)) {
		return nil, err
	}
	return d, nil
}
