//go:build cluster

package deploy

import (
	"bytes"
	"encoding/json"
	"fmt"
	"maps"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
)

// installation is what was applied, in a namespace of its own.
type installation struct {
	*testing.T
	namespace string
	url       string // of the Service http-server
	// spare is a node for our pods that can be lost: neither Redis nor url needs it. It
	// is empty where there is one node for pods.
	spare string
	// served is until when requests may fail with 503, for want of Redis.
	served time.Time
}

// newInstallation makes the namespace, into which only pods come that are locked down, and
// deletes it at the test's end.
func newInstallation(t *testing.T) *installation {
	i := &installation{T: t, namespace: fmt.Sprintf("im-test-%d", time.Now().UnixNano())}
	i.kubectl("create", "namespace", i.namespace)
	t.Cleanup(func() {
		if t.Failed() {
			t.Log(i.kubectl("get", "all,persistentvolumeclaims,events", "--output=wide"))
		}
		i.kubectl("delete", "namespace", i.namespace)
	})
	i.kubectl("label", "namespace", i.namespace, "pod-security.kubernetes.io/enforce=restricted")
	return i
}

// try runs kubectl, and gives what it prints.
func (i *installation) try(args ...string) (string, error) {
	cmd := exec.Command("kubectl", append([]string{"--namespace=" + i.namespace}, args...)...)
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	if err := cmd.Run(); err != nil {
		return "", fmt.Errorf("kubectl %s: %w\n%s", strings.Join(args, " "), err, &stderr)
	}
	return stdout.String(), nil
}

func (i *installation) kubectl(args ...string) string {
	i.Helper()
	out, err := i.try(args...)
	require.NoError(i, err)
	return out
}

// get reads objects of the API.
func get[T any](i *installation, args ...string) (objects T, err error) {
	out, err := i.try(append([]string{"get", "--output=json"}, args...)...)
	if err == nil {
		err = json.Unmarshal([]byte(out), &objects)
	}
	return objects, err
}

// ours selects the pods of the four tiers.
const ours = "--selector=app.kubernetes.io/part-of=im"

// eventually is require.EventuallyWithT, for what takes a cluster its time.
func (i *installation) eventually(holds func(t *assert.CollectT), what string) {
	i.Helper()
	require.EventuallyWithT(i, holds, 5*time.Minute, 300*time.Millisecond, what)
}

// settle waits until each workload has the pods that it should have, all ready, and no
// others: those of before have ended.
func (i *installation) settle() {
	i.Helper()
	i.eventually(func(t *assert.CollectT) {
		deployments, err := get[appsv1.DeploymentList](i, "deployments")
		require.NoError(t, err)
		stores, err := get[appsv1.StatefulSetList](i, "statefulsets")
		require.NoError(t, err)
		pods, err := get[corev1.PodList](i, "pods")
		require.NoError(t, err)
		var want int32
		for _, d := range deployments.Items {
			assert.Equal(t, d.Generation, d.Status.ObservedGeneration, d.Name)
			assert.Equal(t, *d.Spec.Replicas, d.Status.UpdatedReplicas, d.Name)
			assert.GreaterOrEqual(t, *d.Spec.Replicas, int32(2), d.Name)
			want += *d.Spec.Replicas
		}
		for _, s := range stores.Items {
			assert.Equal(t, s.Generation, s.Status.ObservedGeneration, s.Name)
			want += *s.Spec.Replicas
		}
		assert.Len(t, pods.Items, int(want))
		for _, p := range pods.Items {
			assert.True(t, isReady(p.Status.Conditions), p.Name)
		}
	}, "the pods do not settle")
}

func isReady(conditions []corev1.PodCondition) bool {
	return slices.ContainsFunc(conditions, func(c corev1.PodCondition) bool {
		return c.Type == corev1.PodReady && c.Status == corev1.ConditionTrue
	})
}

// pods gives the pods of a tier that are not on their way out.
func (i *installation) pods(tier string) []corev1.Pod {
	i.Helper()
	list, err := get[corev1.PodList](i, "pods", "--selector=app.kubernetes.io/name="+tier)
	require.NoError(i, err)
	return slices.DeleteFunc(list.Items, func(p corev1.Pod) bool { return p.DeletionTimestamp != nil })
}

// nodes gives the nodes that pods without tolerations come to.
func (i *installation) nodes() []corev1.Node {
	i.Helper()
	list, err := get[corev1.NodeList](i, "nodes")
	require.NoError(i, err)
	return slices.DeleteFunc(list.Items, func(n corev1.Node) bool {
		return slices.ContainsFunc(n.Spec.Taints, func(t corev1.Taint) bool { return t.Effect != corev1.TaintEffectPreferNoSchedule })
	})
}

// where counts the pods of each server on each node.
func (i *installation) where() map[string]map[string]int {
	i.Helper()
	counts := map[string]map[string]int{}
	for _, server := range servers {
		counts[server] = map[string]int{}
		for _, n := range i.nodes() {
			counts[server][n.Name] = 0
		}
		for _, p := range i.pods(server) {
			counts[server][p.Spec.NodeName]++
		}
	}
	return counts
}

var servers = []string{"http-server", "rpc-server"}

// apply applies k8 and waits, as README.md has it.
func (i *installation) apply() {
	i.Helper()
	i.kubectl("apply", "--filename="+filepath.Join(root, "k8"))
	i.waitAvailable()
}

func (i *installation) waitAvailable() {
	i.Helper()
	i.kubectl("wait", "--for=condition=Available", "deployment", ours, "--timeout=5m")
}

// reach finds a URL at which the Service can be reached from here, which stays while pods
// are replaced: a load balancer's, or that of a node's port.
func (i *installation) reach() {
	i.Helper()
	redis := i.pods("redis")
	require.Len(i, redis, 1)
	for _, n := range i.nodes() {
		if n.Name != redis[0].Spec.NodeName {
			i.spare = n.Name
		}
	}
	i.kubectl("patch", "service", "http-server", "--patch", `{"spec":{"type":"LoadBalancer"}}`)
	client := http.Client{Timeout: time.Second}
	i.eventually(func(t *assert.CollectT) {
		s, err := get[corev1.Service](i, "service", "http-server")
		require.NoError(t, err)
		nodes, err := get[corev1.NodeList](i, "nodes")
		require.NoError(t, err)
		var hosts []string
		for _, b := range s.Status.LoadBalancer.Ingress {
			hosts = append(hosts, net.JoinHostPort(b.IP+b.Hostname, strconv.Itoa(int(s.Spec.Ports[0].Port))))
		}
		for _, n := range nodes.Items {
			for _, a := range n.Status.Addresses {
				if n.Name != i.spare && a.Type != corev1.NodeHostName {
					hosts = append(hosts, net.JoinHostPort(a.Address, strconv.Itoa(int(s.Spec.Ports[0].NodePort))))
				}
			}
		}
		for _, host := range hosts {
			if resp, err := client.Get("http://" + host + "/ping"); err == nil {
				resp.Body.Close()
				i.url = "http://" + host
				return
			}
		}
		assert.Fail(t, "none of the Service's addresses answers", "%v", hosts)
	}, "the Service cannot be reached from here")
}

// forward does what README.md has, kubectl port-forward, and gives the URL.
func (i *installation) forward() string {
	i.Helper()
	cmd := exec.Command("kubectl", "--namespace="+i.namespace, "port-forward", "service/http-server", ":8080")
	stdout, err := cmd.StdoutPipe()
	require.NoError(i, err)
	require.NoError(i, cmd.Start())
	i.Cleanup(func() {
		cmd.Process.Kill()
		cmd.Wait()
	})
	line := make([]byte, 100)
	n, err := stdout.Read(line)
	require.NoError(i, err)
	address := regexp.MustCompile(`127\.0\.0\.1:\d+`).FindString(string(line[:n]))
	require.NotEmpty(i, address, "%s", line)
	return "http://" + address
}

// texts are what say stores, and what stored gives back.
var texts = []string{"hello", "are you there?"}

func (i *installation) say(url string) {
	i.Helper()
	for _, text := range texts {
		body, err := json.Marshal(map[string]string{"chat": "jack:marcus", "text": text, "sender": "jack"})
		require.NoError(i, err)
		resp, err := http.Post(url+"/api/send", "application/json", bytes.NewReader(body))
		require.NoError(i, err)
		resp.Body.Close()
		require.Equal(i, http.StatusOK, resp.StatusCode)
	}
}

func (i *installation) stored(url string) []string {
	i.Helper()
	resp, err := http.Get(url + "/api/pull?chat=jack:marcus")
	require.NoError(i, err)
	defer resp.Body.Close()
	require.Equal(i, http.StatusOK, resp.StatusCode)
	var page struct{ Messages []struct{ Text string } }
	require.NoError(i, json.NewDecoder(resp.Body).Decode(&page))
	var stored []string
	for _, m := range page.Messages {
		stored = append(stored, m.Text)
	}
	return stored
}

// onNode runs a line of sh on a node, by the command that the variable NODE_EXEC has.
func (i *installation) onNode(node, line string, args ...string) {
	i.Helper()
	command := append(strings.Fields(os.Getenv("NODE_EXEC")), node, "sh", "-c", line)
	out, err := exec.Command(command[0], append(command[1:], args...)...).CombinedOutput()
	require.NoError(i, err, "%s: %s\n%s", node, line, out)
}

// kill sends SIGKILL to the processes of pods.
func (i *installation) kill(pods ...corev1.Pod) {
	i.Helper()
	for _, p := range pods {
		_, id, found := strings.Cut(p.Status.ContainerStatuses[0].ContainerID, "://")
		require.True(i, found, p.Name)
		i.onNode(p.Spec.NodeName, `for file in $(grep -l "$0" /proc/[0-9]*/cgroup 2>/dev/null); do file=${file#/proc/}; kill -KILL "${file%/cgroup}"; done`, id)
	}
}

// TestCluster_K8 applies k8 on the cluster that kubectl speaks to, whose nodes have our
// images, and changes everything while the checker sends and pulls by the Service.
func TestCluster_K8(t *testing.T) {
	i := newInstallation(t)
	began := time.Now()
	i.apply()
	available := time.Since(began)
	i.settle()
	settled := time.Since(began)

	_, err := i.try("run", "intruder", "--image=im-rpc-server:0.1.0")
	require.ErrorContains(t, err, "violates PodSecurity", "pods that are not locked down are let in")

	url := i.forward()
	i.say(url)
	assert.Equal(t, texts, i.stored(url))
	i.reach()
	for _, c := range changes {
		t.Run(c.id, func(t *testing.T) { c.run(t, *i) })
	}

	t.Run("deleted-and-applied", func(t *testing.T) {
		i := *i
		i.T = t
		i.kubectl("delete", "--filename="+filepath.Join(root, "k8"), "--timeout=5m")
		i.eventually(func(t *assert.CollectT) {
			left, err := i.try("get", "all", "--output=name")
			require.NoError(t, err)
			assert.Empty(t, left)
		}, "something is left")
		i.apply()
		assert.Equal(t, texts, i.stored(i.forward()))
	})
	if !t.Failed() && len(outcomes) == len(changes) {
		write(t, i, available, settled)
	}
}

// TestCluster_Production applies k8/production, with what a small cluster needs changed.
func TestCluster_Production(t *testing.T) {
	i := newInstallation(t)
	secret := filepath.Join(t.TempDir(), "redis-password.txt")
	require.NoError(t, os.WriteFile(secret, []byte("correct horse"), 0o600))
	i.kubectl("create", "secret", "generic", "redis", "--from-file=password="+secret)
	rendered := filepath.Join(t.TempDir(), "production.yaml")
	require.NoError(t, os.WriteFile(rendered, []byte(i.kubectl("kustomize", "--load-restrictor=LoadRestrictionsNone", "testdata/production")), 0o600))
	i.kubectl("apply", "--filename="+rendered)
	i.waitAvailable()
	i.settle()

	assert.Len(t, i.pods("etcd"), 3)
	out, err := i.try("exec", "redis-0", "--", "env", "--unset=REDISCLI_AUTH", "redis-cli", "ping")
	require.NoError(t, err)
	assert.Contains(t, out, "NOAUTH", "Redis asks nobody for a password")
	url := i.forward()
	i.say(url)
	assert.Equal(t, texts, i.stored(url))
}

// placed tells how many pods of each server each node has, as in "1 + 1, 2 + 0".
func placed(where map[string]map[string]int) string {
	var tiers []string
	for _, server := range servers {
		var counts []string
		for _, node := range slices.Sorted(maps.Keys(where[server])) {
			counts = append(counts, strconv.Itoa(where[server][node]))
		}
		tiers = append(tiers, strings.Join(counts, " + "))
	}
	return strings.Join(tiers, ", ")
}
