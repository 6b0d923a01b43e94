package main

import (
	"errors"
	"fmt"
	"log/slog"
	"net/url"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/alecthomas/kong"
)

// config is every setting: a flag and an environment variable each, --listen and
// LISTEN. The defaults work from a checkout.
type config struct {
	Listen       string     `default:":8080" help:"Address to serve HTTP on."`
	AdminListen  string     `default:"127.0.0.1:8081" help:"Address of /healthz, /readyz, /metrics and /loglevel."`
	Pprof        bool       `help:"Serve /debug/pprof on the admin address."`
	LogLevel     slog.Level `default:"info" help:"Least level of log lines: debug, info, warn or error."`
	MaxTextBytes int        `default:"65536" help:"Most bytes of a message's text, as the rpc-servers have it."`
	MaxBodyBytes int        `default:"1048576" help:"Most bytes of a request's body; at least 6 times MAX_TEXT_BYTES and 4096, so that any text fits in any escaping."`

	TLSCertFile string `name:"tls-cert-file" placeholder:"FILE" help:"PEM file with the certificate, and those between it and its authority, to serve HTTPS with. Read again when it changes. Default: HTTP in plain text."`
	TLSKeyFile  string `name:"tls-key-file" placeholder:"FILE" help:"PEM file with that certificate's key."`

	Etcd etcdSettings `embed:"" prefix:"etcd-"`

	AuthHMACSecretFile []byte `name:"auth-hmac-secret-file" type:"filecontent" placeholder:"FILE" help:"File with the secret, of 32 bytes or more, by which tokens are signed (HS256). With it or a public key, each call needs a token of a member of the chat."`
	AuthPublicKeyFile  []byte `type:"filecontent" placeholder:"FILE" help:"PEM file with the public key by which tokens are checked: RSA (RS256), ECDSA (ES256, ES384, ES512) or Ed25519 (EdDSA)."`
	AuthAudience       string `help:"Audience that a token must be for (aud)."`
	AuthIssuer         string `help:"Issuer that a token must be of (iss)."`

	CORSOrigins []string `name:"cors-origins" placeholder:"ORIGIN,..." help:"Origins whose pages may use the service in a browser, like https://example.com, separated by commas; * is every page. Default: none."`

	RequestTimeout time.Duration `default:"1s" help:"How long the answer to a request may take once it has arrived; each attempt at an rpc-server gets a third of it."`
	MaxInFlight    int           `default:"1000" help:"Most requests that are served at a time; more are refused."`
	MaxBufferBytes int           `default:"67108864" help:"Most bytes of bodies and answers that are held at a time, not counting those of up to 16 KiB. For more, the connection that has been slow for longest is closed or, if none has for a second, the request refused."`

	ReadTimeout    time.Duration `default:"10s" help:"How long a request may take to arrive."`
	WriteTimeout   time.Duration `default:"30s" help:"How long an answer may take to be received."`
	IdleTimeout    time.Duration `default:"75s" help:"How long a connection may be open between requests."`
	MaxConnections int           `default:"5000" help:"Most connections that are open at a time. For more, one that has waited long is closed or, if none has for a second, the new one."`

	LeaveWait    time.Duration `default:"2s" help:"How long to serve on, no longer ready, when stopping, so that every balancer in front has noticed."`
	DrainTimeout time.Duration `default:"5s" help:"How long to wait, when stopping, for connections that are open."`

	GCPercent int `name:"gogc" default:"400" help:"How far the heap may grow before it is collected, in percent of what is live (Go's GOGC). Nine tenths of the container's memory are a bound, or GOMEMLIMIT where that is set."`

	Serve       struct{} `cmd:"" default:"withargs" hidden:""`
	Healthcheck struct{} `cmd:"" help:"Ask a running http-server whether it is ready; exit 0 or 1."`

	command string
}

// parseConfig reads args and the environment, where an empty variable counts as
// unset. It prints the help and exits when asked to.
func parseConfig(args []string) (config, error) {
	for _, variable := range os.Environ() {
		if name, ok := strings.CutSuffix(variable, "="); ok {
			os.Unsetenv(name)
		}
	}
	var cfg config
	parser, err := kong.New(&cfg, kong.DefaultEnvars(""), kong.Description("The gateway of im: HTTP in, JSON or protobuf; rpc-servers behind, found through etcd."))
	if err != nil {
		return cfg, err
	}
	parsed, err := parser.Parse(args)
	if err != nil {
		return cfg, err
	}
	cfg.command = parsed.Command()
	return cfg, cfg.check()
}

func (c *config) check() error {
	for name, n := range map[string]int64{
		"MAX_TEXT_BYTES": int64(c.MaxTextBytes), "REQUEST_TIMEOUT": int64(c.RequestTimeout), "MAX_IN_FLIGHT": int64(c.MaxInFlight), "MAX_BUFFER_BYTES": int64(c.MaxBufferBytes), "MAX_CONNECTIONS": int64(c.MaxConnections),
		"READ_TIMEOUT": int64(c.ReadTimeout), "WRITE_TIMEOUT": int64(c.WriteTimeout), "IDLE_TIMEOUT": int64(c.IdleTimeout), "DRAIN_TIMEOUT": int64(c.DrainTimeout), "GOGC": int64(c.GCPercent),
	} {
		if n <= 0 {
			return fmt.Errorf("%s: must be more than 0", name)
		}
	}
	if least := 6*c.MaxTextBytes + 4096; c.MaxBodyBytes < least {
		return fmt.Errorf("MAX_BODY_BYTES: must be at least %d, to hold a text of MAX_TEXT_BYTES in any escaping", least)
	}
	if least := max(c.MaxBodyBytes, 8<<20); c.MaxBufferBytes < least {
		return fmt.Errorf("MAX_BUFFER_BYTES: must be at least %d, to hold the largest body and page", least)
	}
	for _, origin := range c.CORSOrigins {
		if u, err := url.Parse(origin); origin != "*" && (err != nil || u.Host == "" || u.Scheme+"://"+u.Host != origin) {
			return errors.New("CORS_ORIGINS: an origin is a scheme and a host, like https://example.com, or *")
		}
	}
	return nil
}

// insecure lists the settings that are for a network where nobody else is.
func (c *config) insecure() []string {
	return append(c.Etcd.insecure(), risks(map[string]bool{
		"everybody may send as anybody and read every chat: neither AUTH_HMAC_SECRET_FILE nor AUTH_PUBLIC_KEY_FILE is set": c.AuthHMACSecretFile == nil && c.AuthPublicKeyFile == nil,
		"requests and tokens travel in plain text: TLS_CERT_FILE is not set":                                               c.TLSCertFile == "" && reachable(c.Listen),
		"pages of every origin may use the service: CORS_ORIGINS is *":                                                     slices.Contains(c.CORSOrigins, "*"),
		"profiles are served to all who reach ADMIN_LISTEN: PPROF is set":                                                  c.Pprof && reachable(c.AdminListen),
	})...)
}
