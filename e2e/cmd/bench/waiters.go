package main

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"time"

	"im/e2e/stack"
)

const (
	// idleRounds is for how many rounds clients that wait are watched while nothing happens.
	idleRounds = 5
	// besideRounds is how many times as many rounds as of other loads are sent beside them, each
	// of half the length: a 99th percentile hangs on a few flushes of the disk, the median of
	// many does not.
	besideRounds = 4
	// deliveryRate is how many messages a second are waited for.
	deliveryRate = 100
)

// waiters tells what clients cost that wait for news, and how soon they have them.
func (g generator) waiters(ctx context.Context, cfg config, o stack.Options) (string, error) {
	authority, err := stack.NewAuthority(o.Dir)
	if err != nil {
		return "", err
	}
	cert, key, err := authority.Issue("gateway")
	if err != nil {
		return "", err
	}
	change := func(settings ...string) func(*stack.Options) {
		return func(o *stack.Options) {
			o.RPCServers, o.Gateways = 2, 2
			o.Settings = append(append(o.Settings, "MAX_CONNECTIONS=20000"), settings...)
		}
	}
	plain := system{name: "plain text", change: change()}
	secured := system{name: "TLS", https: true, change: change("TLS_CERT_FILE="+cert, "TLS_KEY_FILE="+key)}
	systems, stop, err := g.start(ctx, o, []system{plain, plain, secured, secured})
	defer stop()
	if err != nil {
		return "", err
	}
	var b strings.Builder
	b.WriteString(waitersPreface)
	for pair := range slices.Chunk(systems, 2) {
		side, twin := pair[0], pair[1]
		full, err := side.ask(loads[1], cfg.Duration) // also fills the chats
		if err != nil {
			return "", err
		}
		if _, err := twin.ask(loads[1], cfg.Duration); err != nil {
			return "", err
		}
		for i, n := range append([]int{0}, cfg.Waiting...) {
			if side.https && i > 1 {
				break // with their handshakes, they and who asks are too much for two cores
			}
			row, err := side.crowded(ctx, cfg, twin, n, int(full.rate/8))
			if err != nil {
				return "", err
			}
			fmt.Print(row)
			b.WriteString(row)
		}
	}
	delays, err := deliver(ctx, systems[0].stack, cfg.deliveries())
	if err != nil {
		return "", err
	}
	fmt.Fprintf(&b, deliveryText, cfg.deliveries(), deliveryRate, millis(delays[len(delays)/2]), millis(delays[len(delays)*99/100]))
	return b.String(), nil
}

// ofChats is what a client asks for that waits for news of a chat of its own.
const ofChats = "/api/pull?chat=idle-a-{}:idle-b-{}&wait=50"

// crowded returns the row of n clients that wait, beside which messages are sent, as they are to
// a twin of the system, where nobody waits.
func (g generator) crowded(ctx context.Context, cfg config, twin generator, n, sends int) (string, error) {
	gateway := g.stack.Gateways[0]
	if err := errors.Join(gateway.Stop(), gateway.Start(), gateway.Wait(ctx)); err != nil { // else it has the memory of those before
		return "", err
	}
	if _, err := g.ask(loads[1], cfg.Duration); err != nil { // it warms up
		return "", err
	}
	before := gateway.Memory()
	crowd, err := g.gather(ctx, n, ofChats)
	if err != nil {
		return "", err
	}
	cpu := g.idle(cfg.Duration)
	memory := gateway.Memory() - before

	sender := client()
	sides := [...]generator{g, twin}
	var p99s [len(sides)][]float64
	for i := range besideRounds * cfg.Rounds {
		for _, side := range [...]int{i % 2, 1 - i%2} { // the one, then the other is first
			m, err := sides[side].openAll(sender, "send", sends, cfg.Duration/2)
			if err != nil {
				return "", err
			}
			p99s[side] = append(p99s[side], millis(m.Latencies.P99))
		}
	}
	with, without := middle(p99s[0]), middle(p99s[1])
	left := time.Now()
	if err := crowd.leave(); err != nil {
		return "", err
	}
	if err := waitUntil(ctx, gateway, "http_waiters", 0); err != nil {
		return "", err
	}
	gone := time.Since(left)
	row := fmt.Sprintf("| %s | %d | %s | %d | %.2f → %.2f | %.2f |", g.name, n, cpu, sends, without, with, with/without)
	if n == 0 {
		return row + " | | |\n", nil
	}
	spent := meter(g.processes())
	if _, err := g.openAll(client(), "pull", n/4, cfg.Duration); err != nil {
		return "", err
	}
	return fmt.Sprintf("%s %.0f %% | %.1f | %.1f |\n", row, 4*share(spent(1), cfg.Duration), float64(memory)/1024/float64(n), gone.Seconds()), nil
}

// deliveries is how many messages are waited for: 1,000 by default.
func (cfg config) deliveries() int { return int(deliveryRate * cfg.Duration.Seconds() * 10 / 6) }

func millis(d time.Duration) float64 { return d.Seconds() * 1000 }

// idle tells what the processes use while nothing happens, for some rounds of d.
func (g generator) idle(d time.Duration) string {
	time.Sleep(d)
	idleTime := idleRounds * d
	spent := meter(g.processes())
	one := meter([]*stack.Process{g.stack.Gateways[0], g.stack.RPCServers[0], g.stack.Redis[0]})
	time.Sleep(idleTime)
	return fmt.Sprintf("%.1f %% | %.1f %%", share(spent(1), idleTime), share(one(1), idleTime))
}

// share is how much of a core processes used, in a hundred.
func share(cpu map[string]time.Duration, d time.Duration) (percent float64) {
	for _, t := range cpu {
		percent += 100 * float64(t) / float64(d)
	}
	return percent
}

// crowd is a process of many clients that wait: in this one, they would hold up who measures.
type crowd struct {
	cmd   *exec.Cmd
	stdin io.Closer
	wrong bytes.Buffer // what it says on stderr
}

// gather has n clients wait until they leave, each on a path with its number in place of {}.
func (g generator) gather(ctx context.Context, n int, path string) (*crowd, error) {
	c := &crowd{cmd: exec.CommandContext(ctx, os.Args[0], "crowd", g.url(), strconv.Itoa(n), path)}
	c.cmd.Stderr = &c.wrong
	var err error
	if c.stdin, err = c.cmd.StdinPipe(); err != nil {
		return nil, err
	}
	if err := c.cmd.Start(); err != nil {
		return nil, err
	}
	if err := waitUntil(ctx, g.stack.Gateways[0], "http_waiters", n); err != nil {
		return nil, errors.Join(err, c.leave())
	}
	return c, nil
}

// leave has all leave at a time. The error is that of one that got anything but a 200.
func (c *crowd) leave() error {
	c.stdin.Close()
	if err := c.cmd.Wait(); err != nil {
		return fmt.Errorf("clients that wait: %w: %s", err, &c.wrong)
	}
	return nil
}

// runCrowd has n clients wait until stdin ends. The error is that of one that got anything but
// a 200.
func runCrowd(url string, n int, path string) error {
	scheme, address, _ := strings.Cut(url, "://")
	var conns []net.Conn
	wrong := make(chan error, n)
	for i := range n {
		conn, err := net.Dial("tcp", address)
		if err != nil {
			return err
		}
		if scheme == "https" {
			conn = tls.Client(conn, &tls.Config{InsecureSkipVerify: true})
		}
		conns = append(conns, conn)
		go func() { wrong <- waitOn(conn, strings.ReplaceAll(path, "{}", strconv.Itoa(i))) }()
		if i%100 == 99 { // a listener's backlog is no place for thousands
			time.Sleep(20 * time.Millisecond)
		}
	}
	io.Copy(io.Discard, os.Stdin)
	for _, conn := range conns {
		conn.Close()
	}
	for range conns {
		if err := <-wrong; err != nil && !errors.Is(err, net.ErrClosed) {
			return err
		}
	}
	return nil
}

// waitOn asks for a path again and again, until the connection ends.
func waitOn(conn net.Conn, path string) error {
	reader := bufio.NewReaderSize(conn, 16)
	for {
		if _, err := io.WriteString(conn, "GET "+path+" HTTP/1.1\r\nHost: im\r\n\r\n"); err != nil {
			return err
		}
		resp, err := http.ReadResponse(reader, nil)
		if err != nil {
			return err
		}
		body, err := io.ReadAll(resp.Body)
		resp.Body.Close()
		if err != nil {
			return err
		}
		if resp.StatusCode != http.StatusOK {
			return fmt.Errorf("%s %s", resp.Status, body)
		}
	}
}

// waitUntil waits until a metric of a server has a value.
func waitUntil(ctx context.Context, server *stack.Process, metric string, value int) error {
	for end := time.Now().Add(time.Minute); ctx.Err() == nil && time.Now().Before(end); time.Sleep(20 * time.Millisecond) {
		if is, err := server.Metric(ctx, metric); err != nil {
			return err
		} else if is == float64(value) {
			return nil
		}
	}
	return fmt.Errorf("%s is not %d after a minute", metric, value)
}

// deliver sends by one gateway what is waited for at the other one, and returns, sorted, how
// long after the answer to the sender each waiter's answer came.
func deliver(ctx context.Context, s *stack.Stack, deliveries int) ([]time.Duration, error) {
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

Two gateways, two rpc-servers; each client waits at one of the gateways for news of a chat of its own, up to 50 seconds, again and again. CPU is that of both
gateways, both rpc-servers and Redis together, of one core, over five rounds in which nothing is sent, and that of this gateway, an rpc-server and Redis alone.
Then messages are sent to other chats, in turn beside the clients and to a twin of the system, where nobody waits: an eighth of what the system takes at 64
connections, whether or not answers come (open loop), which with batches that small, and who asks, is half of the machine. Of that the table has the 99th percentile at the twin and here, the
median of four times as many rounds as above, of half the length; the row without clients tells how much that is worth. Last, all clients leave at a time, and as many
ask each second (four times the CPU of a quarter of them: the machine has too few cores for all).

| connections | clients | CPU, waiting | of three | sends/s | p99 of them, ms | ratio | CPU, asking each second | KiB of the gateway, each | seconds until none is left |
|---|---|---|---|---|---|---|---|---|---|
`

const deliveryText = `
%d messages, %d a second, sent by one gateway and waited for at the other one: from the answer to the sender to the answer to who waits
%.2f ms in the median, and %.2f ms in the 99th percentile.
`
