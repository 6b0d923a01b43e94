package stack

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"
)

// Process is a program that runs in a process group of its own, dies with this
// one, and can be started again at the same addresses.
type Process struct {
	Name string
	// Addr is where it serves, Admin where it tells its health: host:port, empty
	// if it has none.
	Addr, Admin string

	// Log is the file that its output is appended to.
	Log string

	path string
	args []string
	env  []string // beside this program's own
	// answers is nil once the program answers at Addr.
	answers func(context.Context) error

	cmd  *exec.Cmd
	done chan struct{}
}

// Start starts the program, which must not be running.
func (p *Process) Start() error {
	log, err := os.OpenFile(p.Log, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		return err
	}
	defer log.Close()
	cmd := exec.Command(p.path, p.args...)
	cmd.Env = append(os.Environ(), p.env...)
	cmd.Stdout, cmd.Stderr = log, log
	cmd.SysProcAttr = ownGroup()
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("%s: %w", p.Name, err)
	}
	done := make(chan struct{})
	go func() {
		cmd.Wait() // its error is the exit code
		close(done)
	}()
	p.cmd, p.done = cmd, done
	return nil
}

// Setenv sets more environment variables, as NAME=value, for when it is started next.
func (p *Process) Setenv(variables ...string) {
	p.env = append(slices.Clip(p.env), variables...)
}

// SetFlag sets a flag, as --name=value, for when it is started next.
func (p *Process) SetFlag(flag string) {
	name, _, _ := strings.Cut(flag, "=")
	p.args = append(slices.DeleteFunc(slices.Clone(p.args), func(arg string) bool { return strings.HasPrefix(arg, name+"=") }), flag)
}

// SetBin sets the folder that its binary is in, for when it is started next.
func (p *Process) SetBin(bin string) { p.path = filepath.Join(bin, filepath.Base(p.path)) }

// Done is closed when the program has ended.
func (p *Process) Done() <-chan struct{} { return p.done }

// ExitCode is what the ended program exited with; -1 if a signal ended it.
func (p *Process) ExitCode() int { return p.cmd.ProcessState.ExitCode() }

// PID is the process id.
func (p *Process) PID() int { return p.cmd.Process.Pid }

// Signal sends the program a signal.
func (p *Process) Signal(s syscall.Signal) error { return p.cmd.Process.Signal(s) }

// Kill ends the program without warning and waits until it is gone.
func (p *Process) Kill() { p.end(syscall.SIGKILL, 0) }

// Stop asks the program to end and waits until it has. One that takes longer
// than 20 seconds is killed, which is an error.
func (p *Process) Stop() error { return p.end(syscall.SIGTERM, 20*time.Second) }

func (p *Process) end(s syscall.Signal, patience time.Duration) error {
	if p.done == nil {
		return nil
	}
	p.Signal(s)
	if patience > 0 {
		select {
		case <-p.done:
			return nil
		case <-time.After(patience):
		}
		p.Signal(syscall.SIGKILL)
	}
	<-p.done
	if patience > 0 {
		return fmt.Errorf("%s: did not stop within %s", p.Name, patience)
	}
	return nil
}

// Wait returns when the program answers. It is an error if it ends instead, or
// if ctx does.
func (p *Process) Wait(ctx context.Context) error {
	for {
		err := p.answers(ctx)
		if err == nil {
			return nil
		}
		select {
		case <-p.done:
			log, _ := os.ReadFile(p.Log)
			return fmt.Errorf("%s: ended with status %d before it answered:\n%s", p.Name, p.ExitCode(), log[max(0, len(log)-2000):])
		case <-ctx.Done():
			return fmt.Errorf("%s: %w: %w", p.Name, ctx.Err(), err)
		case <-time.After(20 * time.Millisecond):
		}
	}
}

// start starts each and waits until it answers.
func start(ctx context.Context, ps ...*Process) error {
	for _, p := range ps {
		if err := p.Start(); err != nil {
			return err
		}
	}
	for _, p := range ps {
		if err := p.Wait(ctx); err != nil {
			return err
		}
	}
	return nil
}

// stop stops all of them at once.
func stop(ps ...*Process) error {
	stopped := make(chan error)
	for _, p := range ps {
		go func() { stopped <- p.Stop() }()
	}
	var err error
	for range ps {
		err = errors.Join(err, <-stopped)
	}
	return err
}
