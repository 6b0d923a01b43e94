package main

import (
	"errors"
	"fmt"
	"time"

	"github.com/redis/go-redis/v9"

	"im/internal/etcd"
	"im/internal/settings"
	"im/internal/tlsfiles"
)

// config is every setting: a flag and an environment variable each, --listen and
// LISTEN. The defaults work from a checkout.
type config struct {
	Listen    string `default:":8888" help:"Address to serve Thrift on."`
	Advertise string `help:"host:port that gateways are told in etcd. Default: the address listened on or, if that is all of them, the one from which etcd is reached."`
	settings.Common
	MaxTextBytes int `default:"65536" min:"1" help:"Most bytes of a message's text."`

	Etcd etcd.Settings `embed:"" prefix:"etcd-"`

	RedisAddrs                []string        `default:"localhost:6379" help:"host:port of Redis, of several nodes of a Redis Cluster or, with REDIS_MASTER_NAME, of the Sentinels, separated by commas."`
	RedisMasterName           string          `help:"Name under which Sentinel knows the master; REDIS_ADDRS are Sentinels then."`
	RedisSentinelPasswordFile []byte          `type:"filecontent" placeholder:"FILE" help:"File with the password for Sentinel."`
	RedisReplicas             int             `default:"0" min:"0" help:"How many replicas must have a message before it is acknowledged."`
	RedisUsername             string          `help:"User to name to Redis."`
	RedisPasswordFile         []byte          `type:"filecontent" placeholder:"FILE" help:"File with the password for Redis."`
	RedisTLS                  bool            `name:"redis-tls" help:"Speak TLS to Redis and Sentinel."`
	RedisTLSFiles             tlsfiles.Client `embed:"" prefix:"redis-tls-"`
	RedisTimeout              time.Duration   `default:"250ms" min:"1" help:"How long to wait for Redis. Keep it below a third of the gateways' REQUEST_TIMEOUT."`
	RedisQueue                int             `default:"2000" min:"2" help:"Most messages that wait for Redis or its replicas; more are refused. The first one of a chat counts thrice."`

	Reindex struct{} `cmd:"" help:"Put every chat into the lists of its members, also while others serve, and end."`

	MaxInFlight  int           `default:"1000" min:"1" help:"Most calls that are served at a time; more are refused."`
	LeaveWait    time.Duration `default:"2s" help:"How long to serve on after leaving etcd, so that every gateway has noticed."`
	DrainTimeout time.Duration `default:"5s" min:"1" help:"How long to wait, when stopping, for calls that are under way."`
}

func parseConfig(args []string) (cfg config, err error) {
	cfg.Command, err = settings.Parse(args, &cfg, "The messages of im: Thrift in, Redis behind, found through etcd.", "127.0.0.1:8889")
	return cfg, err
}

// Validate is called by kong.
func (c *config) Validate() error {
	if err := settings.CheckHostPort(c.Advertise); c.Advertise != "" && err != nil {
		return fmt.Errorf("ADVERTISE: %w", err)
	}
	for _, address := range c.RedisAddrs {
		if err := settings.CheckHostPort(address); err != nil {
			return fmt.Errorf("REDIS_ADDRS: %w", err)
		}
	}
	if c.RedisSentinelPasswordFile != nil && c.RedisMasterName == "" {
		return errors.New("REDIS_SENTINEL_PASSWORD_FILE: needs REDIS_MASTER_NAME")
	}
	return nil
}

// redis returns where Redis is, and how to speak to it.
func (c *config) redis() (redis.UniversalOptions, error) {
	tlsConfig, err := c.RedisTLSFiles.Config("REDIS_TLS", c.RedisTLS)
	return redis.UniversalOptions{
		Addrs: c.RedisAddrs, Username: c.RedisUsername, Password: settings.Secret(c.RedisPasswordFile),
		MasterName: c.RedisMasterName, SentinelPassword: settings.Secret(c.RedisSentinelPasswordFile),
		TLSConfig: tlsConfig,
	}, err
}

// insecure lists the settings that are for a network where nobody else is.
func (c *config) insecure() []string {
	return append(append(c.Common.Insecure(), c.Etcd.Insecure()...), settings.Risks(map[string]bool{
		"whoever reaches LISTEN may read and write every chat, and in plain text: keep all but the gateways from it": settings.Reachable(c.Listen),
		"messages travel to Redis in plain text: REDIS_TLS is not set":                                               !c.RedisTLS && settings.Reachable(c.RedisAddrs...),
		"Redis is told no password: REDIS_PASSWORD_FILE is not set":                                                  c.RedisPasswordFile == nil && settings.Reachable(c.RedisAddrs...),
	})...)
}
