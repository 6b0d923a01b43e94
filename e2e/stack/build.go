package stack

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"
)

// ErrNoRevision is the error of a revision that the repository does not have, as in a
// shallow clone.
var ErrNoRevision = errors.New("no such revision here")

// Kind is how our servers are built.
type Kind string

// The kinds.
const (
	Shipped Kind = "shipped" // with the profile, as images have them
	Quick   Kind = "quick"   // without it: with a profile, all that they import is compiled anew
	Race    Kind = "race"    // with the race detector, and without the profile
)

// Build builds etcd, rpc-server and http-server of the checkout at root and returns the
// folder of the binaries. progress is told what is being built, and how far that is.
func Build(ctx context.Context, root string, kind Kind, progress func(string)) (string, error) {
	root, err := filepath.Abs(root)
	if err != nil {
		return "", err
	}
	bin := filepath.Join(root, ".bin")
	if kind != Shipped {
		bin = filepath.Join(bin, string(kind))
	}
	if err := build(ctx, filepath.Join(root, "e2e"), "etcd", progress, "-o", filepath.Join(bin, "etcd"), "./cmd/etcd"); err != nil {
		return "", err
	}
	return bin, buildServers(ctx, root, bin, kind, progress)
}

// BuildRevision builds rpc-server and http-server of another revision of the checkout at
// root, and returns the folder of the binaries, in which etcd is this checkout's. The error
// wraps ErrNoRevision where the repository does not have it.
func BuildRevision(ctx context.Context, root, revision string, progress func(string)) (bin string, err error) {
	root, err = filepath.Abs(root)
	if err != nil {
		return "", err
	}
	out, err := exec.CommandContext(ctx, "git", "-C", root, "rev-parse", "--verify", "--quiet", revision+"^{commit}").Output()
	if err != nil {
		return "", fmt.Errorf("%w: %s", ErrNoRevision, revision)
	}
	commit := strings.TrimSpace(string(out))
	temp, err := os.MkdirTemp("", "im-revision-")
	if err != nil {
		return "", err
	}
	defer os.RemoveAll(temp)
	tree := filepath.Join(temp, "tree")
	if err := run(ctx, root, "git", "worktree", "add", "--quiet", "--detach", tree, commit); err != nil {
		return "", err
	}
	defer func() {
		err = cmp.Or(err, run(context.WithoutCancel(ctx), root, "git", "worktree", "remove", "--force", tree))
	}()
	bin = filepath.Join(root, ".bin", commit)
	if err := buildServers(ctx, tree, bin, Shipped, func(what string) { progress("revision " + revision + ": " + what) }); err != nil {
		return "", err
	}
	etcd := filepath.Join(bin, "etcd")
	if err := os.Remove(etcd); err != nil && !errors.Is(err, os.ErrNotExist) {
		return "", err
	}
	return bin, os.Symlink(filepath.Join("..", "etcd"), etcd)
}

// buildServers builds the servers of the checkout at root into bin.
func buildServers(ctx context.Context, root, bin string, kind Kind, progress func(string)) error {
	if _, err := os.Stat(filepath.Join(root, "go.mod")); errors.Is(err, os.ErrNotExist) {
		return buildModules(ctx, root, bin, progress)
	}
	args := []string{fmt.Sprintf("-race=%t", kind == Race), "-o", bin + string(filepath.Separator), "./http-server", "./rpc-server"}
	if _, err := os.Stat(filepath.Join(root, "default.pgo")); err == nil && kind == Shipped {
		args = append([]string{"-pgo=default.pgo"}, args...)
	}
	return build(ctx, root, "http-server and rpc-server", progress, args...)
}

// buildModules is buildServers for the older revisions in which each server is a module
// with a profile of its own, which the compiler finds by itself.
func buildModules(ctx context.Context, root, bin string, progress func(string)) error {
	for _, server := range []string{"http-server", "rpc-server"} {
		if err := build(ctx, filepath.Join(root, server), server, progress, "-o", filepath.Join(bin, server), "."); err != nil {
			return err
		}
	}
	return nil
}

// progressInterval is how often a build that goes on tells how far it is.
const progressInterval = 10 * time.Second

// build runs go build in a folder. progress is told what is built and, every
// progressInterval, what go build does: which module it downloads, or which package it
// compiles.
func build(ctx context.Context, dir, what string, progress func(string), args ...string) error {
	progress("building " + what)
	cmd := exec.CommandContext(ctx, "go", append([]string{"build", "-v"}, args...)...)
	cmd.Dir = dir
	var out output
	cmd.Stdout, cmd.Stderr = &out, &out
	done := make(chan error, 1)
	go func() { done <- cmd.Run() }()
	ticks := time.NewTicker(progressInterval)
	defer ticks.Stop()
	for {
		select {
		case err := <-done:
			if err != nil {
				return fmt.Errorf("%s: %w\n%s", cmd, err, out.messages())
			}
			return nil
		case <-ticks.C:
			progress(fmt.Sprintf("building %s: %s", what, cmp.Or(out.newest(), "reading the packages")))
		}
	}
}

// output is what go build -v prints. It may be read while go build runs.
type output struct {
	mu   sync.Mutex
	text strings.Builder
}

func (o *output) Write(text []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.text.Write(text)
}

func (o *output) lines() []string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return strings.Split(strings.TrimSpace(o.text.String()), "\n")
}

// newest returns the last line, empty if there is none.
func (o *output) newest() string {
	lines := o.lines()
	return lines[len(lines)-1]
}

// messages returns the lines other than the names of packages, which have no spaces.
func (o *output) messages() string {
	named := func(line string) bool { return !strings.Contains(line, " ") }
	return strings.Join(slices.DeleteFunc(o.lines(), named), "\n")
}

// run runs a program in a folder. Its error has what it printed.
func run(ctx context.Context, dir, name string, args ...string) error {
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.Dir = dir
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("%s: %w\n%s", cmd, err, out)
	}
	return nil
}
