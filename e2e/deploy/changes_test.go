//go:build cluster

package deploy

import (
	"context"
	"fmt"
	"maps"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	autoscalingv2 "k8s.io/api/autoscaling/v2"
	corev1 "k8s.io/api/core/v1"

	"im/e2e/check"
)

// change is something that is done to the installation while the checker runs.
type change struct {
	id, name string
	// needs tells what it needs and the cluster has not; nil is nothing.
	needs func(i *installation) string
	// unkept has each request open a connection of its own.
	unkept bool
	// dies tells that servers end without leaving the Service first. Connections are refused
	// until it has forgotten them, and the checker dials again; requests that were under way
	// may break.
	dies    bool
	writers int // that send as fast as they can; 0 is 60 messages a second
	does    func(i *installation)
}

// changes are the rows of docs/kubernetes.md.
var changes = []change{
	{id: "rpc-server-updated", name: "rollout of rpc-server", does: update("rpc-server")},
	{id: "http-server-updated", name: "rollout of http-server", does: update("http-server")},
	{id: "both-updated", name: "rollout of both at a time, each request with a connection of its own", unkept: true, does: update(servers...)},
	{id: "pods-deleted", name: "a pod of each server deleted", does: deletePods()},
	{id: "pods-deleted-by-force", name: "a pod of each server deleted with `--force --grace-period=0`", dies: true, does: deletePods("--force", "--grace-period=0")},
	{id: "pods-killed", name: "SIGKILL of a pod of each server", needs: nodeExec, dies: true, does: killPods},
	{id: "redis-replaced", name: "Redis's pod deleted", does: replaceRedis},
	{id: "etcd-replaced", name: "etcd's pod deleted while both servers roll", does: replaceEtcd},
	{id: "update-failed", name: "update of both servers to images that are not there, then `rollout undo`", does: failUpdate},
	{id: "node-drained", name: "a node of two drained and uncordoned, then a rollout of both", needs: secondNode, does: drainNode},
	{id: "node-lost", name: "a node of two lost: its kubelet stopped and all our processes there killed; it comes back after Kubernetes has noticed", needs: expendableNode, dies: true, does: loseNode},
	{id: "minimum-raised", name: "the autoscalers' minimum raised to three, and lowered again", does: raiseMinimum},
	{id: "load-grown", name: "as much as 8 writers can send, until an autoscaler has added pods", needs: metricsServer, writers: 8, does: awaitMore},
}

func nodeExec(*installation) string {
	if os.Getenv("NODE_EXEC") == "" {
		return "NODE_EXEC, a command that runs another one on a node, as in NODE_EXEC='docker exec'"
	}
	return ""
}

func secondNode(i *installation) string {
	if i.spare == "" {
		return "a second node for pods"
	}
	return ""
}

// expendableNode needs a node without which the cluster still has its DNS: it takes the ready
// pods of a lost node for lost.
func expendableNode(i *installation) string {
	if missing := secondNode(i); missing != "" {
		return missing
	}
	dns, err := get[corev1.PodList](i, "pods", "--namespace=kube-system", "--selector=k8s-app=kube-dns")
	require.NoError(i, err)
	if len(dns.Items) > 0 && !slices.ContainsFunc(dns.Items, func(p corev1.Pod) bool { return p.Spec.NodeName != i.spare }) {
		return "DNS on another node than " + i.spare
	}
	return nodeExec(i)
}

func metricsServer(i *installation) string {
	if _, err := i.try("get", "--raw=/apis/metrics.k8s.io/v1beta1/nodes"); err != nil {
		return "the metrics server"
	}
	return ""
}

// outcome is a row of docs/kubernetes.md.
type outcome struct {
	change
	report *check.Report
	where  map[string]map[string]int
	stalls int // of Redis's disk
}

var outcomes []outcome

// run makes the change while the checker sends and pulls, and sees to it that no message
// is lost, stored twice or out of order, that no request fails but those that may, and that
// the pods of each server are spread over the nodes in the end.
func (c change) run(t *testing.T, i installation) {
	i.T = t
	if c.needs != nil {
		if missing := c.needs(&i); missing != "" {
			t.Skip("there is not what this takes: " + missing)
		}
	}
	i.settle()
	i.watchDisk()
	o := check.Options{
		URLs: []string{i.url}, Unkept: c.unkept, Duration: 10 * time.Minute, Chats: 40, Rate: 60, Patience: 30 * time.Second,
		Repeats: 10, Pollers: 2, Readers: 1, Seed: uint64(time.Now().UnixNano()),
	}
	if c.dies {
		o.Dials = 20
	}
	if c.writers > 0 {
		o.Rate, o.Writers = 0, c.writers
	}
	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	type result struct {
		report *check.Report
		err    error
	}
	done := make(chan result)
	go func() {
		report, err := check.Run(ctx, o)
		done <- result{report, err}
	}()
	time.Sleep(2 * time.Second)
	c.does(&i)
	i.settle()
	time.Sleep(2 * time.Second)
	stop()
	r := <-done
	require.NoError(t, r.err)
	where, stalls := i.where(), i.diskStalls()
	t.Logf("pods on each node: %s; the disk stood still %d times\n%s", placed(where), len(stalls), r.report)

	assert.True(t, r.report.Good(), "a promise is broken")
	assert.Greater(t, r.report.Polled, r.report.Acknowledged/2)
	if c.dies {
		assert.Less(t, len(r.report.Failures), 10, "more requests broke than were under way")
	}
	for _, f := range r.report.Failures {
		stalled := slices.ContainsFunc(stalls, func(s stall) bool { return s.meets(f) })
		unavailable := (stalled || f.At.Add(-f.Took).Before(i.served)) && f.Status == http.StatusServiceUnavailable
		broken := c.dies && f.Status == 0 && !strings.Contains(f.Err, "connection refused")
		if !unavailable && !broken {
			assert.Fail(t, "a request failed", "%s %d %s, %.3f s after the start, after %.3f s", f.Call, f.Status, f.Err, f.At.Sub(r.report.Began).Seconds(), f.Took.Seconds())
		}
	}
	for server, counts := range where {
		all := slices.Collect(maps.Values(counts))
		assert.LessOrEqual(t, slices.Max(all)-slices.Min(all), 1, "pods of %s on each node: %v", server, counts)
	}
	outcomes = append(outcomes, outcome{c, r.report, where, len(stalls)})
}

// stall is a time in which Redis waited for its disk.
type stall struct{ from, to time.Time }

// meets reports whether a request was under way then. Redis tells the second alone.
func (s stall) meets(r check.Request) bool {
	return r.At.After(s.from.Add(-time.Second)) && r.At.Add(-r.Took).Before(s.to.Add(time.Second))
}

// watchDisk has Redis note each flush that takes half of what Redis may take. Then it is the
// machine that stands still, and requests may fail with 503 as they should.
func (i *installation) watchDisk() {
	i.Helper()
	i.kubectl("exec", "redis-0", "--", "redis-cli", "config", "set", "latency-monitor-threshold", "125")
	i.kubectl("exec", "redis-0", "--", "redis-cli", "latency", "reset")
}

// diskStalls returns the flushes that watchDisk had noted.
func (i *installation) diskStalls() (stalls []stall) {
	i.Helper()
	history := strings.Fields(i.kubectl("exec", "redis-0", "--", "redis-cli", "latency", "history", "aof-fsync-always"))
	for sample := range slices.Chunk(history, 2) {
		second, err := strconv.ParseInt(sample[0], 10, 64)
		require.NoError(i, err)
		took, err := strconv.Atoi(sample[1])
		require.NoError(i, err)
		end := time.Unix(second, 0)
		stalls = append(stalls, stall{end.Add(-time.Duration(took) * time.Millisecond), end})
	}
	return stalls
}

// update has new pods made of the servers, all at a time.
func update(servers ...string) func(*installation) {
	return func(i *installation) {
		for _, server := range servers {
			i.kubectl("rollout", "restart", "deployment/"+server)
		}
		i.waitUpdated()
	}
}

func (i *installation) waitUpdated() {
	i.Helper()
	for _, server := range servers {
		i.kubectl("rollout", "status", "deployment/"+server, "--timeout=5m")
	}
}

func deletePods(flags ...string) func(*installation) {
	return func(i *installation) {
		for _, server := range servers {
			i.kubectl(append([]string{"delete", "pod", i.pods(server)[0].Name}, flags...)...)
			i.settle()
		}
	}
}

func killPods(i *installation) {
	for _, server := range servers {
		p := i.pods(server)[0]
		i.kill(p)
		i.eventually(func(t *assert.CollectT) {
			now, err := get[corev1.Pod](i, "pod", p.Name)
			require.NoError(t, err)
			assert.Greater(t, now.Status.ContainerStatuses[0].RestartCount, p.Status.ContainerStatuses[0].RestartCount)
		}, "the killed server does not start again")
		i.settle()
	}
}

// replaceRedis has requests fail until a moment after the new pod is ready, for the Service
// and the rpc-servers to find it.
func replaceRedis(i *installation) {
	i.served = time.Now().Add(5 * time.Minute)
	i.kubectl("delete", "pod", "redis-0")
	i.kubectl("rollout", "status", "statefulset/redis", "--timeout=5m")
	i.served = time.Now().Add(3 * time.Second)
	i.settle()
	time.Sleep(10 * time.Second)
}

func replaceEtcd(i *installation) {
	i.kubectl("delete", "pod", "etcd-0", "--wait=false")
	update(servers...)(i)
}

func failUpdate(i *installation) {
	for _, server := range servers {
		i.kubectl("set", "image", "deployment/"+server, server+"=im-"+server+":none")
		i.eventually(func(t *assert.CollectT) {
			list, err := get[corev1.PodList](i, "pods", "--selector=app.kubernetes.io/name="+server)
			require.NoError(t, err)
			assert.True(t, slices.ContainsFunc(list.Items, func(p corev1.Pod) bool {
				return slices.ContainsFunc(p.Status.ContainerStatuses, func(s corev1.ContainerStatus) bool {
					return s.State.Waiting != nil && strings.Contains(s.State.Waiting.Reason, "Image")
				})
			}))
		}, "no pod misses its image")
	}
	for _, server := range servers {
		i.kubectl("rollout", "undo", "deployment/"+server)
	}
	i.waitUpdated()
}

func raiseMinimum(i *installation) {
	least := func(n int) {
		for _, server := range servers {
			i.kubectl("patch", "horizontalpodautoscaler", server, "--patch", fmt.Sprintf(`{"spec":{"minReplicas":%d}}`, n))
		}
	}
	least(3)
	defer least(2)
	i.eventually(func(t *assert.CollectT) {
		for _, server := range servers {
			list, err := get[corev1.PodList](i, "pods", "--selector=app.kubernetes.io/name="+server)
			require.NoError(t, err)
			ready := slices.DeleteFunc(list.Items, func(p corev1.Pod) bool { return !isReady(p.Status.Conditions) })
			assert.GreaterOrEqual(t, len(ready), 3, server)
		}
	}, "no pods are added")
}

// drainNode drains the spare node of our pods alone, as others may have theirs there.
func drainNode(i *installation) {
	defer i.try("uncordon", i.spare)
	i.kubectl("drain", i.spare, "--pod-selector=app.kubernetes.io/part-of=im", "--ignore-daemonsets", "--timeout=5m")
	i.settle()
	for server, counts := range i.where() {
		assert.Zero(i, counts[i.spare], server)
	}
	i.kubectl("uncordon", i.spare)
	update(servers...)(i)
}

func loseNode(i *installation) {
	kubelet := func(signal string) { i.onNode(i.spare, `kill "-$0" "$(pidof kubelet)"`, signal) }
	kubelet("STOP")
	defer kubelet("CONT")
	list, err := get[corev1.PodList](i, "pods", "--field-selector=spec.nodeName="+i.spare)
	require.NoError(i, err)
	require.NotEmpty(i, list.Items)
	i.kill(list.Items...)
	i.nodeIs(corev1.ConditionUnknown)
	time.Sleep(5 * time.Second)
	kubelet("CONT")
	i.nodeIs(corev1.ConditionTrue)
}

func (i *installation) nodeIs(ready corev1.ConditionStatus) {
	i.Helper()
	i.eventually(func(t *assert.CollectT) {
		n, err := get[corev1.Node](i, "node", i.spare)
		require.NoError(t, err)
		assert.Contains(t, slices.Collect(func(yield func(corev1.ConditionStatus) bool) {
			for _, c := range n.Status.Conditions {
				if c.Type == corev1.NodeReady && !yield(c.Status) {
					return
				}
			}
		}), ready)
	}, "readiness of "+i.spare)
}

func awaitMore(i *installation) {
	scalers := func() []autoscalingv2.HorizontalPodAutoscaler {
		list, err := get[autoscalingv2.HorizontalPodAutoscalerList](i, "horizontalpodautoscalers")
		assert.NoError(i, err)
		return list.Items
	}
	before := map[string]int32{}
	for _, a := range scalers() {
		before[a.Name] = a.Status.CurrentReplicas
	}
	i.eventually(func(t *assert.CollectT) {
		assert.True(t, slices.ContainsFunc(scalers(), func(a autoscalingv2.HorizontalPodAutoscaler) bool {
			return a.Status.CurrentReplicas > before[a.Name]
		}))
	}, "no autoscaler adds pods")
}

// heading begins the part of docs/kubernetes.md that write writes, the last one.
const heading = "## What it goes through\n"

// write writes the outcomes into docs/kubernetes.md.
func write(t *testing.T, i *installation, available, settled time.Duration) {
	path := filepath.Join(root, "docs/kubernetes.md")
	guide, err := os.ReadFile(path)
	require.NoError(t, err)
	before, _, found := strings.Cut(string(guide), heading)
	require.True(t, found, "%s has no part %q", path, heading)
	commit, err := exec.Command("git", "describe", "--always", "--dirty", "--abbrev=12").Output()
	if err != nil {
		commit = []byte("unknown")
	}
	var b strings.Builder
	fmt.Fprintf(&b, "%s%s"+preface, before, heading, strings.TrimSpace(string(commit)), i.nodes()[0].Status.NodeInfo.KubeletVersion, len(i.nodes()),
		available.Seconds(), settled.Seconds())
	stalls := 0
	for _, o := range outcomes {
		r := o.report
		stalls += o.stalls
		fmt.Fprintf(&b, "| %s | %.0f | %d | %d | %d | %d | %d | %d | %.1f | %s |\n", o.name, r.Took.Seconds(), r.Acknowledged, r.Unknown, r.Lost, r.Twice,
			r.Misordered+r.Gaps+r.Repeats+r.Unexpected+r.WentBack, len(r.Failures), r.LongestPause.Seconds(), placed(o.where))
	}
	fmt.Fprintf(&b, "\nRedis's disk took more than 125 ms for a flush %d times; requests that met that may have got 503, too.\n", stalls)
	require.NoError(t, os.WriteFile(path, []byte(b.String()), 0o644))
}

const preface = `
Each row is the checker (` + "`e2e/check`" + `), which sends 60 messages a second by the Service and pulls them, while something is done to the
installation, and until every pod is ready again. ` + "`make cluster-test`" + ` runs all rows and writes this part.

Commit %s, Kubernetes %s, %d nodes for pods. Applied to an empty namespace, im was available after %.0f seconds, and had two pods of each
server, all ready, after %.0f.

"Wrong" counts messages out of order and gaps or repeats that a follower saw; the pause is the longest time, in seconds, in which no message
was acknowledged; the last column has the pods of http-server, then of rpc-server, on each node in the end. Requests may fail while Redis
is replaced, and then with 503 alone. Where servers die without notice, requests under way there may break, and connections are refused
until the Service has forgotten them: the checker opens another one.

| what | seconds | acknowledged | unknown | lost | twice | wrong | failed requests | pause | pods |
|---|---|---|---|---|---|---|---|---|---|
`
