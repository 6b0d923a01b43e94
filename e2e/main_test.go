// Package e2e tests the system as its users see it: real processes, spoken to
// over HTTP and Thrift.
package e2e

import (
	"context"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"im/e2e/stack"
)

var topology = flag.String("redis", "single", "Redis that messages are kept in: single, sentinel or cluster")

// bin is the folder of the binaries, our servers with the race detector.
var bin string

// shared is the system of the tests that do it no harm: two rpc-servers and a
// gateway.
var shared *stack.Stack

func TestMain(m *testing.M) { os.Exit(run(m)) }

func run(m *testing.M) int {
	flag.Parse()
	dir, err := os.MkdirTemp("", "im-e2e-")
	if err != nil {
		return failed(err)
	}
	defer os.RemoveAll(dir)
	bin, err = stack.Build(context.Background(), "..", stack.Race, func(what string) { fmt.Println(what) })
	if err != nil {
		return failed(err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	shared, err = stack.Start(ctx, options(dir))
	if err != nil {
		return failed(err)
	}
	code := m.Run()
	if err := shared.Stop(); err != nil {
		return failed(err)
	}
	if complaints := complaints(filepath.Join(dir, "logs")); len(complaints) > 0 {
		return failed(fmt.Errorf("the servers complain:\n%s", strings.Join(complaints, "\n")))
	}
	return code
}

func failed(err error) int {
	fmt.Fprintln(os.Stderr, err)
	return 1
}

// options are those of a small system with its data and logs below dir.
func options(dir string) stack.Options {
	return stack.Options{
		Bin: bin, Dir: dir, Logs: filepath.Join(dir, "logs"),
		Topology: stack.Topology(*topology), RPCServers: 2, Gateways: 1,
		// The race detector and a busy machine make everything slow.
		Settings: []string{"LOG_LEVEL=debug", "DRAIN_TIMEOUT=1s", "REQUEST_TIMEOUT=9s", "REDIS_TIMEOUT=2500ms"},
	}
}

// start starts a system of its own for a test, which may do to it what it likes.
func start(t *testing.T, change func(*stack.Options)) *stack.Stack {
	t.Helper()
	o := options(t.TempDir())
	if change != nil {
		change(&o)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	s, err := stack.Start(ctx, o)
	require.NoError(t, err)
	t.Cleanup(func() {
		assert.NoError(t, s.Stop())
		assert.Empty(t, complaints(o.Logs), "the servers complain")
	})
	return s
}

// complaints are the lines of our servers' logs that tell of a defect: a data
// race, a panic or an error.
func complaints(logs string) []string {
	var found []string
	files, _ := filepath.Glob(filepath.Join(logs, "*-server-*.log"))
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err != nil {
			found = append(found, err.Error())
		}
		for line := range strings.Lines(string(text)) {
			if strings.Contains(line, "DATA RACE") || strings.Contains(line, "panic") || strings.Contains(line, `"level":"ERROR"`) {
				found = append(found, filepath.Base(file)+": "+line)
			}
		}
	}
	return found
}

// logged gives the lines of a process's log that contain text.
func logged(t *testing.T, p *stack.Process, text string) []string {
	t.Helper()
	log, err := os.ReadFile(p.Log)
	require.NoError(t, err)
	var lines []string
	for line := range strings.Lines(string(log)) {
		if strings.Contains(line, text) {
			lines = append(lines, line)
		}
	}
	return lines
}

// eventually polls until ok.
func eventually(t *testing.T, ok func() bool, what string) {
	t.Helper()
	require.Eventually(t, ok, 30*time.Second, 20*time.Millisecond, what)
}
