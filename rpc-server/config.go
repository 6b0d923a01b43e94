package main

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"log/slog"
	"os"
	"strings"
	"time"

	"github.com/alecthomas/kong"
)

// config is every setting: a flag and an environment variable each, --listen and
// LISTEN. The defaults work from a checkout.
type config struct {
	Listen       string     `default:":8888" help:"Address to serve Thrift on."`
	Advertise    string     `help:"host:port that gateways are told in etcd. Default: the address listened on or, if that is all of them, this machine's first IPv4 address."`
	AdminListen  string     `default:"127.0.0.1:8889" help:"Address of /healthz and /readyz."`
	Pprof        bool       `help:"Serve /debug/pprof on the admin address."`
	LogLevel     slog.Level `default:"info" help:"Least level of log lines: debug, info, warn or error."`
	MaxTextBytes int        `default:"65536" help:"Most bytes of a message's text."`

	EtcdEndpoints []string `default:"localhost:2379" help:"host:port of each etcd member, separated by commas."`

	RedisAddrs        []string      `default:"localhost:6379" help:"host:port of Redis, or of several nodes of a Redis Cluster, separated by commas."`
	RedisUsername     string        `help:"User to name to Redis."`
	RedisPasswordFile string        `type:"filecontent" placeholder:"FILE" help:"File with the password for Redis."`
	RedisTLS          bool          `name:"redis-tls" help:"Speak TLS to Redis."`
	RedisCAFile       string        `name:"redis-ca-file" type:"filecontent" placeholder:"FILE" help:"File with the PEM certificates that Redis's is checked against. Default: the system's."`
	RedisTimeout      time.Duration `default:"250ms" help:"How long to wait for Redis. Keep it below a third of the gateways' REQUEST_TIMEOUT."`
	RedisQueue        int           `default:"2000" help:"Most messages that wait for Redis; more are refused."`

	LeaveWait    time.Duration `default:"2s" help:"How long to serve on after leaving etcd, so that every gateway has noticed."`
	DrainTimeout time.Duration `default:"5s" help:"How long to wait, when stopping, for calls that are under way."`

	Serve       struct{} `cmd:"" default:"withargs" hidden:""`
	Healthcheck struct{} `cmd:"" help:"Ask a running rpc-server whether it is ready; exit 0 or 1."`

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
	parser, err := kong.New(&cfg, kong.DefaultEnvars(""), kong.Description("The messages of im: Thrift in, Redis behind, found through etcd."))
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
	switch {
	case c.MaxTextBytes < 1:
		return errors.New("MAX_TEXT_BYTES: must be at least 1")
	case c.RedisTimeout <= 0:
		return errors.New("REDIS_TIMEOUT: must be more than 0")
	case c.RedisQueue < 1:
		return errors.New("REDIS_QUEUE: must be at least 1")
	case c.LeaveWait < 0:
		return errors.New("LEAVE_WAIT: must not be negative")
	case c.DrainTimeout <= 0:
		return errors.New("DRAIN_TIMEOUT: must be more than 0")
	}
	return nil
}

// redisPassword is what the file holds, without the newline that editors leave.
func (c *config) redisPassword() string { return strings.TrimRight(c.RedisPasswordFile, "\r\n") }

// redisTLS is nil where Redis speaks plain text.
func (c *config) redisTLS() (*tls.Config, error) {
	if !c.RedisTLS {
		if c.RedisCAFile != "" {
			return nil, errors.New("REDIS_CA_FILE: is set, but REDIS_TLS is not")
		}
		return nil, nil
	}
	if c.RedisCAFile == "" {
		return &tls.Config{}, nil
	}
	roots := x509.NewCertPool()
	if !roots.AppendCertsFromPEM([]byte(c.RedisCAFile)) {
		return nil, errors.New("REDIS_CA_FILE: has no PEM certificate")
	}
	return &tls.Config{RootCAs: roots}, nil
}
