package main

import (
	"bufio"
	"context"
	"crypto/tls"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"im/e2e/stack"
)

const (
	// idleTime is how long clients that wait are watched while nothing happens.
	idleTime = 30 * time.Second
	// deliveries is how many messages are waited for, and deliveryRate how many a second.
	deliveries, deliveryRate = 1000, 100
)

// waiters tells what clients cost that wait for news, and how soon they have them.
func (g generator) waiters(ctx context.Context, cfg config, options stack.Options) (string, error) {
	options.RPCServers, options.Gateways = 2, 2
	options.Dir = filepath.Join(options.Dir, "waiters")
	options.Logs = filepath.Join(options.Dir, "logs")
	options.Settings = append(slices.Clone(options.Settings), "MAX_CONNECTIONS=20000", "LEAVE_WAIT=2s")
	s, err := stack.Start(ctx, options)
	if err != nil {
		return "", err
	}
	defer s.Stop()
	g.name, g.stack = "beside waiters", s
	time.Sleep(2 * time.Second) // the gateways open their streams

	var b strings.Builder
	b.WriteString(waitersPreface)
	full, err := g.ask(loads[1], cfg.Duration) // also fills the chats
	if err != nil {
		return "", err
	}
	rate := int(full.rate / 2)
	for _, n := range []int{5000, 10000} {
		before := s.Gateways[0].Memory()
		crowd, err := gather(ctx, s.URL(), n)
		if err != nil {
			return "", err
		}
		time.Sleep(5 * time.Second)
		spent := meter(g.processes())
		time.Sleep(idleTime)
		cpu := spent(1)
		memory := s.Gateways[0].Memory() - before
		with := open(client(), s.URL(), "send", rate, cfg.Duration)
		left := time.Now()
		crowd.leave()
		gone, err := untilNone(ctx, s.Gateways[0], left)
		if err != nil {
			return "", err
		}
		without := open(client(), s.URL(), "send", rate, cfg.Duration)
		polling := meter(g.processes())
		polled := open(client(), s.URL(), "pull", n, cfg.Duration)
		pollingCPU := polling(1)
		line := fmt.Sprintf("| %d | %.1f %% | %.0f %% | %.1f | %.2f | %d | %.1f |\n", n,
			share(cpu, idleTime), share(pollingCPU, cfg.Duration)*float64(n)/polled.Rate, float64(memory)/1024/float64(n),
			with.Latencies.P99.Seconds()/without.Latencies.P99.Seconds(), rate, gone.Seconds())
		fmt.Print(line)
		b.WriteString(line)
	}
	delays, err := deliver(ctx, s)
	if err != nil {
		return "", err
	}
	fmt.Fprintf(&b, deliveryText, deliveries, deliveryRate, millis(delays[len(delays)/2]), millis(delays[len(delays)*99/100]))
	return b.String(), nil
}

func millis(d time.Duration) float64 { return d.Seconds() * 1000 }

// share is how much of a core processes used, in a hundred.
func share(cpu map[string]time.Duration, d time.Duration) (percent float64) {
	for _, t := range cpu {
		percent += 100 * float64(t) / float64(d)
	}
	return percent
}

// crowd is many clients that wait, each for a chat of its own.
type crowd struct {
	conns []net.Conn
	ended sync.WaitGroup
}

// gather has n clients wait.
func gather(ctx context.Context, url string, n int) (*crowd, error) {
	scheme, address, _ := strings.Cut(url, "://")
	c := &crowd{}
	for i := range n {
		conn, err := net.Dial("tcp", address)
		if err != nil {
			return nil, err
		}
		if scheme == "https" {
			conn = tls.Client(conn, &tls.Config{InsecureSkipVerify: true})
		}
		c.conns = append(c.conns, conn)
		request := fmt.Sprintf("GET /api/pull?chat=idle-a-%d:idle-b-%d&wait=50 HTTP/1.1\r\nHost: im\r\n\r\n", i, i)
		c.ended.Go(func() {
			reader := bufio.NewReaderSize(conn, 16)
			for {
				if _, err := io.WriteString(conn, request); err != nil {
					return
				}
				resp, err := http.ReadResponse(reader, nil)
				if err != nil {
					return
				}
				io.Copy(io.Discard, resp.Body)
				resp.Body.Close()
			}
		})
		if i%100 == 99 { // a listener's backlog is no place for thousands
			time.Sleep(20 * time.Millisecond)
		}
	}
	return c, ctx.Err()
}

// leave closes all connections.
func (c *crowd) leave() {
	for _, conn := range c.conns {
		conn.Close()
	}
	c.ended.Wait()
}

// untilNone returns how long after left nobody waits at a gateway any more.
func untilNone(ctx context.Context, gateway *stack.Process, left time.Time) (time.Duration, error) {
	for ctx.Err() == nil && time.Since(left) < time.Minute {
		resp, err := http.Get("http://" + gateway.Admin + "/metrics")
		if err != nil {
			return 0, err
		}
		body, err := io.ReadAll(resp.Body)
		resp.Body.Close()
		if err != nil {
			return 0, err
		}
		if strings.Contains(string(body), "\nhttp_waiters 0\n") {
			return time.Since(left), nil
		}
		time.Sleep(20 * time.Millisecond)
	}
	return 0, fmt.Errorf("clients that have left still wait after %s", time.Since(left))
}

// deliver sends by one gateway what is waited for at the other one, and returns, sorted, how
// long after the answer to the sender each waiter's answer came.
func deliver(ctx context.Context, s *stack.Stack) ([]time.Duration, error) {
	const chat = "deliver-a:deliver-b"
	type arrival struct {
		text string
		at   time.Time
	}
	arrived, failed := make(chan arrival, deliveries), make(chan error, 1)
	go func() {
		for cursor := 0; cursor < deliveries; {
			resp, err := http.Get(fmt.Sprintf("http://%s/api/pull?chat=%s&cursor=%d&wait=50", s.Gateways[1].Addr, chat, cursor))
			if err != nil {
				failed <- err
				return
			}
			var page struct{ Messages []struct{ Text string } }
			err = json.NewDecoder(resp.Body).Decode(&page)
			resp.Body.Close()
			if err != nil {
				failed <- err
				return
			}
			for _, m := range page.Messages {
				arrived <- arrival{m.Text, time.Now()}
			}
			cursor += len(page.Messages)
		}
	}()
	client := &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: 10}}
	sent := map[string]time.Time{}
	began := time.Now()
	for n := range deliveries {
		time.Sleep(time.Until(began.Add(time.Duration(n) * time.Second / deliveryRate)))
		text := fmt.Sprint(n)
		if err := post(ctx, client, "http://"+s.Gateways[0].Addr+"/api/send", fmt.Sprintf(`{"chat":%q,"sender":"deliver-a","text":%q}`, chat, text)); err != nil {
			return nil, err
		}
		sent[text] = time.Now()
	}
	var delays []time.Duration
	for range deliveries {
		select {
		case a := <-arrived:
			delays = append(delays, max(0, a.at.Sub(sent[a.text])))
		case err := <-failed:
			return nil, err
		case <-time.After(time.Minute):
			return nil, fmt.Errorf("%d of %d messages arrived", len(delays), deliveries)
		}
	}
	slices.Sort(delays)
	return delays, nil
}

const waitersPreface = `
## Clients that wait

Two gateways, two rpc-servers; each client waits at one of the gateways for news of a chat of its own, up to 50 seconds, again and again. CPU is that of that
gateway, both rpc-servers and Redis together, of one core, over 30 seconds in which nothing is sent; beside it, the CPU of as many clients that ask each
second. Then messages are sent at half of what the system can, in other chats.

| clients | CPU, waiting | CPU, asking each second | KiB of the gateway, each | p99 of sends, ratio to without them | sends/s | seconds until none is left |
|---|---|---|---|---|---|---|
`

const deliveryText = `
%d messages, %d a second, sent by one gateway and waited for at the other one: from the answer to the sender to the answer to who waits
%.2f ms in the median, and %.2f ms in the 99th percentile.
`
