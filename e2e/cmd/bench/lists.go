package main

import (
	"context"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"net/http"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"im/e2e/stack"
)

// lists tells what lists of chats cost.
func (g generator) lists(ctx context.Context, cfg config, o stack.Options) (string, error) {
	o.RPCServers, o.Gateways = 2, 2
	o.Dir = filepath.Join(o.Dir, "lists")
	o.Logs = filepath.Join(o.Dir, "logs")
	s, err := stack.Start(ctx, o)
	if err != nil {
		return "", err
	}
	defer s.Stop()
	g.name, g.stack = "lists", s
	sender := client()

	var b strings.Builder
	b.WriteString(listsPreface)
	for _, n := range cfg.Listed {
		if err := fillList(ctx, sender, s.URL(), n); err != nil {
			return "", err
		}
		line, err := g.listOf(ctx, cfg, sender, n)
		if err != nil {
			return "", err
		}
		fmt.Print(line)
		b.WriteString(line)
	}
	busy, err := g.busyList(ctx, cfg, sender, cfg.Listed[len(cfg.Listed)-1])
	if err != nil {
		return "", err
	}
	b.WriteString(busy)
	waiters := cfg.Waiting[0] / 5
	crowd, err := g.gather(ctx, waiters, "/api/chats?member=idle-{}&total=0&wait=50")
	if err != nil {
		return "", err
	}
	idle := g.idle(cfg.Duration)
	if err := crowd.leave(); err != nil {
		return "", err
	}
	delays, err := deliverLists(ctx, s, waiters, cfg.deliveries())
	if err != nil {
		return "", err
	}
	all, three, _ := strings.Cut(idle, " | ")
	fmt.Fprintf(&b, listWaitersText, waiters, all, three, cfg.deliveries(), deliveryRate, millis(delays[len(delays)/2]), millis(delays[len(delays)*99/100]))
	return b.String(), nil
}

// fillList has a member get a message in each of n chats.
func fillList(ctx context.Context, client *http.Client, url string, n int) error {
	next, failed := make(chan int), make(chan error, 1)
	var all sync.WaitGroup
	for range 64 {
		all.Go(func() {
			for i := range next {
				if err := sendTo(ctx, client, url, n, i); err != nil {
					select {
					case failed <- err:
					default:
					}
				}
			}
		})
	}
	for i := range n {
		next <- i
	}
	close(next)
	all.Wait()
	select {
	case err := <-failed:
		return err
	default:
		return nil
	}
}

// sendTo sends to the ith of the n chats of a member.
func sendTo(ctx context.Context, client *http.Client, url string, n, i int) error {
	return post(ctx, client, url+"/api/send", fmt.Sprintf(`{"chat":"list-%d:other-%d","sender":"other-%d","text":"message %d"}`, n, i, i, rand.Int64()))
}

// listOf returns the row of a list of ten of n chats, which one client asks for again and again.
func (g generator) listOf(ctx context.Context, cfg config, client *http.Client, n int) (string, error) {
	var took []time.Duration
	spent := meter(g.processes())
	for end := time.Now().Add(cfg.Duration); time.Now().Before(end); {
		began := time.Now()
		if _, err := getList(ctx, client, g.stack.URL(), fmt.Sprintf("list-%d", n), "&limit=10"); err != nil {
			return "", err
		}
		took = append(took, time.Since(began))
	}
	cpu := spent(float64(len(took)))
	slices.Sort(took)
	return fmt.Sprintf("| %d | %.2f | %.2f | %.0f | %s |\n", n, millis(took[len(took)/2]), millis(took[len(took)*99/100]), micros(round{cpu: cpu}.total()),
		fmt.Sprintf("http-server %.0f, rpc-server %.0f, Redis %.0f", costOf("http-server")(round{cpu: cpu}), costOf("rpc-server")(round{cpu: cpu}), costOf("redis")(round{cpu: cpu}))), nil
}

// getList returns the total of a member's list.
func getList(ctx context.Context, client *http.Client, url, member, query string) (total int64, err error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url+"/api/chats?member="+member+query, nil)
	if err != nil {
		return 0, err
	}
	resp, err := client.Do(req)
	if err != nil {
		return 0, err
	}
	defer resp.Body.Close()
	var list struct{ Total int64 }
	if resp.StatusCode != http.StatusOK {
		return 0, fmt.Errorf("the list of %s: %s", member, resp.Status)
	}
	return list.Total, json.NewDecoder(resp.Body).Decode(&list)
}

// busyList tells what one costs who waits for a list of n chats which get messages all the time.
func (g generator) busyList(ctx context.Context, cfg config, client *http.Client, n int) (string, error) {
	measure := func() (float64, error) {
		spent := meter(g.processes())
		began := time.Now()
		for sent := 0; time.Since(began) < cfg.Duration; sent++ {
			time.Sleep(time.Until(began.Add(time.Duration(sent) * time.Second / deliveryRate)))
			if err := sendTo(ctx, client, g.stack.URL(), n, rand.IntN(n)); err != nil {
				return 0, err
			}
		}
		return share(spent(1), time.Since(began)), nil
	}
	without, err := measure()
	if err != nil {
		return "", err
	}
	waiting, stop := context.WithCancel(ctx)
	looks, ended := 0, make(chan struct{})
	go func() {
		defer close(ended)
		total := int64(0)
		for waiting.Err() == nil {
			if now, err := getList(waiting, client, g.stack.URL(), fmt.Sprintf("list-%d", n), fmt.Sprintf("&total=%d&wait=50", total)); err == nil {
				total = now
				looks++
			}
		}
	}()
	with, err := measure()
	stop()
	<-ended
	return fmt.Sprintf(busyListText, n, deliveryRate, float64(looks)/cfg.Duration.Seconds(), with-without), err
}

// deliverLists sends to members who wait for their lists at the other gateway, and returns,
// sorted, how long after the answer to the sender each one's answer came.
func deliverLists(ctx context.Context, s *stack.Stack, waiters, deliveries int) ([]time.Duration, error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	type arrival struct {
		member int
		total  int64
		at     time.Time
	}
	arrived, failed := make(chan arrival, deliveries), make(chan error, waiters)
	client := &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: waiters}}
	for member := range waiters {
		go func() {
			for total := int64(0); ; {
				now, err := getList(ctx, client, "http://"+s.Gateways[1].Addr, fmt.Sprintf("waits-%d", member), fmt.Sprintf("&total=%d&wait=50", total))
				if err != nil {
					failed <- err
					return
				}
				if now != total {
					total = now
					arrived <- arrival{member, total, time.Now()}
				}
			}
		}()
	}
	if err := waitUntil(ctx, s.Gateways[1], "http_waiters", waiters); err != nil {
		return nil, err
	}
	sent, counts := map[arrival]time.Time{}, map[int]int64{}
	began := time.Now()
	for n := range deliveries {
		time.Sleep(time.Until(began.Add(time.Duration(n) * time.Second / deliveryRate)))
		member := n % waiters
		if err := post(ctx, client, "http://"+s.Gateways[0].Addr+"/api/send", fmt.Sprintf(`{"chat":"waits-%d:friend","sender":"friend","text":"%d"}`, member, n)); err != nil {
			return nil, err
		}
		counts[member]++
		sent[arrival{member: member, total: counts[member]}] = time.Now()
	}
	var delays []time.Duration
	for range deliveries {
		select {
		case a := <-arrived:
			delays = append(delays, max(0, a.at.Sub(sent[arrival{member: a.member, total: a.total}])))
		case err := <-failed:
			return nil, err
		case <-time.After(time.Minute):
			return nil, fmt.Errorf("%d of %d messages arrived", len(delays), deliveries)
		}
	}
	slices.Sort(delays)
	return delays, nil
}

const listsPreface = `
## Lists of chats

A list of ten, asked for by one client, again and again, of a member of so many chats with a message each. Two gateways, two rpc-servers; CPU times of all processes.

| chats | p50 ms | p99 ms | CPU µs | of which, µs |
|---|---|---|---|---|
`

const busyListText = `
One client waits for a list of %d chats, which get %d messages a second: it is answered %.1f times a second, which costs %.0f %% of a core.
`

const listWaitersText = `
%d clients that wait for their lists, while nothing happens: %s of a core for two gateways, two rpc-servers and Redis, %s for one of each. %d messages, %d a second,
to one after the other: from the answer to the sender to the answer to who waits %.2f ms in the median, and %.2f ms in the 99th percentile.
`
