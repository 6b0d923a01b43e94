package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	_ "net/http/pprof" // registers with http.DefaultServeMux
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

const (
	// look is how often a part is looked at, and lookTimeout how long that may
	// take: what /readyz tells is at most their sum old.
	look        = 500 * time.Millisecond
	lookTimeout = time.Second
)

// part is something that the server's work rests on.
type part struct {
	name   string
	needed bool // the server is not ready without it
	// check is nil while all is well.
	check func(context.Context) error
	// about is what else there is to know, as JSON; nil is nothing.
	about func() any

	mu    sync.Mutex
	state state
}

// state is what /readyz tells of a part.
type state struct {
	OK    bool      `json:"ok"`
	Since time.Time `json:"since"` // it is so
	Error string    `json:"error,omitempty"`
	About any       `json:"about,omitempty"`
}

// watch looks at the part again and again until ctx ends, and logs when it goes
// down and when it is back.
func (p *part) watch(ctx context.Context) {
	for first := true; ctx.Err() == nil; {
		asking, cancel := context.WithTimeout(ctx, lookTimeout)
		err := p.check(asking)
		cancel()
		now := state{OK: err == nil, Since: time.Now()}
		if err != nil {
			now.Error = err.Error()
		}
		p.mu.Lock()
		before := p.state
		if !first && before.OK == now.OK {
			now.Since = before.Since
		}
		p.state = now
		p.mu.Unlock()
		switch {
		case err != nil && (first || before.OK):
			slog.Warn(p.name+" is down", "err", err)
		case err == nil && !first && !before.OK:
			slog.Info(p.name+" is back", "after", now.Since.Sub(before.Since).Round(time.Millisecond).String())
		}
		first = false
		select {
		case <-ctx.Done():
		case <-time.After(look):
		}
	}
}

// tell gives the state that was last seen.
func (p *part) tell() state {
	p.mu.Lock()
	s := p.state
	p.mu.Unlock()
	if p.about != nil {
		s.About = p.about()
	}
	return s
}

// up is the part's state as a metric.
func (p *part) up() prometheus.Collector {
	return prometheus.NewGaugeFunc(prometheus.GaugeOpts{
		Name: "part_up", Help: "Whether a part that the work rests on is well.", ConstLabels: prometheus.Labels{"part": p.name},
	}, func() float64 {
		if p.tell().OK {
			return 1
		}
		return 0
	})
}

// admin is what operators ask, on an address of its own.
type admin struct {
	addr    string
	pprof   bool
	parts   []*part
	metrics http.Handler
}

// serve serves /healthz, whether the process lives; /readyz, whether it can do its
// work and, if not, what is down since when; /metrics; /loglevel; and /debug/pprof,
// if wanted. Once ctx ends, the server is not ready. It returns only with an error.
func (a admin) serve(ctx context.Context) error {
	for _, p := range a.parts {
		go p.watch(ctx)
	}
	mux := http.NewServeMux()
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) { fmt.Fprintln(w, "ok") })
	mux.HandleFunc("GET /readyz", func(w http.ResponseWriter, _ *http.Request) { a.ready(ctx, w) })
	mux.Handle("GET /metrics", a.metrics)
	mux.HandleFunc("GET /loglevel", func(w http.ResponseWriter, _ *http.Request) { fmt.Fprintln(w, logLevel.Level()) })
	mux.HandleFunc("PUT /loglevel", changeLogLevel)
	if a.pprof {
		mux.Handle("/debug/pprof/", http.DefaultServeMux)
	}
	srv := http.Server{Addr: a.addr, Handler: mux, ReadHeaderTimeout: 5 * time.Second}
	return fmt.Errorf("ADMIN_LISTEN: %w", srv.ListenAndServe())
}

func (a admin) ready(ctx context.Context, w http.ResponseWriter) {
	answer := struct {
		Ready    bool             `json:"ready"`
		Stopping bool             `json:"stopping"`
		Parts    map[string]state `json:"parts"`
	}{Stopping: ctx.Err() != nil, Parts: map[string]state{}}
	answer.Ready = !answer.Stopping
	for _, p := range a.parts {
		s := p.tell()
		answer.Parts[p.name] = s
		answer.Ready = answer.Ready && (s.OK || !p.needed)
	}
	w.Header().Set("Content-Type", "application/json")
	if !answer.Ready {
		w.WriteHeader(http.StatusServiceUnavailable)
	}
	e := json.NewEncoder(w)
	e.SetIndent("", "  ")
	e.Encode(answer)
}

// changeLogLevel makes the body, debug, info, warn or error, the level from now on.
func changeLogLevel(w http.ResponseWriter, r *http.Request) {
	name, err := io.ReadAll(http.MaxBytesReader(w, r.Body, 100))
	var level slog.Level
	if err == nil {
		err = level.UnmarshalText(name)
	}
	if err != nil {
		http.Error(w, "the body must be debug, info, warn or error", http.StatusBadRequest)
		return
	}
	slog.Info("the log level changes", "to", level.String())
	logLevel.Set(level)
}

// healthcheck asks the server whose admin address is addr whether it is ready.
// nil means yes.
func healthcheck(addr string) error {
	client := http.Client{Timeout: 3 * time.Second}
	resp, err := client.Get("http://" + addr + "/readyz") // without a host, the local one is meant
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		why, _ := io.ReadAll(resp.Body)
		return fmt.Errorf("not ready: %s", why)
	}
	return nil
}
