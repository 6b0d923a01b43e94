package main

import (
	"context"
	"fmt"
	"path/filepath"
	"slices"
	"strings"

	"im/e2e/stack"
)

// besideCluster compares the system on one Redis with the same on a Redis Cluster of
// three masters with a replica each, and gives a table. It is measured in alternating
// rounds.
func (g generator) besideCluster(ctx context.Context, cfg config, o stack.Options) (string, error) {
	systems := []struct {
		name     string
		topology stack.Topology
		replicas int // that are waited for
		generator
	}{
		{"one Redis", stack.Single, 0, g},
		{"a Redis Cluster", stack.Cluster, 0, g},
		{"a Redis Cluster, one replica waited for", stack.Cluster, 1, g},
	}
	dir, settings := o.Dir, o.Settings
	for i := range systems {
		system := &systems[i]
		o.Dir = filepath.Join(dir, fmt.Sprint("store-", i))
		o.Logs, o.Topology = filepath.Join(o.Dir, "logs"), system.topology
		o.Settings = append(slices.Clone(settings), fmt.Sprint("REDIS_REPLICAS=", system.replicas))
		s, err := stack.Start(ctx, o)
		if err != nil {
			return "", err
		}
		defer s.Stop()
		system.stack = s
	}

	var b strings.Builder
	b.WriteString(clusterPreface)
	for _, l := range loads[1:3] {
		results := make([][]round, len(systems))
		for n := -1; n < cfg.Rounds; n++ { // the first warms up
			for i, system := range systems {
				r, err := system.ask(l, cfg.Duration/3)
				if err != nil {
					return "", fmt.Errorf("%s: %w", system.name, err)
				}
				if n >= 0 {
					results[i] = append(results[i], r)
				}
			}
		}
		base := median(results[0], rate)
		for i, system := range systems {
			rounds := results[i]
			line := fmt.Sprintf("| %s | %s | %.0f | %.2f | %.1f | http-server %.1f, rpc-server %.1f, Redis %.1f |\n", l.name, system.name,
				median(rounds, rate), median(rounds, rate)/base, median(rounds, cost),
				median(rounds, costOf("http-server")), median(rounds, costOf("rpc-server")), median(rounds, costOf("redis")))
			fmt.Print(line)
			b.WriteString(line)
		}
	}
	return b.String(), nil
}

// costOf gives the CPU time of the processes whose names begin so.
func costOf(prefix string) func(round) float64 {
	return func(r round) float64 {
		sum := 0.0
		for name, t := range r.cpu {
			if strings.HasPrefix(name, prefix) {
				sum += micros(t)
			}
		}
		return sum
	}
}

const clusterPreface = `
## On a Redis Cluster

The same on a Redis Cluster of three masters with a replica each, every file flushed on every write. Six Redis processes on the
cores of one gain nothing; they show what the way to them costs. Rounds of a third of the length, alternating.

| load | store | requests/s | of one Redis's | CPU µs | of which, µs |
|---|---|---|---|---|---|
`
