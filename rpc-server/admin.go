package main

import (
	"context"
	"fmt"
	"net/http"
	_ "net/http/pprof" // registers with http.DefaultServeMux
	"time"
)

// serveAdmin serves on addr what operators ask: /healthz, whether the process
// lives; /readyz, whether it can do its work, which it can while ready is nil;
// and /debug/pprof, if wanted. It returns only with an error.
func serveAdmin(addr string, withPprof bool, ready func(context.Context) error) error {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) { fmt.Fprintln(w, "ok") })
	mux.HandleFunc("GET /readyz", func(w http.ResponseWriter, r *http.Request) {
		ctx, cancel := context.WithTimeout(r.Context(), time.Second)
		defer cancel()
		if err := ready(ctx); err != nil {
			http.Error(w, err.Error(), http.StatusServiceUnavailable)
			return
		}
		fmt.Fprintln(w, "ok")
	})
	if withPprof {
		mux.Handle("/debug/pprof/", http.DefaultServeMux)
	}
	srv := http.Server{Addr: addr, Handler: mux, ReadHeaderTimeout: 5 * time.Second}
	return fmt.Errorf("ADMIN_LISTEN: %w", srv.ListenAndServe())
}

// healthcheck asks the server whose admin address is addr whether it is ready.
// nil means yes.
func healthcheck(addr string) error {
	client := http.Client{Timeout: 3 * time.Second}
	resp, err := client.Get("http://" + addr + "/readyz") // without a host, the local one is meant
	if err != nil {
		return err
	}
	resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return fmt.Errorf("not ready: %s", resp.Status)
	}
	return nil
}
