// Command bench measures the system as a whole: it starts real processes, puts
// load on them with wrk, in rounds that alternate with the floor, a Hertz server
// that answers nothing, and writes docs/benchmarks.md. Times are CPU times of
// whole processes, all servers and Redis together, for each request.
package main

import (
	"cmp"
	"context"
	"crypto/tls"
	_ "embed"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"github.com/alecthomas/kong"
	"github.com/cloudwego/hertz/pkg/app"
	"github.com/cloudwego/hertz/pkg/app/server"
	"github.com/cloudwego/hertz/pkg/network/netpoll"
	vegeta "github.com/tsenart/vegeta/v12/lib"

	"im/e2e/stack"
)

type config struct {
	Bin        string        `help:"Folder of the binaries; by default they are built."`
	Rounds     int           `default:"5" help:"Rounds of each kind of load."`
	Duration   time.Duration `default:"6s" help:"Length of a round; where the system is compared with itself as it grows, a third of that; beside a base, half."`
	RPCServers int           `default:"1" name:"rpc-servers" help:"How many rpc-servers run."`
	Long       int           `default:"1000000" help:"Messages of a long chat; a thousandth of that are a short one's."`
	Many       int           `default:"100000" help:"Chats that are many."`
	Waiting    []int         `default:"5000,10000" help:"How many clients wait; of the first number, a fifth wait for their lists."`
	Listed     []int         `default:"10,1000,10000" help:"How many chats a member has whose list is asked for."`
	Settings   []string      `help:"More settings of both servers, as NAME=value, separated by commas."`
	Base       string        `help:"Revision to compare this checkout with, side by side: it is built, too." xor:"base"`
	BaseBin    string        `help:"Folder of the binaries to compare with, in place of a revision." xor:"base"`
	Only       string        `help:"Measure nothing but the rows of that comparison whose names match this regular expression ('.' is all), and write no file."`
	Waiters    bool          `help:"Measure nothing but clients that wait, and write no file." xor:"part"`
	Lists      bool          `help:"Measure nothing but lists of chats, and write no file." xor:"part"`
	Out        string        `help:"File to write the results to, as Markdown; by default they are only printed."`
	PGO        bool          `name:"pgo" help:"Measure nothing, but write default.pgo for the checkout in this folder: where the CPU time of both servers goes."`

	Run   struct{} `cmd:"" default:"withargs" hidden:""`
	Floor struct {
		Addr string `arg:""`
	} `cmd:"" hidden:"" help:"Answer every request with an empty 200."`
	Crowd struct {
		URL  string `arg:""`
		N    int    `arg:""`
		Path string `arg:""`
	} `cmd:"" hidden:"" help:"Have as many clients ask for a path again and again until stdin ends."`
}

//go:embed load.lua
var script string

func main() {
	var cfg config
	parsed := kong.Parse(&cfg, kong.Description("Measures the system as a whole."))
	do := func() error { return run(context.Background(), cfg) }
	switch parsed.Command() {
	case "floor <addr>":
		do = func() error { floor(cfg.Floor.Addr); return nil }
	case "crowd <url> <n> <path>":
		do = func() error { return runCrowd(cfg.Crowd.URL, cfg.Crowd.N, cfg.Crowd.Path) }
	}
	if err := do(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

// floor serves nothing, as fast as Hertz can.
func floor(addr string) {
	h := server.New(server.WithHostPorts(addr), server.WithTransport(netpoll.NewTransporter), server.WithDisablePrintRoute(true))
	h.Any("/*any", func(context.Context, *app.RequestContext) {})
	h.Spin()
}

// load is what wrk asks for.
type load struct {
	name        string
	kind        string // send, pull or mix
	prefix      string // of the chats' names
	chats       int
	query       string // of a pull; empty asks for ten messages
	connections int    // 0 is 64
}

const floorLoad = "floor"

// loads are of 1,000 chats; the first is for the floor.
var loads = []load{
	{name: floorLoad, kind: "send", prefix: "floor", chats: 1000},
	{name: "send", kind: "send", prefix: "some", chats: 1000},
	{name: "pull of ten", kind: "pull", prefix: "some", chats: 1000},
	{name: "one send to four pulls", kind: "mix", prefix: "some", chats: 1000},
}

// round is what one round of a load gave.
type round struct {
	rate     float64 // requests a second
	p50, p99 time.Duration
	cpu      map[string]time.Duration // for each request, by process
}

// total is the CPU time of all processes for each request.
func (r round) total() time.Duration {
	var sum time.Duration
	for _, t := range r.cpu {
		sum += t
	}
	return sum
}

func run(ctx context.Context, cfg config) error {
	bin := cfg.Bin
	if bin == "" {
		var err error
		if bin, err = stack.Build(ctx, ".", stack.Shipped, func(what string) { fmt.Println(what) }); err != nil {
			return err
		}
	}
	base, err := findBase(ctx, cfg)
	if err != nil {
		return err
	}
	dir, err := os.MkdirTemp("", "im-bench-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	wrk := generator{name: "the system", script: filepath.Join(dir, "load.lua")}
	if err := os.WriteFile(wrk.script, []byte(script), 0o644); err != nil {
		return err
	}
	options := stack.Options{
		Bin: bin, Dir: dir, Logs: filepath.Join(dir, "logs"), RPCServers: cfg.RPCServers, Gateways: 1,
		Settings: append([]string{"LEAVE_WAIT=0s", "DRAIN_TIMEOUT=1s", fmt.Sprintf("PPROF=%t", cfg.PGO)}, cfg.Settings...),
	}
	if cfg.Waiters {
		text, err := wrk.waiters(ctx, cfg, options)
		fmt.Print(text)
		return err
	}
	if cfg.Lists {
		text, err := wrk.lists(ctx, cfg, options)
		fmt.Print(text)
		return err
	}
	if cfg.Only != "" {
		text, err := wrk.besideBase(ctx, cfg, options, base)
		fmt.Print(text)
		return err
	}
	s, err := stack.Start(ctx, options)
	if err != nil {
		return err
	}
	defer s.Stop()
	nothing := stack.Program("floor", filepath.Join(dir, "logs", "floor.log"), os.Args[0], "floor")
	if err := nothing.Start(); err != nil {
		return err
	}
	defer nothing.Kill()
	if err := nothing.Wait(ctx); err != nil {
		return err
	}

	wrk.stack, wrk.nothing = s, nothing
	if cfg.PGO {
		return profile(ctx, s, dir, func() error {
			for _, l := range loads[1:] {
				if _, err := wrk.ask(l, cfg.Duration); err != nil {
					return err
				}
			}
			return nil
		}, time.Duration(len(loads)-1)*cfg.Duration)
	}

	results := map[string][]round{}
	for i := -1; i < cfg.Rounds; i++ { // the first warms up, and fills the chats
		for _, l := range loads {
			r, err := wrk.ask(l, cfg.Duration)
			if err != nil {
				return err
			}
			if i >= 0 {
				results[l.name] = append(results[l.name], r)
				fmt.Printf("round %d  %-24s %8.0f/s  %6.1f µs  p50 %s  p99 %s\n", i+1, l.name, r.rate, micros(r.total()), r.p50, r.p99)
			}
		}
	}
	halves := map[string]*vegeta.Metrics{}
	for _, l := range loads[1:3] {
		halves[l.name] = open(client(), s.URL(), l.kind, int(median(results[l.name], rate)/2), cfg.Duration)
	}
	text := report(cfg, results, halves, s)
	growth, err := wrk.growth(ctx, cfg)
	if err != nil {
		return err
	}
	if err := s.Stop(); err != nil {
		return err
	}
	cluster, err := wrk.besideCluster(ctx, cfg, options)
	if err != nil {
		return err
	}
	secured, err := wrk.secured(ctx, cfg, options)
	if err != nil {
		return err
	}
	waiting, err := wrk.waiters(ctx, cfg, options)
	if err != nil {
		return err
	}
	listed, err := wrk.lists(ctx, cfg, options)
	if err != nil {
		return err
	}
	text += growth + cluster + secured + waiting + listed
	if base.bin != "" {
		beside, err := wrk.besideBase(ctx, cfg, options, base)
		if err != nil {
			return err
		}
		text += beside
	}
	fmt.Print(text)
	if cfg.Out == "" {
		return nil
	}
	return os.WriteFile(cfg.Out, []byte(text), 0o644)
}

// profile writes default.pgo: the CPU profiles of both servers under load, merged. load
// takes as long as d. dir is for what is written on the way.
func profile(ctx context.Context, s *stack.Stack, dir string, load func() error, d time.Duration) error {
	merge := []string{"tool", "pprof", "-proto", "-symbolize=none"}
	taken := make(chan error)
	for name, p := range map[string]*stack.Process{"http-server": s.Gateways[0], "rpc-server": s.RPCServers[0]} {
		file := filepath.Join(dir, name+".pprof")
		merge = append(merge, file)
		go func() {
			taken <- download(ctx, fmt.Sprintf("http://%s/debug/pprof/profile?seconds=%d", p.Admin, int(d.Seconds())), file)
		}()
	}
	if err := errors.Join(load(), <-taken, <-taken); err != nil {
		return err
	}
	var stderr strings.Builder
	cmd := exec.CommandContext(ctx, "go", merge...)
	cmd.Stderr = &stderr
	merged, err := cmd.Output()
	if err != nil {
		return fmt.Errorf("%s: %w\n%s", cmd, err, &stderr)
	}
	return os.WriteFile("default.pgo", merged, 0o644)
}

func download(ctx context.Context, url, file string) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return err
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		return err
	}
	if resp.StatusCode != http.StatusOK {
		return fmt.Errorf("%s answers %s: %s", url, resp.Status, body)
	}
	return os.WriteFile(file, body, 0o644)
}

// generator puts load on a stack, or on the floor.
type generator struct {
	name    string // of what it puts load on, for errors
	script  string // of wrk
	stack   *stack.Stack
	nothing *stack.Process
	tokens  string // file with a token for each chat; empty asks without
	https   bool
}

// ask runs wrk with one thread, and tells what it cost.
func (g generator) ask(l load, d time.Duration) (round, error) {
	url, processes := g.url(), g.processes()
	if l.name == floorLoad {
		url, processes = "http://"+g.nothing.Addr, []*stack.Process{g.nothing}
	}
	spent := meter(processes)
	out, err := exec.Command("wrk", "-t1", fmt.Sprintf("-c%d", cmp.Or(l.connections, 64)), fmt.Sprintf("-d%ds", max(1, int(d.Seconds()))), "--timeout=10s", "--latency",
		"-s", g.script, url, "--", l.kind, l.prefix, strconv.Itoa(l.chats), cmp.Or(l.query, "limit=10"), g.tokens).CombinedOutput()
	if err != nil {
		return round{}, fmt.Errorf("%s: %s: wrk: %w\n%s", g.name, l.name, err, out)
	}
	if strings.Contains(string(out), "Non-2xx") || strings.Contains(string(out), "Socket errors") {
		return round{}, fmt.Errorf("%s: %s: requests failed:\n%s", g.name, l.name, out)
	}
	var r round
	requests := 0.0
	for line := range strings.Lines(string(out)) {
		fields := strings.Fields(line)
		switch {
		case len(fields) == 2 && fields[0] == "Requests/sec:":
			r.rate, err = strconv.ParseFloat(fields[1], 64)
		case len(fields) == 2 && fields[0] == "50%":
			r.p50, err = time.ParseDuration(fields[1])
		case len(fields) == 2 && fields[0] == "99%":
			r.p99, err = time.ParseDuration(fields[1])
		case len(fields) > 3 && fields[1] == "requests":
			requests, err = strconv.ParseFloat(fields[0], 64)
		}
		if err != nil {
			return round{}, fmt.Errorf("wrk says %q: %w", line, err)
		}
	}
	if requests == 0 {
		return round{}, fmt.Errorf("%s: %s: wrk made no request:\n%s", g.name, l.name, out)
	}
	r.cpu = spent(requests)
	return r, nil
}

// url is the base URL of the first gateway.
func (g generator) url() string {
	if g.https {
		return strings.Replace(g.stack.URL(), "http:", "https:", 1)
	}
	return g.stack.URL()
}

// processes are those whose CPU time counts.
func (g generator) processes() []*stack.Process {
	return slices.Concat(g.stack.Redis, g.stack.RPCServers, g.stack.Gateways)
}

// meter begins to measure CPU time. The function it returns tells how much each process has used
// since, divided by the number of requests.
func meter(processes []*stack.Process) func(requests float64) map[string]time.Duration {
	before := map[string]time.Duration{}
	for _, p := range processes {
		before[p.Name] = p.CPU()
	}
	return func(requests float64) map[string]time.Duration {
		spent := map[string]time.Duration{}
		for _, p := range processes {
			spent[p.Name] = time.Duration(float64(p.CPU()-before[p.Name]) / requests)
		}
		return spent
	}
}

// client returns an HTTP client for open, with as many connections as wrk has, which it keeps:
// one that opens more while it is behind stays behind, and measures that.
func client() *http.Client {
	return &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: 64, MaxConnsPerHost: 64, TLSClientConfig: &tls.Config{InsecureSkipVerify: true}}}
}

// open asks at a fixed rate, whether or not answers come: latency means something
// only where the system is not saturated.
func open(client *http.Client, url, kind string, rate int, d time.Duration) *vegeta.Metrics {
	var asked atomic.Int64 // by several goroutines
	target := func(t *vegeta.Target) error {
		n := asked.Add(1)
		member := rand.IntN(1000)
		chat := fmt.Sprintf("some-a-%d:some-b-%d", member, member)
		t.Method, t.URL, t.Body, t.Header = http.MethodGet, url+"/api/pull?limit=10&chat="+chat, nil, nil
		if kind == "send" || kind == "mix" && n%5 == 0 {
			t.Method, t.URL = http.MethodPost, url+"/api/send"
			t.Body = fmt.Appendf(nil, `{"chat":%q,"text":"message %d","sender":"some-a-%d"}`, chat, n, member)
			t.Header = http.Header{"Content-Type": {"application/json"}}
		}
		return nil
	}
	m := new(vegeta.Metrics)
	for r := range vegeta.NewAttacker(vegeta.Client(client)).Attack(target, vegeta.Rate{Freq: rate, Per: time.Second}, d, kind) {
		m.Add(r)
	}
	m.Close()
	for _, err := range m.Errors[:min(5, len(m.Errors))] {
		fmt.Println(kind, err)
	}
	return m
}

// openAll asks as open does. Each request must be answered 200.
func (g generator) openAll(client *http.Client, kind string, rate int, d time.Duration) (*vegeta.Metrics, error) {
	m := open(client, g.url(), kind, rate, d)
	if m.Success < 1 {
		return nil, fmt.Errorf("%s: %s: only %.2f %% answered 200", g.name, kind, m.Success*100)
	}
	return m, nil
}

func median(rounds []round, of func(round) float64) float64 {
	var all []float64
	for _, r := range rounds {
		all = append(all, of(r))
	}
	return middle(all)
}

// middle sorts all, and returns the median.
func middle(all []float64) float64 {
	slices.Sort(all)
	return all[len(all)/2]
}

func micros(d time.Duration) float64 { return float64(d) / float64(time.Microsecond) }

// describe returns the name of a commit, given as git describe takes it.
func describe(commit string) string {
	name, _ := exec.Command("git", "describe", "--always", "--abbrev=12", commit).Output()
	return strings.TrimSpace(string(name))
}

func report(cfg config, results map[string][]round, halves map[string]*vegeta.Metrics, s *stack.Stack) string {
	var b strings.Builder
	kernel, _ := exec.Command("uname", "-sr").Output()
	redis, _ := exec.Command("redis-server", "--version").Output()
	version, _, _ := strings.Cut(strings.TrimPrefix(string(redis), "Redis server "), " sha")
	fmt.Fprintf(&b, preface, describe("--dirty"), runtime.NumCPU(), strings.TrimSpace(string(kernel)), version, cfg.RPCServers, cfg.Rounds, cfg.Duration)
	base := median(results["floor"], cost)
	for _, l := range loads {
		rounds := results[l.name]
		total := median(rounds, cost)
		var parts []string
		for name := range rounds[0].cpu {
			parts = append(parts, fmt.Sprintf("%s %.1f", name, median(rounds, func(r round) float64 { return micros(r.cpu[name]) })))
		}
		slices.Sort(parts)
		fmt.Fprintf(&b, "| %s | %.0f | %.1f | %.1f | %.1f | %.1f | %s |\n", l.name, median(rounds, rate),
			median(rounds, func(r round) float64 { return r.p50.Seconds() * 1000 }), median(rounds, func(r round) float64 { return r.p99.Seconds() * 1000 }),
			total, total/base, strings.Join(parts, ", "))
	}
	b.WriteString(halfPreface)
	for _, l := range loads[1:3] {
		m := halves[l.name]
		fmt.Fprintf(&b, "| %s | %.0f | %.2f %% | %.2f | %.2f | %.2f |\n", l.name, m.Rate, m.Success*100,
			m.Latencies.P50.Seconds()*1000, m.Latencies.P95.Seconds()*1000, m.Latencies.P99.Seconds()*1000)
	}
	b.WriteString("\nResident memory after all of this, in MiB:")
	for _, p := range s.Processes() {
		fmt.Fprintf(&b, " %s %d,", p.Name, p.Memory()>>20)
	}
	return strings.TrimSuffix(b.String(), ",") + ".\n"
}

const preface = `# Benchmarks

` + "`make bench`" + ` measures this, on one machine that also runs the load: commit %s, %d cores, %s, %s. One gateway, etcd, Redis with its
file flushed on every write, and %d rpc-server, metrics on; wrk with one thread and 64 connections, 1,000 chats, distinct
texts. Medians of %d rounds of %s, each kind of load after the other. CPU times are of whole processes, for each request; the floor is a Hertz server
that answers an empty 200 to the requests of send. Machines differ: compare the ratios.

| load | requests/s | p50 ms | p99 ms | CPU µs | × floor | of which, µs |
|---|---|---|---|---|---|---|
`

const halfPreface = `
At half of that rate, whether or not answers come (open loop):

| load | requests/s | answered 200 | p50 ms | p95 ms | p99 ms |
|---|---|---|---|---|---|
`
