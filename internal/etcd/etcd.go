// Package etcd has the settings by which the servers reach etcd, and the name under which
// the rpc-servers are in it.
package etcd

import (
	"errors"
	"fmt"
	"net/url"
	"strings"
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
	Endpoints    []string        `default:"localhost:2379" help:"host:port of each etcd member, or its URL, separated by commas. With https:// etcd is reached over TLS."`
	Username     string          `help:"User to name to etcd."`
	PasswordFile []byte          `type:"filecontent" placeholder:"FILE" help:"File with the password for etcd."`
	TLS          bool            `name:"tls" help:"Speak TLS to etcd."`
	TLSFiles     tlsfiles.Client `embed:"" prefix:"tls-"`
}

// Config returns the configuration of a client, whose endpoints are all of the form host:port.
// clientv3.New returns at once for one without a password, and for one with a password once
// etcd has taken it. The error names the setting that is wrong.
func (s Settings) Config() (clientv3.Config, error) {
	if (s.Username == "") != (s.PasswordFile == nil) {
		return clientv3.Config{}, errors.New("ETCD_USERNAME: needs ETCD_PASSWORD_FILE, and the other way round")
	}
	endpoints, overTLS, err := s.endpoints()
	if err != nil {
		return clientv3.Config{}, fmt.Errorf("ETCD_ENDPOINTS: %w", err)
	}
	tlsConfig, err := s.TLSFiles.Config("ETCD_TLS", overTLS)
	// Left alone, gRPC's back-off would grow to two minutes.
	reconnect := grpc.ConnectParams{Backoff: backoff.Config{BaseDelay: 100 * time.Millisecond, Multiplier: 1.6, MaxDelay: time.Second}}
	return clientv3.Config{
		Endpoints: endpoints, Username: s.Username, Password: settings.Secret(s.PasswordFile), TLS: tlsConfig,
		DialTimeout: 3 * time.Second,
		// etcd is near: the proxy that HTTPS_PROXY names is for what is not.
		DialOptions: []grpc.DialOption{grpc.WithConnectParams(reconnect), grpc.WithNoProxy()},
		Logger:      zap.NewNop(), // it repeats for ever what is logged once
	}, err
}

// endpoints returns the endpoints as host:port, and whether they are to be reached over TLS.
// An endpoint may also be a URL, with the scheme http or https, as etcd's own tools take it.
func (s Settings) endpoints() (endpoints []string, overTLS bool, err error) {
	schemes := map[string]bool{}
	for _, endpoint := range s.Endpoints {
		if scheme, _, isURL := strings.Cut(endpoint, "://"); isURL {
			u, err := url.Parse(endpoint)
			if err != nil || scheme != "http" && scheme != "https" || u.User != nil || strings.Trim(u.Path, "/")+u.RawQuery+u.Fragment != "" {
				return nil, false, errors.New("must be host:port, http://host:port or https://host:port")
			}
			endpoint = u.Host
			schemes[scheme] = true
		}
		if err := settings.CheckHostPort(endpoint); err != nil {
			return nil, false, err
		}
		endpoints = append(endpoints, endpoint)
	}
	if schemes["http"] && (schemes["https"] || s.TLS) {
		return nil, false, errors.New("http:// is plain text, while ETCD_TLS or another endpoint asks for TLS")
	}
	return endpoints, s.TLS || schemes["https"], nil
}

// Insecure lists the settings that are for a network where nobody else is.
func (s Settings) Insecure() []string {
	endpoints, overTLS, _ := s.endpoints()
	return settings.Risks(map[string]bool{
		"etcd, which tells where the rpc-servers are, is asked in plain text: ETCD_TLS is not set": !overTLS && settings.Reachable(endpoints...),
		"etcd is shown neither a password nor a certificate: ETCD_PASSWORD_FILE is not set":        s.PasswordFile == nil && s.TLSFiles.CertFile == "" && settings.Reachable(endpoints...),
	})
}
