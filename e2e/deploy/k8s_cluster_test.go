//go:build cluster

package deploy

import (
	"bufio"
	"bytes"
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// TestCluster applies k8 in a namespace of its own, on the cluster that kubectl
// speaks to. The nodes must have our images, or a registry that gives them.
func TestCluster(t *testing.T) {
	namespace := fmt.Sprintf("im-test-%d", time.Now().Unix())
	run := func(args ...string) string {
		t.Helper()
		args = append([]string{"--namespace=" + namespace}, args...)
		out, err := exec.Command("kubectl", args...).CombinedOutput()
		require.NoError(t, err, "kubectl %s\n%s", strings.Join(args, " "), out)
		return string(out)
	}
	run("create", "namespace", namespace)
	t.Cleanup(func() {
		if t.Failed() {
			t.Log(run("get", "all,persistentvolumeclaims,events"))
		}
		run("delete", "namespace", namespace)
	})
	// Only pods that are locked down come in.
	run("label", "namespace", namespace, "pod-security.kubernetes.io/enforce=restricted")

	k8 := filepath.Join(root, "k8")
	run("apply", "--filename="+k8)
	ready := func(server string, least int) {
		t.Helper()
		require.Eventually(t, func() bool {
			pods, _ := strconv.Atoi(run("get", "deployment", server, "--output=jsonpath={.status.readyReplicas}"))
			return pods >= least
		}, 5*time.Minute, time.Second, "%s has no %d pods that are ready", server, least)
	}
	ready("rpc-server", 2)
	ready("http-server", 2)

	base := forward(t, namespace)
	texts := make(chan string, 10000)
	send := func() {
		text := fmt.Sprint("text ", len(texts))
		body, err := json.Marshal(map[string]string{"chat": "jack:marcus", "text": text, "sender": "jack"})
		require.NoError(t, err)
		resp, err := http.Post(base+"/api/send", "application/json", bytes.NewReader(body))
		require.NoError(t, err)
		resp.Body.Close()
		require.Equal(t, http.StatusOK, resp.StatusCode, "%s", text)
		texts <- text
	}
	for range 100 {
		send()
	}

	// More pods, by the README's way.
	run("patch", "horizontalpodautoscaler", "rpc-server", "--patch", `{"spec":{"minReplicas":3}}`)
	ready("rpc-server", 3)

	// An update of the backend fails no send.
	updated := make(chan error, 1)
	run("rollout", "restart", "deployment/rpc-server")
	go func() {
		updated <- exec.Command("kubectl", "--namespace="+namespace, "rollout", "status", "--timeout=5m", "deployment/rpc-server").Run()
	}()
	for updating := true; updating; {
		select {
		case err := <-updated:
			require.NoError(t, err)
			updating = false
		default:
			send()
			time.Sleep(20 * time.Millisecond)
		}
	}

	// A new Redis has all that the old one acknowledged.
	run("delete", "pod", "redis-0")
	run("rollout", "status", "--timeout=5m", "statefulset/redis")
	close(texts)
	var sent, stored []string
	for text := range texts {
		sent = append(sent, text)
	}
	require.EventuallyWithT(t, func(t *assert.CollectT) {
		stored = nil
		for cursor, more := 0, true; more; {
			resp, err := http.Get(fmt.Sprintf("%s/api/pull?chat=%s&limit=1000&cursor=%d", base, url.QueryEscape("jack:marcus"), cursor))
			if !assert.NoError(t, err) {
				return
			}
			defer resp.Body.Close()
			if !assert.Equal(t, http.StatusOK, resp.StatusCode) {
				return
			}
			var page struct {
				Messages []struct{ Text string }
				HasMore  bool `json:"has_more"`
			}
			if !assert.NoError(t, json.NewDecoder(resp.Body).Decode(&page)) {
				return
			}
			for _, m := range page.Messages {
				stored = append(stored, m.Text)
			}
			cursor, more = len(stored), page.HasMore
		}
	}, time.Minute, time.Second)
	assert.Equal(t, sent, stored)

	run("delete", "--filename="+k8, "--timeout=5m")
	assert.Eventually(t, func() bool { return run("get", "all", "--output=name") == "" }, 2*time.Minute, time.Second, "something is left")
}

// forward gives a base URL at which a gateway answers.
func forward(t *testing.T, namespace string) string {
	t.Helper()
	cmd := exec.Command("kubectl", "--namespace="+namespace, "port-forward", "service/http-server", ":8080")
	stdout, err := cmd.StdoutPipe()
	require.NoError(t, err)
	require.NoError(t, cmd.Start())
	t.Cleanup(func() {
		cmd.Process.Kill()
		cmd.Wait()
	})
	line, err := bufio.NewReader(stdout).ReadString('\n')
	require.NoError(t, err)
	address := regexp.MustCompile(`127\.0\.0\.1:\d+`).FindString(line)
	require.NotEmpty(t, address, line)
	return "http://" + address
}
