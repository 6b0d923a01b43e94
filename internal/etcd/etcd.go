// Package etcd has the settings by which the servers reach etcd, and the name under which
// the rpc-servers are in it.
package etcd

import (
	"errors"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"
	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"

	"im/internal/settings"
	"im/internal/tlsfiles"
)

// Service is the name of the rpc-servers.
const Service = "demo.rpc.server"

// Settings say where etcd is, and how to speak to it.
type Settings struct {
	Endpoints    []string        `default:"localhost:2379" help:"host:port of each etcd member, separated by commas."`
	Username     string          `help:"User to name to etcd."`
	PasswordFile []byte          `type:"filecontent" placeholder:"FILE" help:"File with the password for etcd."`
	TLS          bool            `name:"tls" help:"Speak TLS to etcd."`
	TLSFiles     tlsfiles.Client `embed:"" prefix:"tls-"`
}

// Config returns the configuration of a client. clientv3.New returns at once for one without
// a password, and for one with a password once etcd has taken it. The error names the
// setting that is wrong.
func (s Settings) Config() (clientv3.Config, error) {
	if (s.Username == "") != (s.PasswordFile == nil) {
		return clientv3.Config{}, errors.New("ETCD_USERNAME: needs ETCD_PASSWORD_FILE, and the other way round")
	}
	tlsConfig, err := s.TLSFiles.Config("ETCD_TLS", s.TLS)
	// Left alone, gRPC's back-off would grow to two minutes.
	reconnect := grpc.ConnectParams{Backoff: backoff.Config{BaseDelay: 100 * time.Millisecond, Multiplier: 1.6, MaxDelay: time.Second}}
	return clientv3.Config{
		Endpoints: s.Endpoints, Username: s.Username, Password: settings.Secret(s.PasswordFile), TLS: tlsConfig,
		DialTimeout: 3 * time.Second,
		DialOptions: []grpc.DialOption{grpc.WithConnectParams(reconnect)},
		Logger:      zap.NewNop(), // it repeats for ever what is logged once
	}, err
}

// Insecure lists the settings that are for a network where nobody else is.
func (s Settings) Insecure() []string {
	return settings.Risks(map[string]bool{
		"etcd, which tells where the rpc-servers are, is asked in plain text: ETCD_TLS is not set": !s.TLS && settings.Reachable(s.Endpoints...),
		"etcd is shown neither a password nor a certificate: ETCD_PASSWORD_FILE is not set":        s.PasswordFile == nil && s.TLSFiles.CertFile == "" && settings.Reachable(s.Endpoints...),
	})
}
