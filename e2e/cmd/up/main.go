// Command up starts the whole system from a checkout, keeps it running and stops
// it on Ctrl-C: etcd, Redis, two rpc-servers and a gateway, each a real process.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"sync"
	"syscall"
	"time"

	"github.com/alecthomas/kong"
	"github.com/alicebob/miniredis/v2"

	"im/e2e/stack"
)

type config struct {
	Listen     string `default:"localhost:8080" help:"Address of the gateway."`
	RedisAddrs string `help:"host:port of a Redis that runs already. Default: a redis-server on PATH or, without one, a stand-in that keeps nothing."`
	Data       string `default:".data" help:"Folder of the data and the logs."`
}

func main() {
	var cfg config
	kong.Parse(&cfg, kong.DefaultEnvars(""), kong.Description("Starts the whole system until Ctrl-C."))
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM, syscall.SIGHUP)
	context.AfterFunc(ctx, stop) // a second signal ends the process at once
	if err := run(ctx, cfg); err != nil && ctx.Err() == nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func run(ctx context.Context, cfg config) error {
	unlock, err := lock(cfg.Data)
	if err != nil {
		return err
	}
	defer unlock()
	if l, err := net.Listen("tcp", cfg.Listen); err != nil {
		return fmt.Errorf("LISTEN: %w (choose another, as in LISTEN=localhost:8090 make run)", err)
	} else {
		l.Close()
	}
	bin, err := stack.Build(ctx, ".", stack.Quick, say)
	if err != nil {
		return err
	}

	logs := filepath.Join(cfg.Data, "logs")
	// What etcd knew of an earlier run is no help.
	if err := errors.Join(os.RemoveAll(filepath.Join(cfg.Data, "etcd")), os.RemoveAll(logs)); err != nil {
		return err
	}
	durability := "Redis is at " + cfg.RedisAddrs + "."
	if cfg.RedisAddrs == "" {
		durability = "Messages are in " + filepath.Join(cfg.Data, "redis") + ", flushed to disk on every write."
		if _, err := exec.LookPath("redis-server"); err != nil {
			standIn, err := miniredis.Run()
			if err != nil {
				return err
			}
			defer standIn.Close()
			cfg.RedisAddrs = standIn.Addr()
			durability = "NOTHING IS KEPT: without a redis-server on PATH, messages are in memory and gone when this stops.\n" +
				"To keep them, install Redis 7 (apt install redis-server, brew install redis) or set REDIS_ADDRS, and start again."
		}
	}

	say("starting")
	starting, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	s, err := stack.Start(starting, stack.Options{
		Bin: bin, Dir: cfg.Data, RedisAddrs: cfg.RedisAddrs, RPCServers: 2, Gateways: 1, Listen: cfg.Listen, Logs: logs,
	})
	if err != nil {
		return fmt.Errorf("%w (see %s)", err, logs)
	}
	fmt.Printf(banner, cfg.Listen, durability, logs)

	var keeping sync.WaitGroup
	for _, p := range s.Processes() {
		keeping.Go(func() { keep(ctx, p) })
	}
	<-ctx.Done()
	keeping.Wait()
	say("stopping")
	return s.Stop()
}

const banner = `
im is running on http://%[1]s

  curl %[1]s/ping
  curl -d '{"chat":"jack:marcus","text":"hello","sender":"jack"}' %[1]s/api/send
  curl '%[1]s/api/pull?chat=jack:marcus'

%[2]s
The logs are in %[3]s. Ctrl-C stops everything.

Try it: http://%[1]s/
`

func say(what string) { fmt.Println(what) }

// keep starts p again whenever it ends, until ctx does.
func keep(ctx context.Context, p *stack.Process) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-p.Done():
		}
		fmt.Printf("%s ended with status %d; starting it again\n", p.Name, p.ExitCode())
		for p.Start() != nil {
			select {
			case <-ctx.Done():
				return
			case <-time.After(time.Second):
			}
		}
		select { // not in a tight loop
		case <-ctx.Done():
			return
		case <-time.After(time.Second):
		}
	}
}

// lock keeps the data for this process alone.
func lock(dir string) (unlock func(), err error) {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return nil, err
	}
	path := filepath.Join(dir, "lock")
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o644)
	if err != nil {
		return nil, err
	}
	if err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		holder, _ := io.ReadAll(f)
		return nil, errors.Join(fmt.Errorf("%s is in use by another make run, process %s", dir, holder), f.Close())
	}
	if err := f.Truncate(0); err != nil {
		return nil, errors.Join(err, f.Close())
	}
	if _, err := fmt.Fprint(f, os.Getpid()); err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return func() { f.Close() }, nil
}
