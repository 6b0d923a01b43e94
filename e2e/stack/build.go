package stack

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
)

// ErrNoRevision is the error of a revision that the repository does not have, as in a
// shallow clone.
var ErrNoRevision = errors.New("no such revision here")

// Build builds etcd, rpc-server and http-server of the checkout at root and gives
// the folder of the binaries. With race, our servers have the race detector.
// progress is told what is being built.
func Build(ctx context.Context, root string, race bool, progress func(string)) (string, error) {
	root, err := filepath.Abs(root)
	if err != nil {
		return "", err
	}
	bin := filepath.Join(root, ".bin")
	if race {
		bin = filepath.Join(bin, "race")
	}
	progress("building etcd")
	if err := run(ctx, filepath.Join(root, "e2e"), "go", "build", "-o", filepath.Join(bin, "etcd"), "./cmd/etcd"); err != nil {
		return "", err
	}
	return bin, buildServers(ctx, root, bin, race, progress)
}

// BuildRevision builds rpc-server and http-server of another revision of the checkout at
// root, and gives the folder of the binaries, in which etcd is this checkout's. The error
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
	if err := buildServers(ctx, tree, bin, false, func(what string) { progress(what + " of " + revision) }); err != nil {
		return "", err
	}
	etcd := filepath.Join(bin, "etcd")
	if err := os.Remove(etcd); err != nil && !errors.Is(err, os.ErrNotExist) {
		return "", err
	}
	return bin, os.Symlink(filepath.Join("..", "etcd"), etcd)
}

// buildServers builds the servers of the checkout at root into bin.
func buildServers(ctx context.Context, root, bin string, race bool, progress func(string)) error {
	for _, server := range []string{"rpc-server", "http-server"} {
		progress("building " + server)
		if err := run(ctx, filepath.Join(root, server), "go", "build", fmt.Sprintf("-race=%t", race), "-o", filepath.Join(bin, server), "."); err != nil {
			return err
		}
	}
	return nil
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
