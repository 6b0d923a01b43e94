package main

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/redis/go-redis/v9"
)

// hot compares many chats with one.
var hot = []load{
	{name: "1,000 chats", kind: "send", prefix: "some", chats: 1000},
	{name: "one", kind: "send", prefix: "hot", chats: 1},
}

// sixteen is for askBesideLarge.
var sixteen = load{name: "16 senders while two clients pull pages of 4 MiB", kind: "send", prefix: "some", chats: 1000, connections: 16}

// page is a pull of a chat's first messages, as many as limit says. Of large pages, 64 at a
// time could take longer than a call may.
func page(limit int) load {
	return load{name: fmt.Sprintf("of %d", limit), kind: "pull", prefix: "long", chats: 1, connections: 16, query: fmt.Sprintf("limit=%d", limit)}
}

// growth compares the system with itself as data and load grow, and gives a table.
// What is compared is measured in alternating rounds.
func (g generator) growth(ctx context.Context, cfg config) (string, error) {
	store := redis.NewClient(&redis.Options{Addr: g.stack.Redis[0].Addr})
	defer store.Close()
	d := cfg.Duration / 3
	var b strings.Builder
	row := func(what, base, other string, ratio float64, wanted string) {
		line := fmt.Sprintf("| %s | %s | %s | %.2f | %s |\n", what, base, other, ratio, wanted)
		fmt.Print(line)
		b.WriteString(line)
	}
	rates := func(what string, loads []load, measure func(i int) (round, error), wanted string) error {
		results, err := alternate(cfg.Rounds, len(loads), measure)
		if err != nil {
			return err
		}
		base := median(results[0], rate)
		for i, l := range loads[1:] {
			other := median(results[i+1], rate)
			row(what, fmt.Sprintf("%s: %.0f/s", loads[0].name, base), fmt.Sprintf("%s: %.0f/s", l.name, other), other/base, wanted)
		}
		return nil
	}

	// The append-only file, while there is little in it.
	modes := []string{"everysec", "always", "no file at all"}
	var sends []load
	for _, mode := range modes {
		sends = append(sends, load{name: mode, kind: "send", prefix: "file", chats: 1000})
	}
	err := rates("sends, by the append-only file's flush", sends, func(i int) (round, error) {
		if err := flush(ctx, store, modes[i]); err != nil {
			return round{}, err
		}
		return g.ask(sends[i], d)
	}, "0.9 or more")
	if err != nil {
		return "", err
	}
	if err := flush(ctx, store, "always"); err != nil {
		return "", err
	}

	// One chat that grows.
	if err := g.fill(ctx, "short", cfg.Long/1000, func(int) string { return "hello" }); err != nil {
		return "", err
	}
	if err := g.fill(ctx, "long", cfg.Long, func(n int) string { return "message " + strconv.Itoa(n) }); err != nil {
		return "", err
	}
	for _, at := range []struct{ name, short, long string }{
		{"pull of the oldest ten", "limit=10", "limit=10"},
		{"pull of ten in the middle", fmt.Sprintf("limit=10&cursor=%d", cfg.Long/2000), fmt.Sprintf("limit=10&cursor=%d", cfg.Long/2)},
		{"pull of the newest ten", "limit=10&reverse=true", "limit=10&reverse=true"},
		{"send", "", ""},
	} {
		kind, _, _ := strings.Cut(at.name, " ")
		chats := []load{
			{name: "short " + at.name, kind: kind, prefix: "short", chats: 1, query: at.short},
			{name: "long " + at.name, kind: kind, prefix: "long", chats: 1, query: at.long},
		}
		results, err := alternate(cfg.Rounds, len(chats), g.each(chats, d))
		if err != nil {
			return "", err
		}
		short, long := median(results[0], cost), median(results[1], cost)
		row(at.name+", CPU", fmt.Sprintf("a chat that begins with %d: %.1f µs", cfg.Long/1000, short), fmt.Sprintf("with %d: %.1f µs", cfg.Long, long), long/short, "1.3 or less")
	}

	if err := rates("sends to one hot chat", hot, g.each(hot, d), "0.8 or more"); err != nil {
		return "", err
	}
	pages := []load{page(10), page(1), page(100), page(1000)}
	if err := rates("pages, connections: 16", pages, g.each(pages, d), ""); err != nil {
		return "", err
	}

	if err := g.fillLarge(ctx); err != nil {
		return "", err
	}
	alone, beside := sixteen, sixteen
	alone.name, beside.name = "alone", "beside them"
	err = rates(sixteen.name, []load{alone, beside}, func(i int) (round, error) {
		if i == 0 {
			return g.ask(alone, d)
		}
		return g.askBesideLarge(ctx, beside, d)
	}, "0.7 or more")
	if err != nil {
		return "", err
	}

	memory, err := g.manyChats(ctx, cfg, store)
	if err != nil {
		return "", err
	}

	// More rpc-servers; last, since the others stay.
	base := 0.0
	for n := 1; n <= 4; n++ {
		if n > len(g.stack.RPCServers) {
			p := g.stack.AddRPCServer()
			if err := p.Start(); err != nil {
				return "", err
			}
			if err := p.Wait(ctx); err != nil {
				return "", err
			}
			time.Sleep(2 * time.Second) // the gateway's view is at most one second old
		}
		results, err := alternate(cfg.Rounds, 1, g.each(loads[1:2], d))
		if err != nil {
			return "", err
		}
		r := median(results[0], rate)
		if n == 1 {
			base = r
			continue
		}
		row("sends, by the number of rpc-servers on the same cores", fmt.Sprintf("one: %.0f/s", base), fmt.Sprintf("%d: %.0f/s", n, r), r/base, "0.9 or more")
	}
	return growthPreface + b.String() + memory, nil
}

func rate(r round) float64 { return r.rate }
func cost(r round) float64 { return micros(r.total()) }

// each returns what measures the load of a number.
func (g generator) each(loads []load, d time.Duration) func(i int) (round, error) {
	return func(i int) (round, error) { return g.ask(loads[i], d) }
}

// flush sets how often Redis flushes its file; "no file at all" is that.
func flush(ctx context.Context, store *redis.Client, mode string) error {
	if mode == "no file at all" {
		return store.ConfigSet(ctx, "appendonly", "no").Err()
	}
	if err := store.ConfigSet(ctx, "appendfsync", mode).Err(); err != nil {
		return err
	}
	if err := store.ConfigSet(ctx, "appendonly", "yes").Err(); err != nil {
		return err
	}
	for { // the file is begun anew in the background
		info, err := store.Info(ctx, "persistence").Result()
		if err != nil || !strings.Contains(info, "aof_rewrite_in_progress:1") && !strings.Contains(info, "aof_rewrite_scheduled:1") {
			return err
		}
		time.Sleep(10 * time.Millisecond)
	}
}

// fill sends messages to the one chat of a prefix.
func (g generator) fill(ctx context.Context, prefix string, messages int, text func(n int) string) error {
	return g.send(ctx, messages, func(n int) (chat, sender, said string) {
		return prefix + "-a-0:" + prefix + "-b-0", prefix + "-a-0", text(n)
	})
}

// send sends messages from 64 clients.
func (g generator) send(ctx context.Context, messages int, message func(n int) (chat, sender, text string)) error {
	client := &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: 64}}
	defer client.CloseIdleConnections()
	var sent atomic.Int64
	var failure atomic.Pointer[error]
	var all sync.WaitGroup
	for range 64 {
		all.Go(func() {
			for failure.Load() == nil {
				n := int(sent.Add(1))
				if n > messages {
					return
				}
				chat, sender, text := message(n)
				if err := post(ctx, client, g.stack.URL()+"/api/send", fmt.Sprintf(`{"chat":%q,"sender":%q,"text":%q}`, chat, sender, text)); err != nil {
					failure.Store(&err)
				}
			}
		})
	}
	all.Wait()
	if err := failure.Load(); err != nil {
		return *err
	}
	return nil
}

func post(ctx context.Context, client *http.Client, url, body string) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, url, strings.NewReader(body))
	if err != nil {
		return err
	}
	resp, err := client.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return fmt.Errorf("%s answers %s", url, resp.Status)
	}
	return nil
}

// fillLarge sends the messages of the pages that askBesideLarge has pulled.
func (g generator) fillLarge(ctx context.Context) error {
	return g.fill(ctx, "large", 70, func(int) string { return strings.Repeat("a", 64<<10) })
}

// askBesideLarge is ask while two clients pull large pages.
func (g generator) askBesideLarge(ctx context.Context, l load, d time.Duration) (round, error) {
	ctx, cancel := context.WithCancel(ctx)
	var all sync.WaitGroup
	for range 2 {
		all.Go(func() {
			for ctx.Err() == nil {
				req, err := http.NewRequestWithContext(ctx, http.MethodGet, g.stack.URL()+"/api/pull?chat=large-a-0:large-b-0&limit=1000", nil)
				if err != nil {
					return
				}
				if resp, err := http.DefaultClient.Do(req); err == nil {
					io.Copy(io.Discard, resp.Body)
					resp.Body.Close()
				}
			}
		})
	}
	defer all.Wait()
	defer cancel()
	return g.ask(l, d)
}

// manyChats tells what a chat and a message take.
func (g generator) manyChats(ctx context.Context, cfg config, store *redis.Client) (string, error) {
	sample := min(cfg.Many, 100)
	used := func() (float64, error) { // by a chat
		sum := int64(0)
		for n := range sample {
			bytes, err := store.MemoryUsage(ctx, fmt.Sprintf("chat:many-a-%d:many-b-%d", n, n), 0).Result()
			if err != nil {
				return 0, err
			}
			sum += bytes
		}
		return float64(sum) / float64(sample), nil
	}
	resident := func() string {
		return fmt.Sprintf("http-server %d, rpc-server %d", g.stack.Gateways[0].Memory()>>20, g.stack.RPCServers[0].Memory()>>20)
	}
	send := func(messages int) error {
		return g.send(ctx, messages, func(n int) (chat, sender, text string) {
			sender = fmt.Sprintf("many-a-%d", n%cfg.Many)
			return fmt.Sprintf("%s:many-b-%d", sender, n%cfg.Many), sender, "How about lunch at noon?"
		})
	}
	servers := resident()
	if err := send(cfg.Many); err != nil {
		return "", err
	}
	first, err := used()
	if err != nil {
		return "", err
	}
	if err := send(4 * cfg.Many); err != nil {
		return "", err
	}
	five, err := used()
	if err != nil {
		return "", err
	}
	return fmt.Sprintf(memoryText, cfg.Many, first, (five-first)/4, servers, resident()), nil
}

const growthPreface = `
## As it grows

Rounds of a third of the length, alternating but for the number of rpc-servers.

| what | base | other | other / base | wanted |
|---|---|---|---|---|
`

const memoryText = `
%d new chats take %.0f bytes of Redis's memory each, with a first message of 24 bytes; each of four more messages takes %.0f. Resident
memory of the servers in MiB, before: %s; after: %s.
`
