package main

import (
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/golang-jwt/jwt/v5"

	"im/e2e/stack"
)

// system is one that differs from others by its options.
type system struct {
	name   string
	change func(*stack.Options)
	tokens string // file with a token for each chat; empty asks without
	https  bool
}

// start starts the systems, each with data of its own, and returns a generator for each.
// The caller must call stop, also after an error.
func (g generator) start(ctx context.Context, o stack.Options, systems []system) (generators []generator, stop func(), err error) {
	stop = func() {
		var all sync.WaitGroup
		for _, g := range generators {
			all.Go(func() { g.stack.Stop() })
		}
		all.Wait()
	}
	dir, settings := o.Dir, o.Settings
	for _, s := range systems {
		o := o
		if o.Dir, err = os.MkdirTemp(dir, ""); err != nil {
			return generators, stop, err
		}
		o.Logs, o.Settings = filepath.Join(o.Dir, "logs"), slices.Clone(settings)
		s.change(&o)
		running, err := stack.Start(ctx, o)
		if err != nil {
			return generators, stop, fmt.Errorf("%s: %w", s.name, err)
		}
		generators = append(generators, generator{s.name, g.script, running, g.nothing, s.tokens, s.https})
	}
	return generators, stop, nil
}

// compare starts the systems, measures sends and pulls of all in alternating rounds, and
// returns the rows of a table. Ratios are to the first.
func (g generator) compare(ctx context.Context, cfg config, o stack.Options, systems []system) (string, error) {
	generators, stop, err := g.start(ctx, o, systems)
	defer stop()
	if err != nil {
		return "", err
	}
	var b strings.Builder
	for _, l := range loads[1:3] {
		results, err := alternate(cfg.Rounds, len(systems), func(i int) (round, error) { return generators[i].ask(l, cfg.Duration/3) })
		if err != nil {
			return "", err
		}
		base := median(results[0], rate)
		for i, rounds := range results {
			line := fmt.Sprintf("| %s | %s | %.0f | %.2f | %.1f | http-server %.1f, rpc-server %.1f, Redis %.1f |\n", l.name, systems[i].name,
				median(rounds, rate), median(rounds, rate)/base, median(rounds, cost),
				median(rounds, costOf("http-server")), median(rounds, costOf("rpc-server")), median(rounds, costOf("redis")))
			fmt.Print(line)
			b.WriteString(line)
		}
	}
	return b.String(), nil
}

// alternate measures n things in alternating rounds, each second round in the reverse
// order, and returns the rounds of each. Where there are several rounds, one more goes
// before them and is left out.
func alternate(rounds, n int, measure func(i int) (round, error)) ([][]round, error) {
	results := make([][]round, n)
	warmUp := min(1, rounds-1)
	for r := range warmUp + rounds {
		for i := range n {
			if r%2 == 1 {
				i = n - 1 - i
			}
			measured, err := measure(i)
			if err != nil {
				return nil, err
			}
			if r >= warmUp {
				results[i] = append(results[i], measured)
			}
		}
	}
	return results, nil
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

// besideCluster compares the system on one Redis with the same on a Redis Cluster of
// three masters with a replica each.
func (g generator) besideCluster(ctx context.Context, cfg config, o stack.Options) (string, error) {
	on := func(topology stack.Topology, replicas int) func(*stack.Options) {
		return func(o *stack.Options) {
			o.Topology, o.Settings = topology, append(o.Settings, fmt.Sprint("REDIS_REPLICAS=", replicas))
		}
	}
	rows, err := g.compare(ctx, cfg, o, []system{
		{name: "one Redis", change: on(stack.Single, 0)},
		{name: "a Redis Cluster", change: on(stack.Cluster, 0)},
		{name: "a Redis Cluster, one replica waited for", change: on(stack.Cluster, 1)},
	})
	return clusterPreface + rows, err
}

// secured compares the system as it comes with the same where tokens are asked for, and
// where it speaks TLS to clients.
func (g generator) secured(ctx context.Context, cfg config, o stack.Options) (string, error) {
	secret := []byte(rand.Text() + rand.Text())
	rsaKey, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		return "", err
	}
	edPublic, edKey, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		return "", err
	}
	systems := []system{{name: "as it comes", change: func(*stack.Options) {}}}
	for _, t := range []struct {
		name, setting string
		method        jwt.SigningMethod
		key, public   any
	}{
		{"tokens, HS256", "AUTH_HMAC_SECRET_FILE=", jwt.SigningMethodHS256, secret, nil},
		{"tokens, RS256", "AUTH_PUBLIC_KEY_FILE=", jwt.SigningMethodRS256, rsaKey, &rsaKey.PublicKey},
		{"tokens, EdDSA", "AUTH_PUBLIC_KEY_FILE=", jwt.SigningMethodEdDSA, edKey, edPublic},
	} {
		var tokens strings.Builder
		for chat := range 1000 {
			claims := jwt.RegisteredClaims{Subject: fmt.Sprintf("%s-a-%d", loads[1].prefix, chat), ExpiresAt: jwt.NewNumericDate(time.Now().Add(24 * time.Hour))}
			token, err := jwt.NewWithClaims(t.method, claims).SignedString(t.key)
			if err != nil {
				return "", err
			}
			fmt.Fprintln(&tokens, token)
		}
		file := secret
		if t.public != nil {
			der, err := x509.MarshalPKIXPublicKey(t.public)
			if err != nil {
				return "", err
			}
			file = pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der})
		}
		path := filepath.Join(o.Dir, t.method.Alg())
		if err := os.WriteFile(path+".tokens", []byte(tokens.String()), 0o600); err != nil {
			return "", err
		}
		if err := os.WriteFile(path, file, 0o600); err != nil {
			return "", err
		}
		systems = append(systems, system{name: t.name, tokens: path + ".tokens", change: func(o *stack.Options) { o.Settings = append(o.Settings, t.setting+path) }})
	}
	authority, err := stack.NewAuthority(o.Dir)
	if err != nil {
		return "", err
	}
	cert, key, err := authority.Issue("gateway")
	if err != nil {
		return "", err
	}
	systems = append(systems, system{name: "TLS", https: true, change: func(o *stack.Options) {
		o.Settings = append(o.Settings, "TLS_CERT_FILE="+cert, "TLS_KEY_FILE="+key)
	}})
	rows, err := g.compare(ctx, cfg, o, systems)
	return securedPreface + rows, err
}

const clusterPreface = `
## On a Redis Cluster

The same on a Redis Cluster of three masters with a replica each, every file flushed on every write. Six Redis processes on the
cores of one gain nothing; they show what the way to them costs. Rounds of a third of the length, alternating.

| load | store | requests/s | of one Redis's | CPU µs | of which, µs |
|---|---|---|---|---|---|
`

const securedPreface = `
## With tokens, and with TLS

Each request with the token of a member of its chat, checked each time; and, apart from that, with TLS between the clients and the gateway, over
connections that last. Rounds of a third of the length, alternating.

| load | system | requests/s | of the first | CPU µs | of which, µs |
|---|---|---|---|---|---|
`
