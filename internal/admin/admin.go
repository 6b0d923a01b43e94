// Package admin serves what operators ask a server, on an address of its own: whether it is
// well, its metrics, its log level and its profiles.
package admin

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
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"im/internal/logging"
)

const (
	// interval is the pause between two runs of a check, and timeout how long a run may
	// take: what /readyz says is at most their sum old.
	interval = 500 * time.Millisecond
	timeout  = time.Second
)

// Check is a check of something that the server's work depends on.
type Check struct {
	Name     string
	Required bool // whether the server is not ready while the check fails
	// Run returns nil while all is well.
	Run func(context.Context) error
	// About returns what else there is to know, as JSON; nil is nothing.
	About func() any

	mu   sync.Mutex
	last status
}

// status is what /readyz says of a check.
type status struct {
	OK    bool      `json:"ok"`
	Since time.Time `json:"since"`
	Error string    `json:"error,omitempty"`
	About any       `json:"about,omitempty"`
}

// repeat runs the check until ctx ends. It logs when the check begins to fail and when it
// succeeds again; up is 1 while it succeeds.
func (c *Check) repeat(ctx context.Context, up prometheus.Gauge) {
	for first := true; ctx.Err() == nil; first = false {
		running, cancel := context.WithTimeout(ctx, timeout)
		err := c.Run(running)
		cancel()
		now := status{OK: err == nil, Since: time.Now()}
		if err != nil {
			now.Error = err.Error()
		}
		c.mu.Lock()
		before := c.last
		if !first && before.OK == now.OK {
			now.Since = before.Since
		}
		c.last = now
		c.mu.Unlock()
		up.Set(map[bool]float64{true: 1}[now.OK])
		switch {
		case err != nil && (first || before.OK):
			slog.Warn(c.Name+" is down", "err", err)
		case err == nil && !first && !before.OK:
			slog.Info(c.Name+" is back", "after", now.Since.Sub(before.Since).Round(time.Millisecond).String())
		}
		select {
		case <-ctx.Done():
		case <-time.After(interval):
		}
	}
}

func (c *Check) status() status {
	c.mu.Lock()
	s := c.last
	c.mu.Unlock()
	if c.About != nil {
		s.About = c.About()
	}
	return s
}

// Server serves /healthz, whether the process lives; /readyz, whether it can do its work
// and, if not, which checks fail since when; /metrics; /loglevel; and /debug/pprof, if Pprof.
type Server struct {
	Addr   string
	Pprof  bool
	Checks []*Check
	// Metrics are served, and besides those of the checks, of the Go runtime, of the process
	// and of the build.
	Metrics []prometheus.Collector
}

// Serve returns only with an error. The server is not ready once ctx ends.
func (s *Server) Serve(ctx context.Context) error {
	registry := prometheus.NewRegistry()
	registry.MustRegister(collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}), collectors.NewBuildInfoCollector())
	registry.MustRegister(s.Metrics...)
	up := prometheus.NewGaugeVec(prometheus.GaugeOpts{Name: "part_up", Help: "Whether a part that the work rests on is well."}, []string{"part"})
	registry.MustRegister(up)
	for _, c := range s.Checks {
		go c.repeat(ctx, up.WithLabelValues(c.Name))
	}
	mux := http.NewServeMux()
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) { fmt.Fprintln(w, "ok") })
	mux.HandleFunc("GET /readyz", func(w http.ResponseWriter, _ *http.Request) { s.ready(ctx, w) })
	mux.Handle("GET /metrics", promhttp.HandlerFor(registry, promhttp.HandlerOpts{}))
	mux.HandleFunc("GET /loglevel", func(w http.ResponseWriter, _ *http.Request) { fmt.Fprintln(w, logging.Level.Level()) })
	mux.HandleFunc("PUT /loglevel", changeLogLevel)
	if s.Pprof {
		mux.Handle("/debug/pprof/", http.DefaultServeMux)
	}
	srv := http.Server{Addr: s.Addr, Handler: mux, ReadHeaderTimeout: 5 * time.Second}
	return fmt.Errorf("ADMIN_LISTEN: %w", srv.ListenAndServe())
}

func (s *Server) ready(ctx context.Context, w http.ResponseWriter) {
	answer := struct {
		Ready    bool              `json:"ready"`
		Stopping bool              `json:"stopping"`
		Parts    map[string]status `json:"parts"`
	}{Stopping: ctx.Err() != nil, Parts: map[string]status{}}
	answer.Ready = !answer.Stopping
	for _, c := range s.Checks {
		now := c.status()
		answer.Parts[c.Name] = now
		answer.Ready = answer.Ready && (now.OK || !c.Required)
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
	logging.Level.Set(level)
}

// Healthcheck asks the server whose admin address is addr whether it is ready. It returns
// nil if so.
func Healthcheck(addr string) error {
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
