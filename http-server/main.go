// Command http-server is the gateway: it takes JSON or protobuf over HTTP and
// asks the rpc-servers that etcd knows. It keeps nothing, so any number of them
// may run.
package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"os/signal"
	"syscall"
	"time"

	"github.com/cloudwego/hertz/pkg/app/server"
	"github.com/cloudwego/hertz/pkg/network/netpoll"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	context.AfterFunc(ctx, stop) // a second signal ends the process at once
	if err := run(ctx, os.Args[1:]); err != nil {
		slog.Error(err.Error())
		os.Exit(1)
	}
}

// run serves until ctx ends, then tells that it leaves, drains and returns.
func run(ctx context.Context, args []string) error {
	logTo(os.Stderr)
	cfg, err := parseConfig(args)
	if err != nil {
		return err
	}
	if cfg.command == "healthcheck" {
		return healthcheck(cfg.AdminListen)
	}
	logLevel.Set(cfg.LogLevel)

	running, end := context.WithCancel(context.WithoutCancel(ctx))
	defer end()
	client, err := dial(running, cfg.EtcdEndpoints, cfg.RequestTimeout/3)
	if err != nil {
		return err
	}

	listener, err := net.Listen("tcp", cfg.Listen)
	if err != nil {
		return fmt.Errorf("LISTEN: %w", err)
	}
	srv := newServer(listener, cfg.DrainTimeout)
	srv.Use(part(ctx))
	(&gateway{rpc: client, timeout: cfg.RequestTimeout, maxBody: cfg.MaxBodyBytes, maxInFlight: cfg.MaxInFlight}).route(srv.Engine)
	serving := make(chan error, 2)
	go func() { serving <- srv.Run() }()
	defer srv.Shutdown(running)
	go func() {
		serving <- serveAdmin(cfg.AdminListen, cfg.Pprof, func(asking context.Context) error {
			if ctx.Err() != nil {
				return errStopping
			}
			return reach(asking, client)
		})
	}()

	slog.Info("serving", "address", listener.Addr().String())
	select {
	case err := <-serving:
		return err
	case <-ctx.Done():
		slog.Info("stopping")
		time.Sleep(cfg.LeaveWait)
		return nil
	}
}

var errStopping = errors.New("stopping")

// newServer is a Hertz server without routes.
func newServer(listener net.Listener, drain time.Duration) *server.Hertz {
	return server.New(
		server.WithListener(listener),
		server.WithTransport(netpoll.NewTransporter),
		server.WithExitWaitTime(drain),
		server.WithStreamBody(true), // the gateway reads bodies, and says itself when one is too large
		server.WithDisablePreParseMultipartForm(true),
		server.WithHandleMethodNotAllowed(true),
		server.WithRedirectTrailingSlash(false),
		server.WithDisableDefaultContentType(true),
		server.WithDisablePrintRoute(true),
	)
}
