// Command etcd is a single etcd member for trying and testing: etcd's own server,
// built from its Go module, for machines that have none installed. What it holds
// is gone when the machine fails: it does not wait for its disk.
package main

import (
	"context"
	"fmt"
	"net/url"
	"os"
	"os/signal"
	"syscall"
	"time"

	"github.com/alecthomas/kong"
	"go.etcd.io/etcd/client/pkg/v3/transport"
	"go.etcd.io/etcd/server/v3/embed"
)

var flags struct {
	Listen string `default:"localhost:2379" help:"Address to serve clients on."`
	Dir    string `required:"" help:"Directory of the data."`

	CertFile      string `help:"PEM file with the certificate to serve clients with, over TLS."`
	KeyFile       string `help:"PEM file with its key."`
	TrustedCAFile string `name:"trusted-ca-file" help:"PEM file with the certificates that a client's must be signed by."`
}

func main() {
	kong.Parse(&flags, kong.Description("A single etcd member for trying and testing."))
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx); err != nil {
		fmt.Fprintln(os.Stderr, "etcd:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context) error {
	clients := url.URL{Scheme: "http", Host: flags.Listen}
	if flags.CertFile != "" {
		clients.Scheme = "https"
	}
	peers := url.URL{Scheme: "http", Host: "localhost:0"} // there are none

	cfg := embed.NewConfig()
	cfg.Dir = flags.Dir
	cfg.ListenClientUrls, cfg.AdvertiseClientUrls = []url.URL{clients}, []url.URL{clients}
	cfg.ListenPeerUrls, cfg.AdvertisePeerUrls = []url.URL{peers}, []url.URL{peers}
	cfg.InitialCluster = cfg.InitialClusterFromName(cfg.Name)
	cfg.LogLevel = "warn"
	cfg.TickMs, cfg.ElectionMs = 10, 50 // alone, it need not wait for an election
	cfg.UnsafeNoFsync = true
	cfg.ClientTLSInfo = transport.TLSInfo{
		CertFile: flags.CertFile, KeyFile: flags.KeyFile,
		TrustedCAFile: flags.TrustedCAFile, ClientCertAuth: flags.TrustedCAFile != "",
	}
	cfg.EnableGRPCGateway = false // it would be a client of its own

	server, err := embed.StartEtcd(cfg)
	if err != nil {
		return err
	}
	defer server.Close()
	select {
	case <-server.Server.ReadyNotify():
	case <-time.After(time.Minute):
		return fmt.Errorf("not ready after a minute")
	case err := <-server.Err():
		return err
	}
	select {
	case err := <-server.Err():
		return err
	case <-ctx.Done():
		return nil
	}
}
