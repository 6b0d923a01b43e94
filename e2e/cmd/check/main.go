// Command check puts a running system to the test: it sends numbered messages,
// follows them, pulls them back and tells what was lost, stored twice or out of
// order. It exits with 1 if anything was, or if nothing was acknowledged.
package main

import (
	"context"
	"fmt"
	"os"
	"os/signal"
	"syscall"
	"time"

	"github.com/alecthomas/kong"

	"im/e2e/check"
)

type config struct {
	URL      []string      `default:"http://localhost:8080" help:"Base URLs of the gateways, separated by commas."`
	Duration time.Duration `default:"30s" help:"How long messages are sent."`
	Chats    int           `default:"100" help:"Chats that the messages are spread over."`
	Writers  int           `default:"16" help:"Writers that send, each one message at a time."`
	Rate     int           `default:"0" help:"Messages to send a second, whether or not answers come; 0 sends as fast as the writers can."`
	Patience time.Duration `default:"30s" help:"How long a message with an Idempotency-Key is sent again after a failure; 0 is not at all."`
	Repeats  int           `default:"10" help:"Of a hundred acknowledged messages with an Idempotency-Key, how many are sent again."`
	Pollers  int           `default:"4" help:"Pollers that follow the chats forward."`
	Wait     time.Duration `default:"20s" help:"How long a poller's pull waits for news, in whole seconds; 0 asks again and again."`
	Readers  int           `default:"2" help:"Readers that page chats backward."`
	Seed     uint64        `default:"0" help:"Seed of what is chosen at random; 0 takes the time."`
}

func main() {
	var cfg config
	kong.Parse(&cfg, kong.Description("Sends, follows and pulls back messages, and tells whether every promise was kept."))
	if cfg.Seed == 0 {
		cfg.Seed = uint64(time.Now().UnixNano())
	}
	if cfg.Duration <= 0 || cfg.Chats <= 0 || cfg.Writers <= 0 || cfg.Rate < 0 || cfg.Patience < 0 || cfg.Repeats < 0 || cfg.Pollers < 0 || cfg.Wait < 0 || cfg.Readers < 0 {
		fmt.Fprintln(os.Stderr, "duration, chats and writers must be more than 0, the others not negative")
		os.Exit(2)
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	context.AfterFunc(ctx, stop) // a second signal ends the process at once
	fmt.Println("seed", cfg.Seed)
	if cfg.Wait > 0 {
		fmt.Println("pollers wait for news, up to", cfg.Wait)
	}
	report, err := check.Run(ctx, check.Options{
		URLs: cfg.URL, Duration: cfg.Duration, Chats: cfg.Chats, Writers: cfg.Writers, Rate: cfg.Rate,
		Patience: cfg.Patience, Repeats: cfg.Repeats, Pollers: cfg.Pollers, Wait: cfg.Wait, Readers: cfg.Readers, Seed: cfg.Seed, Progress: os.Stdout,
	})
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	fmt.Print(report)
	if !report.Good() {
		os.Exit(1)
	}
}
