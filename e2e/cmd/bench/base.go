package main

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"regexp"
	"strings"
	"time"

	"im/e2e/stack"
)

// version is one to compare this checkout with.
type version struct{ name, bin string }

// findBase returns the version that cfg asks for, and builds it where it has to be. It
// returns the zero version where cfg asks for none.
func findBase(ctx context.Context, cfg config) (version, error) {
	switch {
	case cfg.BaseBin != "":
		return version{"given binaries", cfg.BaseBin}, nil
	case cfg.Base != "":
		bin, err := stack.BuildRevision(ctx, ".", cfg.Base, func(what string) { fmt.Println(what) })
		return version{"commit " + describe(cfg.Base), bin}, err
	case cfg.Only != "":
		return version{}, errors.New("--only needs --base or --base-bin")
	default:
		return version{}, nil
	}
}

// trial is one row of the comparison.
type trial struct {
	name  string
	begin begin
}

// begin prepares both sides, the base first, and returns what measures one of them.
type begin func(ctx context.Context, sides []generator) (measure func(i int) (round, error), err error)

// besideBase compares this version with another one. Both run at a time, and each is idle
// while the other is measured.
func (g generator) besideBase(ctx context.Context, cfg config, o stack.Options, base version) (string, error) {
	only, err := regexp.Compile(cfg.Only)
	if err != nil {
		return "", fmt.Errorf("--only: %w", err)
	}
	d := cfg.Duration / 2
	var single []trial
	for _, connections := range []int{64, 1} {
		for _, l := range loads[1:] {
			l.connections = connections
			name := fmt.Sprintf("%s, connections: %d", l.name, connections)
			single = append(single, trial{name, closedLoop(l, d)})
		}
	}
	for _, l := range loads[1:] {
		single = append(single, trial{l.name + ", open loop", openLoop(l, d)})
	}
	single = append(single,
		trial{"send to new chats", closedLoop(load{name: "send to new chats", kind: "send", prefix: "new", chats: 1 << 30}, d)},
		trial{"this version alone: send to 1,000 chats → to one hot chat", hotChat(d)},
		trial{"pull of a thousand, connections: 16", pullThousand(d)},
		trial{sixteen.name, besideLarge(d)})

	measured := 0
	var b strings.Builder
	fmt.Fprintf(&b, basePreface, describe("--dirty"), base.name, cfg.Rounds, d)
	for _, store := range []struct {
		topology stack.Topology
		replicas int
		trials   []trial
	}{
		{stack.Single, 0, single},
		{stack.Cluster, 0, []trial{{"send, on a Redis Cluster", closedLoop(loads[1], d)}}},
		{stack.Cluster, 1, []trial{{"send, on a Redis Cluster, one replica waited for", closedLoop(loads[1], d)}}},
	} {
		var chosen []trial
		for _, t := range store.trials {
			if only.MatchString(t.name) {
				chosen = append(chosen, t)
			}
		}
		if len(chosen) == 0 {
			continue
		}
		measured += len(chosen)
		o := o
		o.Topology, o.Settings = store.topology, append(o.Settings, fmt.Sprint("REDIS_REPLICAS=", store.replicas))
		rows, err := g.besideBaseOn(ctx, cfg, o, base, chosen)
		if err != nil {
			return "", err
		}
		b.WriteString(rows)
	}
	if measured == 0 {
		return "", fmt.Errorf("--only=%s: no row has such a name", cfg.Only)
	}
	return b.String(), nil
}

// besideBaseOn starts both versions with o, and returns the rows of the trials.
func (g generator) besideBaseOn(ctx context.Context, cfg config, o stack.Options, base version, trials []trial) (string, error) {
	sides, stop, err := g.start(ctx, o, []system{
		{name: "base", change: func(o *stack.Options) { o.Bin = base.bin }},
		{name: "this version", change: func(*stack.Options) {}},
	})
	defer stop()
	if err != nil {
		return "", err
	}
	for _, side := range sides { // so that there is something to pull
		if _, err := side.ask(loads[1], cfg.Duration/2); err != nil {
			return "", err
		}
	}
	var b strings.Builder
	for _, t := range trials {
		measure, err := t.begin(ctx, sides)
		if err != nil {
			return "", err
		}
		results, err := alternate(cfg.Rounds, len(sides), measure)
		if err != nil {
			return "", err
		}
		line := besideRow(t.name, results[0], results[1])
		fmt.Print(line)
		b.WriteString(line)
	}
	return b.String(), nil
}

// besideRow is a row of the table. A ratio is the median of those of the rounds, of which
// each measured both sides at nearly the same time.
func besideRow(name string, base, this []round) string {
	figure := func(format string, of func(round) float64) string {
		return fmt.Sprintf(format+" → "+format, median(base, of), median(this, of))
	}
	cells := []string{name}
	for _, c := range []struct {
		format string
		of     func(round) float64
	}{
		{"%.0f", rate},
		{"%.1f", cost},
		{"%.2f", func(r round) float64 { return r.p50.Seconds() * 1000 }},
		{"%.2f", func(r round) float64 { return r.p99.Seconds() * 1000 }},
	} {
		var ratios []float64
		for i := range base {
			ratios = append(ratios, c.of(this[i])/c.of(base[i]))
		}
		cells = append(cells, figure(c.format, c.of), fmt.Sprintf("%.2f", middle(ratios)))
	}
	cells = append(cells, fmt.Sprintf("http-server %s, rpc-server %s, Redis %s",
		figure("%.1f", costOf("http-server")), figure("%.1f", costOf("rpc-server")), figure("%.1f", costOf("redis"))))
	return "| " + strings.Join(cells, " | ") + " |\n"
}

// closedLoop measures a load with wrk, each of whose connections asks again when it is answered.
func closedLoop(l load, d time.Duration) begin {
	return func(_ context.Context, sides []generator) (func(int) (round, error), error) {
		return func(i int) (round, error) { return sides[i].ask(l, d) }, nil
	}
}

// openLoop measures a load at a quarter of the rate that the base can take.
// A request costs the servers twice the CPU time there, since batches are small, and vegeta
// takes some, too: at half of that rate the machine would be saturated.
func openLoop(l load, d time.Duration) begin {
	return func(_ context.Context, sides []generator) (func(int) (round, error), error) {
		full, err := sides[0].ask(l, d)
		if err != nil {
			return nil, err
		}
		clients := []*http.Client{client(), client()}
		return func(i int) (round, error) {
			spent := meter(sides[i].processes())
			m, err := sides[i].openAll(clients[i], l.kind, int(full.rate/4), d)
			if err != nil {
				return round{}, err
			}
			return round{m.Rate, m.Latencies.P50, m.Latencies.P99, spent(float64(m.Requests))}, nil
		}, nil
	}
}

// hotChat compares many chats of this version with one.
func hotChat(d time.Duration) begin {
	return func(_ context.Context, sides []generator) (func(int) (round, error), error) {
		return sides[1].each(hot, d), nil
	}
}

// pullThousand measures pages of a thousand of a chat that it fills before.
func pullThousand(d time.Duration) begin {
	return func(ctx context.Context, sides []generator) (func(int) (round, error), error) {
		for _, side := range sides {
			if _, err := side.ask(load{name: "fill a chat", kind: "send", prefix: "long", chats: 1}, d); err != nil {
				return nil, err
			}
		}
		return closedLoop(page(1000), d)(ctx, sides)
	}
}

// besideLarge measures sends while others pull large pages.
func besideLarge(d time.Duration) begin {
	return func(ctx context.Context, sides []generator) (func(int) (round, error), error) {
		for _, side := range sides {
			if err := side.fillLarge(ctx); err != nil {
				return nil, err
			}
		}
		return func(i int) (round, error) { return sides[i].askBesideLarge(ctx, sixteen, d) }, nil
	}
}

const basePreface = `
## Beside an earlier version

This is commit %s, the base %s: figures are base → this, ratios this / base. Both systems run all the time, each
with a Redis and an etcd of its own, and each is idle while the other is measured. A round measures both, one right after the other, in
an order that changes each time. Figures are medians of %d rounds of %s. A ratio is the median of the ratios of the rounds: compare
these, since the machine may change from round to round. Open loop asks at a fixed rate, whether or not answers come: a quarter of what
the base takes at 64 connections. CPU times are of whole processes, for each request; beside large pages they include what the pages cost.

| load | requests/s | ratio | CPU µs | ratio | p50 ms | ratio | p99 ms | ratio | of which CPU, µs |
|---|---|---|---|---|---|---|---|---|---|
`
