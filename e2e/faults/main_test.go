// Package faults runs the checker on real processes while something breaks: a
// server dies or freezes, Redis or etcd goes away, the disk fills, the clock
// jumps, or more comes than the system can carry.
//
// As it is, it breaks a choice of things for some seconds each. With -full it
// breaks everything for as long as docs/faults.md says, which it then writes:
//
//	go test ./faults -full -timeout 30m
package faults

import (
	"cmp"
	"context"
	"errors"
	"flag"
	"fmt"
	"maps"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/redis/go-redis/v9/logging"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"im/e2e/check"
	"im/e2e/stack"
)

var (
	full = flag.Bool("full", false, "break everything, for long, and write docs/faults.md")
	seed = flag.Uint64("seed", uint64(time.Now().UnixNano()), "of what the checker chooses at random")
)

// bin is the folder of the binaries, as make run has them.
var bin string

// baseRevision is an older version of the servers, to upgrade from and to compare with.
const baseRevision = "696678a"

// baseBin builds baseRevision, once, and returns the folder of its binaries.
var baseBin = sync.OnceValues(func() (string, error) {
	return stack.BuildRevision(context.Background(), "../..", baseRevision, func(what string) { fmt.Println(what) })
})

func TestMain(m *testing.M) {
	flag.Parse()
	logging.Disable() // of the clients that ask a Redis which is down
	var err error
	bin, err = stack.Build(context.Background(), "../..", stack.Shipped, func(what string) { fmt.Println(what) })
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	code := m.Run()
	if code == 0 && len(outcomes) == len(faults) {
		if err := write("../../docs/faults.md"); err != nil {
			fmt.Fprintln(os.Stderr, err)
			code = 1
		}
	}
	os.Exit(code)
}

// fault is something that breaks while the checker runs.
type fault struct {
	id, name string        // for go test -run, and for docs/faults.md
	brief    time.Duration // 0 means only with -full
	full     time.Duration
	gateways int  // how many; 0 means 1
	fresh    int  // chats beside those that are followed; half of the messages go there
	noRetry  bool // of messages that failed
	noLists  bool // whether the servers that run in the end have none
	change   func(t *testing.T, o *stack.Options)
	// rate is how many messages are sent a second; nil is 300.
	rate func(s *scene) int
	// breaks does it, again and again until ctx ends if that is its nature.
	breaks func(ctx context.Context, s *scene)
	// kept tells whether what is promised was kept; nil is all.
	kept func(r *check.Report) bool
	// after looks at what came of it; nil does not.
	after func(s *scene, report *check.Report)
}

// scene is a fault under way.
type scene struct {
	*testing.T
	*stack.Stack
	fault fault
	dir   string // of Redis's and etcd's data
	logs  string

	times   atomic.Int64 // how often something was broken
	stops   int          // how often a gateway was stopped
	looks   float64      // of the gateways, without a hint
	counts  float64      // of chats, by the gateways
	figures []string     // what was measured, for docs/faults.md

	mu       sync.Mutex
	requests []check.Request // of the checker
	allowed  []window        // what may fail because of it
	still    []window        // when the disk stood still
}

// window is a span of time in which requests may be answered with a status.
type window struct {
	call     string                 // "send", "pull", or empty for both
	chats    func(chat string) bool // nil is all
	status   int
	from, to time.Time
}

// meets reports whether a request was under way in the window.
func (w window) meets(r check.Request) bool {
	return r.At.After(w.from) && r.At.Add(-r.Took).Before(w.to)
}

// allow lets requests that were under way between from and to fail with status.
func (s *scene) allow(call string, status int, from, to time.Time) {
	s.allowOf(nil, call, status, from, to)
}

// allowOf is allow for some chats alone.
func (s *scene) allowOf(chats func(chat string) bool, call string, status int, from, to time.Time) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.allowed = append(s.allowed, window{call, chats, status, from, to})
}

func (s *scene) observe(r check.Request) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.requests = append(s.requests, r)
}

// p99 is the 99th percentile of how long the calls for some chats took that began between
// from and to; chats that are nil are all. Requests that met a disk that stood still do not
// count.
func (s *scene) p99(call string, chats func(chat string) bool, from, to time.Time) time.Duration {
	s.mu.Lock()
	requests, still := slices.Clone(s.requests), slices.Clone(s.still)
	s.mu.Unlock()
	var took []time.Duration
	for _, r := range requests {
		began := r.At.Add(-r.Took)
		if r.Call != call || began.Before(from) || began.After(to) || chats != nil && !chats(r.Chat) {
			continue
		}
		if !slices.ContainsFunc(still, func(w window) bool { return w.meets(r) }) {
			took = append(took, r.Took)
		}
	}
	if !assert.NotEmpty(s, took, call) {
		return 0
	}
	slices.Sort(took)
	return took[len(took)*99/100].Round(10 * time.Microsecond)
}

// figure notes what was measured, for docs/faults.md.
func (s *scene) figure(format string, args ...any) {
	s.Logf(format, args...)
	s.figures = append(s.figures, fmt.Sprintf(format, args...))
}

// watchDisk flushes something to Redis's disk again and again until ctx ends. Where that
// takes half of what Redis may take, it is the machine that stands still, and requests may
// fail with 503 as they should.
func (s *scene) watchDisk(ctx context.Context) {
	f, err := os.Create(filepath.Join(s.dir, "flushed"))
	if !assert.NoError(s, err) {
		return
	}
	defer f.Close()
	for sleep(ctx, 20*time.Millisecond) {
		began := time.Now()
		_, err := f.WriteAt([]byte("x"), 0)
		assert.NoError(s, errors.Join(err, f.Sync()))
		if took := time.Since(began); took > 125*time.Millisecond {
			s.Logf("the disk took %.2f s for a flush", took.Seconds())
			s.mu.Lock()
			s.still = append(s.still, window{from: began, to: began.Add(took)})
			s.mu.Unlock()
			s.allow("", http.StatusServiceUnavailable, began, began.Add(took+500*time.Millisecond))
		}
	}
}

// outcome is a row of docs/faults.md.
type outcome struct {
	fault
	times   int64
	still   int
	waits   int // requests of those who follow
	figures []string
	report  *check.Report
}

var outcomes []outcome

// run breaks something while the checker runs. The servers are those in the folder bin.
func (f fault) run(t *testing.T, bin string) (*scene, *check.Report) {
	t.Helper()
	duration := f.brief
	if *full {
		duration = f.full
	}
	dir := t.TempDir()
	o := stack.Options{
		Bin: bin, Dir: dir, Logs: filepath.Join(dir, "logs"), RPCServers: 2, Gateways: max(1, f.gateways),
		Settings: []string{"DRAIN_TIMEOUT=1s"},
	}
	if f.change != nil {
		f.change(t, &o)
	}
	starting, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	stack, err := stack.Start(starting, o)
	require.NoError(t, err)
	t.Cleanup(func() { assert.NoError(t, stack.Stop()) })
	s := &scene{T: t, Stack: stack, fault: f, dir: dir, logs: o.Logs}

	var urls []string
	for _, g := range stack.Gateways {
		urls = append(urls, "http://"+g.Addr)
	}
	rate := 300
	if f.rate != nil {
		rate = f.rate(s)
	}
	watching, unwatch := context.WithCancel(t.Context())
	defer unwatch()
	watched := make(chan struct{})
	go func() {
		defer close(watched)
		s.watchDisk(watching)
	}()
	breaking, stop := context.WithTimeout(t.Context(), duration-time.Second)
	defer stop()
	broken := make(chan struct{})
	go func() {
		defer close(broken)
		sleep(breaking, time.Second)
		f.breaks(breaking, s)
	}()
	patience := 30 * time.Second
	if f.noRetry {
		patience = 0
	}
	report, err := check.Run(t.Context(), check.Options{
		URLs: urls, Duration: duration, Chats: chats, Fresh: f.fresh, Rate: rate, Patience: patience, Repeats: 10, Pollers: 2, Wait: wait, Readers: 1, Seed: *seed, Observe: s.observe,
	})
	<-broken
	unwatch()
	<-watched
	require.NoError(t, err)
	t.Logf("seed %d, broken %d times\n%s", *seed, s.times.Load(), report)
	return s, report
}

const (
	chats = 100              // that are followed, each by one who waits
	wait  = 20 * time.Second // of a follower
)

// survive breaks something, and sees to it that no message is lost, stored twice
// or out of order, and that no request fails but those that may.
func (f fault) survive(t *testing.T) {
	t.Helper()
	s, report := f.run(t, bin)
	kept := (*check.Report).Good
	if f.kept != nil {
		kept = f.kept
	}
	assert.True(t, kept(report), "a promise is broken")
	assert.NotZero(t, s.times.Load(), "nothing was broken")
	assert.Greater(t, report.Acknowledged, int(report.Took.Seconds())*10, "hardly anything was acknowledged")
	followed := report.Acknowledged
	if f.fresh > 0 {
		followed /= 2
	}
	assert.Greater(t, report.Polled, followed/2)
	assert.Equal(t, f.noLists, report.Lists == 0, "lists that were read")
	var unexcused []string
	for _, failure := range report.Failures {
		if !s.excused(failure) {
			unexcused = append(unexcused, fmt.Sprintf("%s %s %d %s, %.3f s after the start, after %.3f s",
				failure.Call, failure.Chat, failure.Status, failure.Err, failure.At.Sub(report.Began).Seconds(), failure.Took.Seconds()))
		}
	}
	assert.Empty(t, unexcused[:min(20, len(unexcused))], "%d requests failed", len(unexcused))
	waits := s.boundsFollowers(report)
	for _, p := range s.Processes() {
		log, err := os.ReadFile(p.Log)
		assert.NoError(t, err)
		assert.NotContains(t, string(log), "panic", p.Name)
	}
	if f.after != nil {
		f.after(s, report)
	}
	outcomes = append(outcomes, outcome{f, s.times.Load(), len(s.still), waits, s.figures, report})
}

// boundsFollowers sees to it that those who wait are answered when there is news or their time is
// over, and that the gateways neither look nor count again and again for them meanwhile. It
// returns how many requests they made.
func (s *scene) boundsFollowers(report *check.Report) (waits int) {
	early := 0
	for _, r := range s.requests {
		if r.Call != "wait" {
			continue
		}
		waits++
		if r.Status == http.StatusOK && !r.News && r.Took < wait-time.Second && !s.excused(r) {
			early++
		}
	}
	assert.LessOrEqual(s, early, chats*s.stops, "they were answered without news, though no gateway was stopped")
	for _, p := range s.Gateways {
		s.tally(p)
	}
	// Each look and count is followed by a pause of a second on average, or has a cause of its own.
	most := 2 * chats * time.Since(report.Began).Seconds()
	assert.LessOrEqual(s, s.looks, most, "they look again and again")
	assert.LessOrEqual(s, s.counts, most, "they count again and again")
	s.Logf("%d waits for %d messages; %d ended early without news; %.0f looks without a hint, %.0f counts", waits, report.Polled, early, s.looks, s.counts)
	return waits
}

// tally adds what a gateway has looked at without a hint, and counted, since it was started.
func (s *scene) tally(gateway *stack.Process) {
	metric := func(name string, labels ...string) float64 {
		n, err := gateway.Metric(s.Context(), name, labels...)
		assert.NoError(s, err)
		return n
	}
	const looks = "rpc_client_wait_looks_total"
	s.looks += metric(looks, "cause", "timer") + metric(looks, "cause", "stream")
	s.counts += metric("rpc_client_wait_counts_total")
}

func (s *scene) excused(f check.Request) bool {
	if f.Call == "wait" {
		f.Took = min(f.Took, 2*time.Second) // its last look
	}
	return slices.ContainsFunc(s.allowed, func(w window) bool {
		return (w.call == "" || w.call == f.Call || w.call == "pull" && f.Call == "wait") && (w.chats == nil || w.chats(f.Chat)) && w.status == f.Status && w.meets(f)
	})
}

// failures counts the requests that failed by their status, as in "12 × 503".
func failures(r *check.Report) string {
	kinds := map[int]int{}
	for _, f := range r.Failures {
		kinds[f.Status]++
	}
	var counts []string
	for _, status := range slices.Sorted(maps.Keys(kinds)) {
		what := fmt.Sprint(status)
		if status == 0 {
			what = "broken"
		}
		counts = append(counts, fmt.Sprintf("%d × %s", kinds[status], what))
	}
	return cmp.Or(strings.Join(counts, ", "), "0")
}

// sleep waits for d or until ctx ends, and tells whether ctx goes on.
func sleep(ctx context.Context, d time.Duration) bool {
	select {
	case <-ctx.Done():
		return false
	case <-time.After(d):
		return true
	}
}

// start starts a process again and waits until it answers.
func (s *scene) start(p *stack.Process) {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	assert.NoError(s, p.Start())
	assert.NoError(s, p.Wait(ctx))
}

// restart stops a process, starts it again and waits until it answers.
func (s *scene) restart(p *stack.Process) {
	if slices.Contains(s.Gateways, p) {
		s.stops++
		s.tally(p)
	}
	assert.NoError(s, p.Stop())
	assert.Zero(s, p.ExitCode(), p.Name)
	s.start(p)
}

// sendRate is how many messages a second are acknowledged to some writers that send as
// fast as they can, and how many requests of theirs failed.
func (s *scene) sendRate(writers int, d time.Duration) (rate float64, failed int) {
	report, err := check.Run(s.Context(), check.Options{URLs: []string{s.URL()}, Duration: d, Chats: chats, Writers: writers})
	require.NoError(s, err)
	require.True(s, report.Good(), "a promise is broken")
	return float64(report.Acknowledged) / report.Took.Seconds(), len(report.Failures)
}

// write writes docs/faults.md.
func write(path string) error {
	commit, err := exec.Command("git", "describe", "--always", "--dirty", "--abbrev=12").Output()
	if err != nil {
		commit = []byte("unknown")
	}
	var b strings.Builder
	fmt.Fprintf(&b, preface, strings.TrimSpace(string(commit)), *seed, runtime.NumCPU())
	var measured strings.Builder
	total, unknown, still := 0, 0, 0
	for _, o := range outcomes {
		r := o.report
		total, unknown, still = total+r.Acknowledged, unknown+r.Unknown, still+o.still
		fmt.Fprintf(&b, "| %s | %.0f | %d | %d | %d | %d | %d | %d | %d | %s | %.2f |\n", o.name, o.full.Seconds(), o.times,
			r.Acknowledged, r.Unknown, r.Lost, r.Twice, r.Misordered+r.Gaps+r.Repeats+r.Unexpected+r.WentBack, o.waits, failures(r), r.LongestPause.Seconds())
		for _, figure := range o.figures {
			fmt.Fprintf(&measured, "- `%s`: %s\n", o.id, figure)
		}
	}
	fmt.Fprintf(&b, "\n%d messages were acknowledged, %d are unknown: answered with 5xx, and so stored once or not at all.\n"+
		"The machine's disk took more than 125 ms for a flush %d times; requests that met that may have got 503, too.\n\n"+
		"Measured beside, without the requests that met such a disk:\n\n%s", total, unknown, still, measured.String())
	return os.WriteFile(path, []byte(b.String()), 0o644)
}

const preface = `# What the system survives

Each row is the checker (` + "`e2e/check`" + `) on real processes while something breaks: two rpc-servers, a gateway (two where gateways
restart), etcd, and Redis with its file flushed on every write, on one machine, all with their default settings but where the row says
otherwise. ` + "`make faults`" + ` runs all rows and writes this page;
` + "`go -C e2e test ./faults -full -run 'TestFaults/NAME'`" + ` repeats one.

Commit %s, seed %d, %d cores. "Broken" counts how often the fault happened; "wrong" counts messages out of order and gaps
or repeats that a follower saw; "waits" are the requests of a hundred followers, each of whom waits for news of a chat, asks again at once
when they came, and a tenth of a second after a failure; the pause is the longest time, in seconds, in which no message was acknowledged.

A Redis Cluster has three masters with a replica each; Sentinel, three of them, watches a master with one replica. When a master dies, Redis
may drop what no replica had yet. Where a replica is waited for that was never acknowledged; but a follower may have seen it, and then
misses what takes its place. That is what those rows have as wrong.

| fault | seconds | broken | acknowledged | unknown | lost | twice | wrong | waits | failed requests | pause |
|---|---|---|---|---|---|---|---|---|---|---|
`
