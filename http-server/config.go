package main

import (
	"cmp"
	"errors"
	"fmt"
	"net/url"
	"slices"
	"time"

	"im/internal/etcd"
	"im/internal/settings"
)

// config is every setting: a flag and an environment variable each, --listen and
// LISTEN. The defaults work from a checkout.
type config struct {
	Listen string `default:":8080" help:"Address to serve HTTP on."`
	settings.Common
	MaxTextBytes int `default:"65536" min:"1" help:"Most bytes of a message's text, as the rpc-servers have it."`
	MaxBodyBytes int `default:"1048576" help:"Most bytes of a request's body; at least 6 * MAX_TEXT_BYTES + 4096, so that any text fits in any escaping."`

	TLSCertFile string `name:"tls-cert-file" placeholder:"FILE" help:"PEM file with the certificate, and those between it and its authority, to serve HTTPS with. Read again when it changes. Default: HTTP in plain text."`
	TLSKeyFile  string `name:"tls-key-file" placeholder:"FILE" help:"PEM file with that certificate's key."`

	Etcd etcd.Settings `embed:"" prefix:"etcd-"`

	AuthHMACSecretFile []byte        `name:"auth-hmac-secret-file" type:"filecontent" placeholder:"FILE" help:"File with the secret, of 32 bytes or more, by which tokens are signed (HS256). With it or a public key, each call of /api needs a token of who makes it."`
	AuthPublicKeyFile  []byte        `type:"filecontent" placeholder:"FILE" help:"PEM file with the public key by which tokens are checked: RSA (RS256), ECDSA (ES256, ES384, ES512) or Ed25519 (EdDSA)."`
	AuthAudience       string        `help:"Audience that a token must be for (aud)."`
	AuthIssuer         string        `help:"Issuer that a token must be of (iss)."`
	AuthLeeway         time.Duration `default:"5s" min:"0" help:"How far the clock of who signs tokens may differ: for so long a token is good before its nbf and after its exp."`

	CORSOrigins []string `name:"cors-origins" placeholder:"ORIGIN,..." help:"Origins whose pages may use the service in a browser, like https://example.com, separated by commas; * is every page. Default: none."`

	Page bool `default:"true" negatable:"" help:"Serve the page for trying the service at /, to everybody; with PAGE=false there is none."`

	RequestTimeout time.Duration `default:"1s" min:"1" help:"How long the answer to a request may take once it has arrived; each attempt at an rpc-server gets a third of it."`
	MaxInFlight    int           `default:"1000" min:"1" help:"Most requests that are served at a time; more are refused."`
	MaxBufferBytes int           `default:"67108864" help:"Most bytes of bodies and answers that are held at a time, not counting those of up to 16 KiB. At least 8 MiB and MAX_BODY_BYTES. For more, the connection that has been slow for longest is closed or, if none has for a second, the request refused."`

	ReadTimeout    time.Duration `default:"10s" min:"1" help:"How long a request may take to arrive."`
	WriteTimeout   time.Duration `default:"30s" min:"1" help:"How long an answer may take to be received."`
	IdleTimeout    time.Duration `default:"75s" min:"1" help:"How long a connection may be open between requests."`
	MaxConnections int           `default:"5000" min:"1" help:"Most connections that are open at a time. For more, one that has waited long is closed or, if none has for a second, the new one."`

	MaxWaiters int `placeholder:"N" min:"0" help:"Most requests whose answers are held back at a time, for want of anything new; more are refused. Below MAX_CONNECTIONS. Default: four fifths of it."`

	LeaveWait    time.Duration `default:"2s" help:"How long to serve on, no longer ready, when stopping, so that every balancer in front has noticed."`
	DrainTimeout time.Duration `default:"5s" min:"1" help:"How long to wait, when stopping, for connections that are open."`
}

func parseConfig(args []string) (cfg config, err error) {
	cfg.Command, err = settings.Parse(args, &cfg, "The gateway of im: HTTP in, JSON or protobuf; rpc-servers behind, found through etcd.", "127.0.0.1:8081")
	return cfg, err
}

// Validate is called by kong.
func (c *config) Validate() error {
	if least := 6*c.MaxTextBytes + 4096; c.MaxBodyBytes < least {
		return fmt.Errorf("MAX_BODY_BYTES: must be at least %d, to hold a text of MAX_TEXT_BYTES in any escaping", least)
	}
	if least := max(c.MaxBodyBytes, 8<<20); c.MaxBufferBytes < least {
		return fmt.Errorf("MAX_BUFFER_BYTES: must be at least %d, to hold the largest body and page", least)
	}
	if c.MaxWaiters >= c.MaxConnections {
		return errors.New("MAX_WAITERS: must be less than MAX_CONNECTIONS")
	}
	for _, origin := range c.CORSOrigins {
		if u, err := url.Parse(origin); origin != "*" && (err != nil || u.Host == "" || u.Scheme+"://"+u.Host != origin) {
			return errors.New("CORS_ORIGINS: an origin is a scheme and a host, like https://example.com, or *")
		}
	}
	return nil
}

// maxWaiters is MAX_WAITERS, or its default.
func (c *config) maxWaiters() int { return cmp.Or(c.MaxWaiters, c.MaxConnections*4/5) }

// insecure lists the settings that are for a network where nobody else is.
func (c *config) insecure() []string {
	return append(append(c.Common.Insecure(), c.Etcd.Insecure()...), settings.Risks(map[string]bool{
		"everybody may send as anybody and read every chat: neither AUTH_HMAC_SECRET_FILE nor AUTH_PUBLIC_KEY_FILE is set": c.AuthHMACSecretFile == nil && c.AuthPublicKeyFile == nil,
		"requests and tokens travel in plain text: TLS_CERT_FILE is not set":                                               c.TLSCertFile == "" && settings.Reachable(c.Listen),
		"pages of every origin may use the service: CORS_ORIGINS is *":                                                     slices.Contains(c.CORSOrigins, "*"),
	})...)
}
