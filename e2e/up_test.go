package e2e

import (
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// launcher is the program behind make run.
type launcher struct {
	*exec.Cmd
	addr string

	mu  sync.Mutex
	out strings.Builder
}

// startLauncher starts the launcher on a free port.
func startLauncher(t *testing.T, data string, env ...string) *launcher {
	t.Helper()
	path := filepath.Join(t.TempDir(), "up")
	out, err := exec.Command("go", "build", "-o", path, "./cmd/up").CombinedOutput()
	require.NoError(t, err, "%s", out)
	free, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	require.NoError(t, free.Close())

	l := &launcher{Cmd: exec.Command(path, "--data="+data), addr: free.Addr().String()}
	l.Dir = ".."
	l.Env = append(l.Environ(), append([]string{"LISTEN=" + l.addr}, env...)...)
	l.Stdout, l.Stderr = l, l
	require.NoError(t, l.Start())
	t.Cleanup(func() {
		if l.ProcessState == nil {
			l.Process.Kill()
			l.Wait()
		}
	})
	return l
}

// Write takes what the launcher prints.
func (l *launcher) Write(text []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.out.Write(text)
}

func (l *launcher) said() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.out.String()
}

func (l *launcher) url() string { return "http://" + l.addr }

// running waits until the launcher says that the system runs.
func (l *launcher) running(t *testing.T) {
	t.Helper()
	require.Eventually(t, func() bool { return strings.Contains(l.said(), "im is running on "+l.url()) }, 5*time.Minute, 50*time.Millisecond, "the system runs")
}

// interrupt is Ctrl-C; it gives the status.
func (l *launcher) interrupt(t *testing.T) int {
	t.Helper()
	require.NoError(t, l.Process.Signal(os.Interrupt))
	l.Wait()
	return l.ProcessState.ExitCode()
}

// children are the processes that the launcher started.
func (l *launcher) children(t *testing.T) []int {
	t.Helper()
	out, err := exec.Command("ps", "-A", "-o", "pid=,ppid=").Output()
	require.NoError(t, err)
	var children []int
	for line := range strings.Lines(string(out)) {
		var pid, parent int
		fmt.Sscan(line, &pid, &parent)
		if parent == l.Process.Pid {
			children = append(children, pid)
		}
	}
	return children
}

func gone(pids []int) bool {
	for _, pid := range pids {
		if syscall.Kill(pid, 0) == nil {
			return false
		}
	}
	return true
}

func TestUp_MessagesSurviveCtrlCAndASecondRun(t *testing.T) {
	if _, err := exec.LookPath("redis-server"); err != nil {
		t.Skip("redis-server is not installed")
	}
	data := filepath.Join(t.TempDir(), "data")
	first := startLauncher(t, data)
	first.running(t)
	send(t, first.url(), "jack:marcus", "hello", "jack")

	second := startLauncher(t, data)
	second.Wait()
	assert.Equal(t, 1, second.ProcessState.ExitCode())
	assert.Contains(t, second.said(), fmt.Sprintf("in use by another make run, process %d", first.Process.Pid))

	children := first.children(t)
	assert.Len(t, children, 5, "etcd, Redis, two rpc-servers, a gateway")
	assert.Zero(t, first.interrupt(t), first.said())
	assert.True(t, gone(children), "no process is left behind")

	again := startLauncher(t, data)
	again.running(t)
	assert.Len(t, pullAll(t, again.url(), "jack:marcus"), 1)
	assert.Zero(t, again.interrupt(t), again.said())
}

func TestUp_WithoutRedisSaysThatNothingIsKept(t *testing.T) {
	path := t.TempDir() // everything on PATH but redis-server
	for _, dir := range filepath.SplitList(os.Getenv("PATH")) {
		programs, _ := os.ReadDir(dir)
		for _, p := range programs {
			if p.Name() != "redis-server" {
				os.Symlink(filepath.Join(dir, p.Name()), filepath.Join(path, p.Name())) // the first one counts
			}
		}
	}
	l := startLauncher(t, filepath.Join(t.TempDir(), "data"), "PATH="+path)
	l.running(t)
	assert.Contains(t, l.said(), "NOTHING IS KEPT")
	assert.Contains(t, l.said(), "REDIS_ADDRS")
	send(t, l.url(), "jack:marcus", "hello", "jack")
	assert.Len(t, pullAll(t, l.url(), "jack:marcus"), 1)

	// One that dies is started again.
	children := l.children(t)
	require.Len(t, children, 4, "etcd, two rpc-servers, a gateway")
	for _, pid := range children {
		require.NoError(t, syscall.Kill(pid, syscall.SIGKILL))
	}
	eventually(t, func() bool {
		return strings.Count(l.said(), "starting it again") == 4 && len(l.children(t)) == 4
	}, "all are started again")
	eventually(t, func() bool { status, _, _ := get(l.url(), "chat=jack:marcus"); return status == 200 }, "it serves again")
	assert.Len(t, pullAll(t, l.url(), "jack:marcus"), 1)

	// And all die with the launcher, however it ends.
	children = l.children(t)
	require.NoError(t, l.Process.Kill())
	l.Wait()
	eventually(t, func() bool { return gone(children) }, "no process is left behind")
}

func TestUp_TakenPortIsOneLineThatNamesTheSetting(t *testing.T) {
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	t.Cleanup(func() { taken.Close() })
	l := startLauncher(t, filepath.Join(t.TempDir(), "data"), "LISTEN="+taken.Addr().String())
	l.Wait()
	assert.Equal(t, 1, l.ProcessState.ExitCode())
	assert.Equal(t, 1, strings.Count(l.said(), "\n"), l.said())
	assert.Contains(t, l.said(), "LISTEN: ")
}
