package main

import (
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"strings"
	"time"

	"github.com/alecthomas/kong"
	"github.com/redis/go-redis/v9"
)

// config is every setting: a flag and an environment variable each, --listen and
// LISTEN. The defaults work from a checkout.
type config struct {
	Listen       string     `default:":8888" help:"Address to serve Thrift on."`
	Advertise    string     `help:"host:port that gateways are told in etcd. Default: the address listened on or, if that is all of them, the one from which etcd is reached."`
	AdminListen  string     `default:"127.0.0.1:8889" help:"Address of /healthz, /readyz, /metrics and /loglevel."`
	Pprof        bool       `help:"Serve /debug/pprof on the admin address."`
	LogLevel     slog.Level `default:"info" help:"Least level of log lines: debug, info, warn or error."`
	MaxTextBytes int        `default:"65536" help:"Most bytes of a message's text."`

	Etcd etcdSettings `embed:"" prefix:"etcd-"`

	RedisAddrs                []string      `default:"localhost:6379" help:"host:port of Redis, of several nodes of a Redis Cluster or, with REDIS_MASTER_NAME, of the Sentinels, separated by commas."`
	RedisMasterName           string        `help:"Name under which Sentinel knows the master; REDIS_ADDRS are Sentinels then."`
	RedisSentinelPasswordFile []byte        `type:"filecontent" placeholder:"FILE" help:"File with the password for Sentinel."`
	RedisReplicas             int           `default:"0" help:"How many replicas must have a message before it is acknowledged."`
	RedisUsername             string        `help:"User to name to Redis."`
	RedisPasswordFile         []byte        `type:"filecontent" placeholder:"FILE" help:"File with the password for Redis."`
	RedisTLS                  bool          `name:"redis-tls" help:"Speak TLS to Redis and Sentinel."`
	RedisTLSFiles             tlsFiles      `embed:"" prefix:"redis-tls-"`
	RedisTimeout              time.Duration `default:"250ms" help:"How long to wait for Redis. Keep it below a third of the gateways' REQUEST_TIMEOUT."`
	RedisQueue                int           `default:"2000" help:"Most messages that wait for Redis or its replicas; more are refused."`

	MaxInFlight  int           `default:"1000" help:"Most calls that are served at a time; more are refused."`
	LeaveWait    time.Duration `default:"2s" help:"How long to serve on after leaving etcd, so that every gateway has noticed."`
	DrainTimeout time.Duration `default:"5s" help:"How long to wait, when stopping, for calls that are under way."`

	GCPercent int `name:"gogc" default:"400" help:"How far the heap may grow before it is collected, in percent of what is live (Go's GOGC). Nine tenths of the container's memory are a bound, or GOMEMLIMIT where that is set."`

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
	if _, _, err := net.SplitHostPort(c.Advertise); c.Advertise != "" && err != nil {
		return fmt.Errorf("ADVERTISE: %w", err)
	}
	for name, n := range map[string]int64{
		"MAX_TEXT_BYTES": int64(c.MaxTextBytes), "REDIS_TIMEOUT": int64(c.RedisTimeout), "REDIS_QUEUE": int64(c.RedisQueue), "MAX_IN_FLIGHT": int64(c.MaxInFlight), "DRAIN_TIMEOUT": int64(c.DrainTimeout), "GOGC": int64(c.GCPercent),
	} {
		if n <= 0 {
			return fmt.Errorf("%s: must be more than 0", name)
		}
	}
	if c.RedisReplicas < 0 {
		return errors.New("REDIS_REPLICAS: must not be below 0")
	}
	if c.RedisSentinelPasswordFile != nil && c.RedisMasterName == "" {
		return errors.New("REDIS_SENTINEL_PASSWORD_FILE: needs REDIS_MASTER_NAME")
	}
	return nil
}

// redis says where Redis is, and how to speak to it.
func (c *config) redis() (redis.UniversalOptions, error) {
	tlsConfig, err := c.RedisTLSFiles.client("REDIS_TLS", c.RedisTLS)
	return redis.UniversalOptions{
		Addrs: c.RedisAddrs, Username: c.RedisUsername, Password: password(c.RedisPasswordFile),
		MasterName: c.RedisMasterName, SentinelPassword: password(c.RedisSentinelPasswordFile),
		TLSConfig: tlsConfig,
	}, err
}

// insecure lists the settings that are for a network where nobody else is.
func (c *config) insecure() []string {
	return append(c.Etcd.insecure(), risks(map[string]bool{
		"whoever reaches LISTEN may read and write every chat, and in plain text: keep all but the gateways from it": reachable(c.Listen),
		"profiles are served to all who reach ADMIN_LISTEN: PPROF is set":                                            c.Pprof && reachable(c.AdminListen),
		"messages travel to Redis in plain text: REDIS_TLS is not set":                                               !c.RedisTLS && reachable(c.RedisAddrs...),
		"Redis is told no password: REDIS_PASSWORD_FILE is not set":                                                  c.RedisPasswordFile == nil && reachable(c.RedisAddrs...),
	})...)
}
