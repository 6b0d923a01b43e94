package main

import (
	"errors"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"
	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
)

// etcdSettings say where etcd is, and how to speak to it.
type etcdSettings struct {
	Endpoints    []string `default:"localhost:2379" help:"host:port of each etcd member, separated by commas."`
	Username     string   `help:"User to name to etcd."`
	PasswordFile []byte   `type:"filecontent" placeholder:"FILE" help:"File with the password for etcd."`
	TLS          bool     `name:"tls" help:"Speak TLS to etcd."`
	TLSFiles     tlsFiles `embed:"" prefix:"tls-"`
}

// config is that of a client, which is new at once without a password, and with one once
// etcd has taken it. The error names the setting that is wrong.
func (s etcdSettings) config() (clientv3.Config, error) {
	if (s.Username == "") != (s.PasswordFile == nil) {
		return clientv3.Config{}, errors.New("ETCD_USERNAME: needs ETCD_PASSWORD_FILE, and the other way round")
	}
	tlsConfig, err := s.TLSFiles.client("ETCD_TLS", s.TLS)
	// Left alone, gRPC's back-off would grow to two minutes.
	reconnect := grpc.ConnectParams{Backoff: backoff.Config{BaseDelay: 100 * time.Millisecond, Multiplier: 1.6, MaxDelay: time.Second}}
	return clientv3.Config{
		Endpoints: s.Endpoints, Username: s.Username, Password: password(s.PasswordFile), TLS: tlsConfig,
		DialTimeout: 3 * time.Second,
		DialOptions: []grpc.DialOption{grpc.WithConnectParams(reconnect)},
		Logger:      zap.NewNop(), // it repeats for ever what is logged once
	}, err
}

// insecure lists what is for a network where nobody else is.
func (s etcdSettings) insecure() []string {
	return risks(map[string]bool{
		"etcd, which tells where the rpc-servers are, is asked in plain text: ETCD_TLS is not set": !s.TLS && reachable(s.Endpoints...),
		"etcd is shown neither a password nor a certificate: ETCD_PASSWORD_FILE is not set":        s.PasswordFile == nil && s.TLSFiles.CertFile == "" && reachable(s.Endpoints...),
	})
}
