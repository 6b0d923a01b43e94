package chat

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/cloudwego/gopkg/concurrency/gopool"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/redis/go-redis/v9"
	"golang.org/x/sync/errgroup"
)

const (
	// maxCommands is the number of commands at which a pipeline takes no more.
	maxCommands = 64
	// maxApart is the most keys of a pipeline apart, each of which takes microseconds.
	maxApart = 128
	// apartAtATime is how many pipelines apart a caller has at a master: while Redis runs one,
	// this process writes and reads the other.
	apartAtATime = 2
	// maxRedirects is how often a command follows a chat that moves between the masters
	// of a Redis Cluster, and how often it is sent again after a connection broke or
	// Redis did not know its script.
	maxRedirects = 3
	// probeInterval is the pause between two probes of a master that is ejected.
	probeInterval = 100 * time.Millisecond
)

// ErrQueueFull is why a Redis is unavailable that has enough to do.
var ErrQueueFull = errors.New("as many commands as REDIS_QUEUE allows wait for Redis")

var (
	// errFewReplicas is why a message is not acknowledged that too few replicas have. It
	// is stored; whoever sends it again waits again.
	errFewReplicas = errors.New("too few replicas have the message")
	errEjected     = errors.New("the master does not answer")
)

// command is a call of a script or, where that is empty, another command. It has one key, or
// several of one server.
type command struct {
	redis.Cmder
	key    string
	keys   int // how many it has
	script script
	err    error // of the script, or of the replicas that it waits for
	unit   *unit // nil if it was refused with err
}

func newCommand[Cmd redis.Cmder](newCmd func(context.Context, ...any) Cmd, s script, key string, args ...any) *command {
	return &command{Cmder: newCmd(context.Background(), append([]any{"evalsha", s.hash, 1, key}, args...)...), key: key, keys: 1, script: s}
}

// newCommandOf returns a call of a script for several rooms of one server.
func newCommandOf[Cmd redis.Cmder](newCmd func(context.Context, ...any) Cmd, s script, rooms []Room) *command {
	args := []any{"evalsha", s.hash, len(rooms)}
	for _, r := range rooms {
		args = append(args, r.key())
	}
	return &command{Cmder: newCmd(context.Background(), args...), key: rooms[0].key(), keys: len(rooms), script: s}
}

func newPlainCommand[Cmd redis.Cmder](newCmd func(context.Context, ...any) Cmd, name, key string, args ...any) *command {
	return &command{Cmder: newCmd(context.Background(), append([]any{name, key}, args...)...), key: key, keys: 1}
}

// withSource has the script itself sent, in place of its hash.
func (c *command) withSource() { c.Args()[0], c.Args()[1] = "eval", c.script.source }

// pipelines run commands on the masters of a client. Commands that are made at the same
// time share a pipeline to their master, and so system calls and, of appends, one flush
// of Redis's append-only file. A pipeline whose connection breaks is sent again: only
// what may run twice may ride in it.
type pipelines struct {
	servers
	failures prometheus.Counter
	timeout  time.Duration // of a pipeline
	maxQueue int           // commands that wait for a master
	replicas int           // that must have what a pipeline wrote; 0 waits for none
	waiting  atomic.Int64  // commands that have no answer yet

	mu    sync.Mutex
	lines map[string]*line // by address of the master
	// answered is when the youngest of the pipelines began that have ended in time.
	answered time.Time
}

// run runs commands and returns the error of each. What Redis has not answered when ctx
// ends may be executed nevertheless; its command must not be read.
func (p *pipelines) run(ctx context.Context, commands []*command) []error {
	units := map[*line]*unit{}
	for _, c := range commands {
		server, err := p.master(ctx, c.key)
		if err != nil {
			c.err = err
			continue
		}
		l := p.line(server)
		if units[l] == nil {
			units[l] = &unit{done: make(chan struct{})}
		}
		c.unit = units[l]
		c.unit.commands = append(c.unit.commands, c)
	}
	for l, u := range units {
		l.add(u)
	}
	errs := make([]error, len(commands))
	for i, c := range commands {
		errs[i] = c.wait(ctx)
	}
	return errs
}

// runApart runs commands as run does, but at once, in pipelines that they share with no others.
func (p *pipelines) runApart(ctx context.Context, commands []*command) []error {
	byMaster := map[*redis.Client][]*command{}
	for _, c := range commands {
		server, err := p.master(ctx, c.key)
		if c.err = err; err == nil {
			byMaster[server] = append(byMaster[server], c)
		}
	}
	var masters sync.WaitGroup
	for server, commands := range byMaster {
		masters.Go(func() {
			var pipelines errgroup.Group
			pipelines.SetLimit(apartAtATime)
			for some := range slices.Chunk(commands, maxApart/commands[0].keys) {
				pipelines.Go(func() error {
					p.exec(ctx, server, false, some, maxRedirects)
					return nil
				})
			}
			pipelines.Wait()
		})
	}
	masters.Wait()
	errs := make([]error, len(commands))
	for i, c := range commands {
		errs[i] = c.err
	}
	return errs
}

// wait waits for the command's answer, its master's ejection, or the end of ctx.
func (c *command) wait(ctx context.Context) error {
	if c.unit == nil {
		return c.err
	}
	var err error
	select {
	case <-c.unit.done:
	case <-c.unit.ejected:
		err = errEjected
	case <-ctx.Done():
		err = ctx.Err()
	}
	select {
	case <-c.unit.done:
		return c.err
	default:
		return err
	}
}

// line returns the line to a master.
func (p *pipelines) line(server *redis.Client) *line {
	address := server.Options().Addr
	p.mu.Lock()
	defer p.mu.Unlock()
	l := p.lines[address]
	if l == nil || l.server != server {
		l = &line{pipelines: p, server: server, ejected: make(chan struct{})}
		p.lines[address] = l
	}
	return l
}

// unit is what one caller has for one master.
type unit struct {
	commands []*command
	ejected  <-chan struct{} // closed once the master is ejected
	done     chan struct{}   // closed once each command has its answer
}

// line is where commands wait for a master.
type line struct {
	*pipelines
	server *redis.Client

	mu        sync.Mutex
	queue     []*unit
	commands  int  // that have no answer yet, in the queue and under way
	sending   bool // whether send runs
	isEjected bool
	ejected   chan struct{} // closed when the master is ejected; another one once it answers again
}

// add puts a unit into the queue. Where the queue is full it refuses commands, the last
// ones first.
func (l *line) add(u *unit) {
	l.mu.Lock()
	defer l.mu.Unlock()
	u.ejected = l.ejected
	if l.isEjected {
		return
	}
	room := max(0, min(len(u.commands), l.maxQueue-l.commands))
	for _, c := range u.commands[room:] {
		c.unit, c.err = nil, ErrQueueFull
	}
	if u.commands = u.commands[:room]; room == 0 {
		return
	}
	l.count(room)
	l.queue = append(l.queue, u)
	if !l.sending {
		l.sending = true
		gopool.Go(l.send) // whose goroutines have stacks that need not grow
	}
}

// count counts n more commands that wait. The caller must hold mu.
func (l *line) count(n int) {
	l.commands += n
	l.waiting.Add(int64(n))
}

// send sends one pipeline after the other until nothing waits. A second one at a time
// would gain nothing: what waits meanwhile makes the next one larger, and so cheaper.
func (l *line) send() {
	for {
		runtime.Gosched() // whoever is about to add something does so first
		units, commands := l.take()
		if len(units) == 0 {
			return
		}
		l.exec(commands)
		l.mu.Lock()
		l.count(-len(commands))
		l.mu.Unlock()
		for _, u := range units {
			close(u.done)
		}
	}
}

// take takes a pipeline from the queue. Where there is none, send must end.
func (l *line) take() (units []*unit, commands []*command) {
	l.mu.Lock()
	defer l.mu.Unlock()
	n := 0
	for ; n < len(l.queue) && len(commands) < maxCommands; n++ {
		commands = append(commands, l.queue[n].commands...)
	}
	units = l.queue[:n:n]
	l.queue = l.queue[n:]
	l.sending = n > 0
	return units, commands
}

// exec runs commands. Where there are several masters, it ejects one that does not answer.
func (l *line) exec(commands []*command) {
	ctx, cancel := context.WithTimeout(context.Background(), l.timeout)
	defer cancel()
	if !l.servers.several() {
		l.pipelines.exec(ctx, l.server, false, commands, maxRedirects)
		return
	}
	began := time.Now()
	// A machine that stands still keeps all masters from answering.
	slow := time.AfterFunc(l.timeout/4+l.replicaTimeout(), func() {
		l.pipelines.mu.Lock()
		others := l.answered.After(began)
		l.pipelines.mu.Unlock()
		if others {
			l.eject()
		}
	})
	defer slow.Stop()
	l.pipelines.exec(ctx, l.server, false, commands, maxRedirects)
	if time.Since(began) >= l.timeout {
		l.eject()
		return
	}
	l.pipelines.mu.Lock()
	defer l.pipelines.mu.Unlock()
	if began.After(l.answered) {
		l.answered = began
	}
}

// replicaTimeout is how long replicas have for what a pipeline wrote; then its connection can
// be used again.
func (p *pipelines) replicaTimeout() time.Duration {
	if p.replicas == 0 {
		return 0
	}
	return max(time.Millisecond, p.timeout/3)
}

// exec runs commands on a server in one pipeline, and sets the err of each. Those that
// are redirected run where they belong.
func (p *pipelines) exec(ctx context.Context, server *redis.Client, asking bool, commands []*command, redirects int) {
	pipe := server.Pipeline()
	for _, c := range commands {
		if asking {
			pipe.Do(ctx, "asking")
		}
		c.SetErr(nil) // else an earlier answer would stay where the connection breaks
		pipe.Process(ctx, c.Cmder)
	}
	waited := redis.NewIntCmd(ctx, "wait", p.replicas, p.replicaTimeout().Milliseconds())
	if p.replicas > 0 {
		pipe.Process(ctx, waited)
	}
	sent, err := pipe.Exec(ctx)
	if err != nil && !slices.ContainsFunc(sent, func(c redis.Cmder) bool { return c.Err() != nil }) {
		for _, c := range sent { // go-redis leaves them as they are where Redis refuses the connection
			c.SetErr(err)
		}
	}

	type target struct {
		server *redis.Client
		asking bool
	}
	again := map[target][]*command{}
	few := 0
	for _, c := range commands {
		c.err = c.Err()
		switch {
		case c.err == nil && waited.Err() != nil:
			c.err = waited.Err()
		case c.err == nil && waited.Val() < int64(p.replicas):
			c.err = fmt.Errorf("%w: %d of %d", errFewReplicas, waited.Val(), p.replicas)
			few++
		case c.err == nil || redirects == 0 || ctx.Err() != nil:
		case redis.HasErrorPrefix(c.err, "NOSCRIPT"):
			to := target{server, asking}
			if len(again[to]) == 0 || redirects == 1 { // else Redis knows it when it comes to the others
				c.withSource()
			}
			again[to] = append(again[to], c)
		default:
			if server, asking, ok := p.redirected(ctx, c.key, c.err); ok {
				to := target{server, asking}
				again[to] = append(again[to], c)
			}
		}
	}
	p.failures.Add(float64(few))
	for to, commands := range again {
		p.exec(ctx, to.server, to.asking, commands, redirects-1)
	}
}

// eject has the commands for the master fail at once until it answers a probe, so that
// it holds up nothing else.
func (l *line) eject() {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.isEjected {
		return
	}
	l.isEjected = true
	close(l.ejected)
	for _, u := range l.queue {
		l.count(-len(u.commands))
	}
	l.queue = nil
	slog.Warn("a Redis master is ejected, since it does not answer", "address", l.server.Options().Addr)
	go l.probe()
}

// probe asks the master until it answers, or until its client is closed.
func (l *line) probe() {
	for {
		ctx, cancel := context.WithTimeout(context.Background(), l.timeout)
		err := l.server.Ping(ctx).Err()
		cancel()
		switch {
		case errors.Is(err, redis.ErrClosed):
			return
		case err == nil:
			l.mu.Lock()
			defer l.mu.Unlock()
			l.isEjected, l.ejected = false, make(chan struct{})
			slog.Info("a Redis master answers again", "address", l.server.Options().Addr)
			return
		}
		time.Sleep(probeInterval)
	}
}
