//go:build compose

package deploy

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// composition is the system of docker-compose.yml and of more files, under a project
// and on a port of its own, with its servers' logs at debug level.
type composition struct {
	t       *testing.T
	command []string
	port    string
}

func compose(t *testing.T, more ...string) *composition {
	t.Helper()
	free, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	_, port, err := net.SplitHostPort(free.Addr().String())
	require.NoError(t, err)
	require.NoError(t, free.Close())
	override := filepath.Join(t.TempDir(), "override.yml")
	require.NoError(t, os.WriteFile(override, []byte("version: '3.8'\nservices:\n  rpc-server: {environment: {LOG_LEVEL: debug}}\n"), 0o644))
	command := []string{"docker-compose"}
	if exec.Command("docker", "compose", "version").Run() == nil {
		command = []string{"docker", "compose"}
	}
	command = append(command, "-p", "im-test", "-f", "../../docker-compose.yml")
	for _, file := range append(more, override) {
		command = append(command, "-f", file)
	}
	c := &composition{t, command, port}
	t.Cleanup(func() { c.run("down", "-v", "--remove-orphans") })
	return c
}

// run runs a compose command that must succeed.
func (c *composition) run(args ...string) string {
	c.t.Helper()
	args = append(append([]string{}, c.command...), args...)
	cmd := exec.Command(args[0], args[1:]...)
	cmd.Env = append(os.Environ(), "PORT="+c.port)
	out, err := cmd.CombinedOutput()
	require.NoError(c.t, err, "%s\n%s", args, out)
	return string(out)
}

// docker runs a docker command that must succeed.
func docker(t *testing.T, args ...string) string {
	t.Helper()
	out, err := exec.Command("docker", args...).CombinedOutput()
	require.NoError(t, err, "%s\n%s", args, out)
	return strings.TrimSpace(string(out))
}

// containers are the ids of a service's running containers; of all services
// without a name.
func (c *composition) containers(service string) []string {
	c.t.Helper()
	filter := "label=com.docker.compose.project=im-test"
	if service == "" {
		return strings.Fields(docker(c.t, "ps", "-q", "--filter", filter))
	}
	return strings.Fields(docker(c.t, "ps", "-q", "--filter", filter, "--filter", "label=com.docker.compose.service="+service))
}

func (c *composition) post(text string) (int, error) {
	body, err := json.Marshal(map[string]string{"chat": "jack:marcus", "text": text, "sender": "jack"})
	if err != nil {
		return 0, err
	}
	resp, err := http.Post("http://localhost:"+c.port+"/api/send", "application/json", bytes.NewReader(body))
	if err != nil {
		return 0, err
	}
	defer resp.Body.Close()
	_, err = io.Copy(io.Discard, resp.Body)
	return resp.StatusCode, err
}

// texts pulls all that was said; an error is a page that was not served.
func (c *composition) texts() ([]string, error) {
	var texts []string
	for cursor := 0; ; cursor = len(texts) {
		resp, err := http.Get(fmt.Sprintf("http://localhost:%s/api/pull?chat=jack:marcus&limit=1000&cursor=%d", c.port, cursor))
		if err != nil {
			return nil, err
		}
		body, err := io.ReadAll(resp.Body)
		resp.Body.Close()
		if err != nil || resp.StatusCode != http.StatusOK {
			return nil, fmt.Errorf("%d %s: %w", resp.StatusCode, body, err)
		}
		var page struct {
			Messages []struct{ Text string }
			HasMore  bool `json:"has_more"`
		}
		if err := json.Unmarshal(body, &page); err != nil {
			return nil, err
		}
		for _, m := range page.Messages {
			texts = append(texts, m.Text)
		}
		if !page.HasMore {
			return texts, nil
		}
	}
}

// eventually polls until ok.
func eventually(t *testing.T, ok func() bool, what string) {
	t.Helper()
	require.Eventually(t, ok, 3*time.Minute, 100*time.Millisecond, what)
}

func TestCompose_KeepsEveryMessageInOrderWhateverStops(t *testing.T) {
	c := compose(t)
	began := time.Now()
	c.run("up", "--build", "-d")
	serves := func() bool { texts, err := c.texts(); return err == nil && texts != nil }
	eventually(t, func() bool { status, err := c.post("first"); return err == nil && status == 200 }, "a message is sent")
	t.Logf("a message was sent %s after up --build", time.Since(began).Round(time.Second))

	// The curl lines of the README work here too.
	readme, err := os.ReadFile("../../README.md")
	require.NoError(t, err)
	lines := 0
	for line := range strings.Lines(string(readme)) {
		if strings.HasPrefix(line, "curl ") {
			out, err := exec.Command("sh", "-c", strings.NewReplacer("curl ", "curl -sS ", "localhost:8080", "localhost:"+c.port).Replace(line)).CombinedOutput()
			require.NoError(t, err, "%s: %s", line, out)
			lines++
		}
	}
	require.NotZero(t, lines)
	said, err := c.texts()
	require.NoError(t, err)
	require.Equal(t, []string{"hello", "once"}, said[len(said)-2:])

	const senders, each = 20, 50
	var sending sync.WaitGroup
	for s := range senders {
		sending.Go(func() {
			for i := range each {
				status, err := c.post(fmt.Sprintf("%d-%d", s, i))
				assert.NoError(t, err)
				assert.Equal(t, 200, status)
			}
		})
	}
	sending.Wait()
	sent, err := c.texts()
	require.NoError(t, err)
	require.GreaterOrEqual(t, len(sent), senders*each+1)
	same := func(when string) {
		t.Helper()
		eventually(t, serves, "it serves "+when)
		texts, err := c.texts()
		require.NoError(t, err)
		require.Equal(t, sent, texts, when)
	}

	// Nothing else is reachable, nothing runs as root, and the logs are JSON.
	for _, id := range c.containers("") {
		name := docker(t, "inspect", "-f", "{{.Name}}", id)
		published := docker(t, "port", id)
		assert.Equal(t, strings.Contains(name, "http-server"), published != "", "%s publishes %q", name, published)
		for _, pid := range strings.Fields(docker(t, "top", id, "-o", "pid"))[1:] {
			status, err := os.ReadFile("/proc/" + pid + "/status")
			if err == nil { // it may have ended
				assert.NotContains(t, string(status), "\nUid:\t0\t", "%s runs as root", name)
			}
		}
		if strings.Contains(name, "-server") {
			for line := range strings.Lines(docker(t, "logs", id)) {
				assert.True(t, json.Valid([]byte(line)), "%s: %s", name, line)
			}
		}
	}

	// Three rpc-servers serve; to stop one, and to kill another, fails nothing.
	c.run("up", "-d", "--no-build", "--scale", "rpc-server=3")
	var three []string
	eventually(t, func() bool { three = c.containers("rpc-server"); return len(three) == 3 }, "three rpc-servers")
	eventually(t, func() bool {
		http.Get("http://localhost:" + c.port + "/api/pull?chat=nobody")
		for _, id := range three {
			if !strings.Contains(docker(t, "logs", id), `"msg":"refused"`) {
				return false
			}
		}
		return true
	}, "all three serve")
	for i, command := range []string{"stop", "kill"} {
		gone := make(chan error)
		go func() {
			err := exec.Command("docker", command, three[i]).Run()
			time.Sleep(3 * time.Second) // in which the gateway must do without it
			gone <- err
		}()
		for over := false; !over; {
			select {
			case err := <-gone:
				require.NoError(t, err)
				over = true
			default:
			}
			status, err := c.post("while one goes")
			require.NoError(t, err)
			require.Equal(t, 200, status, command)
			sent = append(sent, "while one goes")
		}
		require.Len(t, c.containers("rpc-server"), 2-i)
		same("after " + command)
	}

	// Redis's process is killed, and started again by the engine.
	pid := 0
	fmt.Sscan(docker(t, "inspect", "-f", "{{.State.Pid}}", c.containers("redis")[0]), &pid)
	require.NoError(t, syscall.Kill(pid, syscall.SIGKILL))
	same("after Redis was killed")

	c.run("down")
	c.run("up", "-d", "--no-build")
	same("after down and up")
}

func TestCompose_ClusterKeepsEveryMessageWhenAMasterDies(t *testing.T) {
	c := compose(t, "../../docker-compose.cluster.yml")
	c.run("up", "--build", "-d")
	var sent []string
	send := func(when string) {
		t.Helper()
		for i := range 50 {
			// The first ones may be refused, and so may be stored.
			text := fmt.Sprint(i, " ", when)
			eventually(t, func() bool { status, err := c.post(text); return err == nil && status == 200 }, "it sends "+when)
			sent = append(sent, text)
		}
		texts, err := c.texts()
		require.NoError(t, err)
		require.Equal(t, sent, slices.Compact(texts), when)
	}
	send("at first")

	redis := func(service string, args ...string) string {
		t.Helper()
		return docker(t, append([]string{"exec", c.containers(service)[0], "redis-cli"}, args...)...)
	}
	master := ""
	nodes := []string{"redis", "redis-2", "redis-3", "redis-4", "redis-5", "redis-6"}
	for _, node := range nodes {
		if strings.HasPrefix(redis(node, "role"), "master") && redis(node, "--scan", "--pattern", "chat:jack:marcus") != "" {
			master = node
		}
	}
	require.NotEmpty(t, master)
	id := c.containers(master)[0]
	docker(t, "kill", id)
	eventually(t, func() bool { texts, err := c.texts(); return err == nil && len(texts) >= len(sent) }, "another takes over")
	docker(t, "start", id)
	send("after another took over")

	c.run("down")
	c.run("up", "-d", "--no-build")
	send("after down and up")
}
