package deploy

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	appsv1 "k8s.io/api/apps/v1"
	autoscalingv2 "k8s.io/api/autoscaling/v2"
	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	policyv1 "k8s.io/api/policy/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/serializer"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/apimachinery/pkg/util/yaml"
)

// root is the checkout.
var root = func() string {
	dir, err := filepath.Abs("../..")
	if err != nil {
		panic(err)
	}
	return dir
}()

// manifests are the objects of one kubectl apply.
type manifests struct {
	production bool
	objects    []runtime.Object // all of them
	workloads  []workload
	services   []*corev1.Service
	scalers    []*autoscalingv2.HorizontalPodAutoscaler
	budgets    []*policyv1.PodDisruptionBudget
	policies   []*networkingv1.NetworkPolicy
}

// workload is a Deployment or a StatefulSet, whose pods have one container.
type workload struct {
	kind, name string
	replicas   *int32
	selector   *metav1.LabelSelector
	pod        corev1.PodTemplateSpec
	strategy   appsv1.DeploymentStrategy // of a Deployment
	service    string                    // of a StatefulSet
	claims     []corev1.PersistentVolumeClaim
}

func (w workload) container() *corev1.Container { return &w.pod.Spec.Containers[0] }

// isServer tells whether the workload is one of our servers, which have settings.
func (w workload) isServer() bool { return strings.HasSuffix(w.name, "-server") }

// decode gives the objects of a file. A field that the API does not know, or one
// that is there twice, fails the test.
func decode(t *testing.T, name string, file []byte) []runtime.Object {
	t.Helper()
	scheme := runtime.NewScheme()
	for _, add := range []func(*runtime.Scheme) error{
		corev1.AddToScheme, appsv1.AddToScheme, autoscalingv2.AddToScheme, policyv1.AddToScheme, networkingv1.AddToScheme,
	} {
		require.NoError(t, add(scheme))
	}
	decoder := serializer.NewCodecFactory(scheme, serializer.EnableStrict).UniversalDeserializer()
	documents := yaml.NewYAMLReader(bufio.NewReader(bytes.NewReader(file)))
	var objects []runtime.Object
	for {
		document, err := documents.Read()
		if errors.Is(err, io.EOF) {
			return objects
		}
		require.NoError(t, err, name)
		object, _, err := decoder.Decode(document, nil, nil)
		require.NoError(t, err, "%s:\n%s", name, document)
		objects = append(objects, object)
	}
}

// sort puts the objects where the tests look for them.
func sort(t *testing.T, objects []runtime.Object) manifests {
	t.Helper()
	m := manifests{objects: objects}
	for _, object := range objects {
		switch o := object.(type) {
		case *appsv1.Deployment:
			m.workloads = append(m.workloads, workload{"Deployment", o.Name, o.Spec.Replicas, o.Spec.Selector, o.Spec.Template, o.Spec.Strategy, "", nil})
		case *appsv1.StatefulSet:
			m.workloads = append(m.workloads, workload{"StatefulSet", o.Name, o.Spec.Replicas, o.Spec.Selector, o.Spec.Template, appsv1.DeploymentStrategy{}, o.Spec.ServiceName, o.Spec.VolumeClaimTemplates})
		case *corev1.Service:
			m.services = append(m.services, o)
		case *autoscalingv2.HorizontalPodAutoscaler:
			m.scalers = append(m.scalers, o)
		case *policyv1.PodDisruptionBudget:
			m.budgets = append(m.budgets, o)
		case *networkingv1.NetworkPolicy:
			m.policies = append(m.policies, o)
		default:
			require.Fail(t, "no test looks at this kind of object", "%T", o)
		}
	}
	for _, w := range m.workloads {
		require.Len(t, w.pod.Spec.Containers, 1, w.name)
		require.Empty(t, w.pod.Spec.InitContainers, w.name)
	}
	return m
}

// files gives the files that kubectl apply -f would read in a folder.
func files(t *testing.T, folder string) []string {
	t.Helper()
	var all []string
	for _, ending := range []string{"yaml", "yml", "json"} {
		found, err := filepath.Glob(filepath.Join(root, folder, "*."+ending))
		require.NoError(t, err)
		all = append(all, found...)
	}
	require.NotEmpty(t, all)
	return all
}

// overlay is k8/production as kustomize writes it.
var overlay = sync.OnceValues(func() ([]byte, error) {
	return tool("kustomize", "kustomize", "build", "--load-restrictor=LoadRestrictionsNone", filepath.Join(root, "k8/production"))
})

// tool runs a tool of tools/module, which is built first.
func tool(module, name string, args ...string) ([]byte, error) {
	cmd := exec.Command("go", append([]string{"-C", filepath.Join(root, "tools", module), "tool", name}, args...)...)
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	if err := cmd.Run(); err != nil {
		return nil, fmt.Errorf("%s: %w\n%s%s", name, err, &stdout, &stderr)
	}
	return stdout.Bytes(), nil
}

// eachWay runs a test on both ways to apply: k8, and k8/production.
func eachWay(t *testing.T, test func(*testing.T, manifests)) {
	t.Run("k8", func(t *testing.T) {
		var objects []runtime.Object
		for _, file := range files(t, "k8") {
			text, err := os.ReadFile(file)
			require.NoError(t, err)
			objects = append(objects, decode(t, file, text)...)
		}
		test(t, sort(t, objects))
	})
	t.Run("production", func(t *testing.T) {
		text, err := overlay()
		require.NoError(t, err)
		m := sort(t, decode(t, "k8/production", text))
		m.production = true
		test(t, m)
	})
}

// matching gives the names of the workloads whose pods a selector takes.
func (m manifests) matching(t *testing.T, selector *metav1.LabelSelector) []string {
	t.Helper()
	s, err := metav1.LabelSelectorAsSelector(selector)
	require.NoError(t, err)
	var names []string
	for _, w := range m.workloads {
		if s.Matches(labels.Set(w.pod.Labels)) {
			names = append(names, w.name)
		}
	}
	return names
}

// behind gives the workload whose pods a Service has.
func (m manifests) behind(t *testing.T, s *corev1.Service) workload {
	t.Helper()
	names := m.matching(t, &metav1.LabelSelector{MatchLabels: s.Spec.Selector})
	require.Len(t, names, 1, "pods of Service %s", s.Name)
	return m.workload(t, names[0])
}

func (m manifests) workload(t *testing.T, name string) workload {
	t.Helper()
	i := slices.IndexFunc(m.workloads, func(w workload) bool { return w.name == name })
	require.GreaterOrEqual(t, i, 0, "no workload %s", name)
	return m.workloads[i]
}

// port gives the number of a container's port from its number or name, 0 if there is none.
func (w workload) port(p intstr.IntOrString) int32 {
	for _, port := range w.container().Ports {
		if p == intstr.FromInt32(port.ContainerPort) || p == intstr.FromString(port.Name) {
			return port.ContainerPort
		}
	}
	return 0
}

func TestK8s_EveryFileIsStrictlyValid(t *testing.T) {
	for _, folder := range []string{"k8", "k8/production"} {
		for _, file := range files(t, folder) {
			if filepath.Base(file) == "kustomization.yaml" {
				continue // kustomize reads it, as strictly
			}
			text, err := os.ReadFile(file)
			require.NoError(t, err)
			assert.NotEmpty(t, decode(t, file, text), file)
			assert.NotContains(t, string(text), "latest", file)
		}
	}
}

func TestK8s_EachTierIsComplete(t *testing.T) {
	eachWay(t, func(t *testing.T, m manifests) {
		tiers := []string{"etcd", "http-server", "rpc-server"}
		if !m.production {
			tiers = append(tiers, "redis")
		}
		var workloads, services, budgets, guarded, scaled []string
		wantServices := slices.Clone(tiers)
		for _, w := range m.workloads {
			workloads = append(workloads, w.name)
			if w.kind == "StatefulSet" {
				wantServices = append(wantServices, w.name+"-client")
			}
		}
		for _, s := range m.services {
			services = append(services, s.Name)
		}
		for _, b := range m.budgets {
			budgets = append(budgets, b.Name)
		}
		for _, p := range m.policies {
			guarded = append(guarded, m.matching(t, &p.Spec.PodSelector)...)
		}
		for _, s := range m.scalers {
			scaled = append(scaled, s.Spec.ScaleTargetRef.Name)
		}
		assert.ElementsMatch(t, tiers, workloads)
		assert.ElementsMatch(t, wantServices, services)
		assert.ElementsMatch(t, tiers, budgets)
		assert.Subset(t, guarded, tiers, "a NetworkPolicy is missing")
		assert.ElementsMatch(t, []string{"http-server", "rpc-server"}, scaled)
	})
}

func TestK8s_EveryObjectHasTheRecommendedLabels(t *testing.T) {
	eachWay(t, func(t *testing.T, m manifests) {
		check := func(name string, labels map[string]string) {
			assert.NotEmpty(t, labels["app.kubernetes.io/name"], name)
			assert.NotEmpty(t, labels["app.kubernetes.io/component"], name)
			assert.Equal(t, "im", labels["app.kubernetes.io/part-of"], name)
		}
		for _, object := range m.objects {
			meta := object.(metav1.Object)
			check(fmt.Sprintf("%T %s", object, meta.GetName()), meta.GetLabels())
		}
		for _, w := range m.workloads {
			check("pod of "+w.name, w.pod.Labels)
		}
	})
}

func TestK8s_EverySelectorTakesThePodsItMeans(t *testing.T) {
	eachWay(t, func(t *testing.T, m manifests) {
		takes := func(what, name string, selector *metav1.LabelSelector) {
			t.Helper()
			assert.Equal(t, []string{name}, m.matching(t, selector), "the pods that the %s of %s takes", what, name)
		}
		for _, w := range m.workloads {
			takes(w.kind, w.name, w.selector)
			assert.NotEmpty(t, w.pod.Spec.TopologySpreadConstraints, w.name)
			for _, c := range w.pod.Spec.TopologySpreadConstraints {
				takes("spread over "+c.TopologyKey, w.name, c.LabelSelector)
			}
			if a := w.pod.Spec.Affinity; a != nil {
				for _, term := range a.PodAntiAffinity.RequiredDuringSchedulingIgnoredDuringExecution {
					takes("anti-affinity", w.name, term.LabelSelector)
				}
			}
		}
		for _, s := range m.services {
			takes("Service", strings.TrimSuffix(s.Name, "-client"), &metav1.LabelSelector{MatchLabels: s.Spec.Selector})
		}
		for _, b := range m.budgets {
			takes("PodDisruptionBudget", b.Name, b.Spec.Selector)
		}
		for _, p := range m.policies {
			assert.Len(t, m.matching(t, &p.Spec.PodSelector), 1, "pods of NetworkPolicy %s", p.Name)
			for _, peer := range peers(p) {
				require.Nil(t, peer.NamespaceSelector, p.Name)
				require.Nil(t, peer.IPBlock, p.Name)
				assert.Len(t, m.matching(t, peer.PodSelector), 1, "peers of NetworkPolicy %s", p.Name)
			}
		}
	})
}

func peers(p *networkingv1.NetworkPolicy) []networkingv1.NetworkPolicyPeer {
	var all []networkingv1.NetworkPolicyPeer
	for _, rule := range p.Spec.Ingress {
		all = append(all, rule.From...)
	}
	for _, rule := range p.Spec.Egress {
		all = append(all, rule.To...)
	}
	return all
}

func TestK8s_EveryPortIsOneOfTheContainer(t *testing.T) {
	eachWay(t, func(t *testing.T, m manifests) {
		for _, s := range m.services {
			for _, p := range s.Spec.Ports {
				assert.NotZero(t, m.behind(t, s).port(p.TargetPort), "Service %s: targetPort %s", s.Name, &p.TargetPort)
			}
		}
		for _, w := range m.workloads {
			for name, probe := range probes(w) {
				if probe != nil && probe.HTTPGet != nil {
					assert.NotZero(t, w.port(probe.HTTPGet.Port), "%s of %s: port %s", name, w.name, &probe.HTTPGet.Port)
				}
			}
		}
		for _, p := range m.policies {
			exist := func(ports []networkingv1.NetworkPolicyPort, selector *metav1.LabelSelector) {
				for _, name := range m.matching(t, selector) {
					for _, port := range ports {
						assert.NotZero(t, m.workload(t, name).port(*port.Port), "NetworkPolicy %s: %s has no port %s", p.Name, name, port.Port)
					}
				}
			}
			for _, rule := range p.Spec.Ingress {
				exist(rule.Ports, &p.Spec.PodSelector)
			}
			for _, rule := range p.Spec.Egress {
				for _, peer := range rule.To {
					exist(rule.Ports, peer.PodSelector)
				}
			}
		}
	})
}

func probes(w workload) map[string]*corev1.Probe {
	c := w.container()
	return map[string]*corev1.Probe{"startupProbe": c.StartupProbe, "readinessProbe": c.ReadinessProbe, "livenessProbe": c.LivenessProbe}
}

func TestK8s_PoliciesLetThroughWhatIsNeededAndNothingElse(t *testing.T) {
	eachWay(t, func(t *testing.T, m manifests) {
		want := []string{
			"the outside > http-server:8080", "another pod > http-server:8080",
			"http-server > rpc-server:8888", "http-server > etcd:2379", "rpc-server > etcd:2379",
		}
		if m.production {
			want = append(want, "etcd > etcd:2380")
		} else {
			want = append(want, "rpc-server > redis:6379")
		}
		sources := map[string]map[string]string{"the outside": nil, "another pod": {"app.kubernetes.io/part-of": "im"}}
		for _, w := range m.workloads {
			sources[w.name] = w.pod.Labels
		}
		var got []string
		for name, from := range sources {
			for _, to := range m.workloads {
				for _, port := range to.container().Ports {
					if m.passes(t, from, to.pod.Labels, port.ContainerPort) {
						got = append(got, fmt.Sprintf("%s > %s:%d", name, to.name, port.ContainerPort))
					}
				}
			}
		}
		assert.ElementsMatch(t, want, got)
	})
}

// passes tells whether the policies let a TCP connection through from a pod to a
// pod with these labels. from is nil outside the cluster.
func (m manifests) passes(t *testing.T, from, to map[string]string, port int32) bool {
	t.Helper()
	matches := func(selector *metav1.LabelSelector, set map[string]string) bool {
		s, err := metav1.LabelSelectorAsSelector(selector)
		require.NoError(t, err)
		return set != nil && s.Matches(labels.Set(set))
	}
	permits := func(peers []networkingv1.NetworkPolicyPeer, peer map[string]string, ports []networkingv1.NetworkPolicyPort) bool {
		return (len(peers) == 0 || slices.ContainsFunc(peers, func(p networkingv1.NetworkPolicyPeer) bool { return matches(p.PodSelector, peer) })) &&
			(len(ports) == 0 || slices.ContainsFunc(ports, func(p networkingv1.NetworkPolicyPort) bool {
				return (p.Protocol == nil || *p.Protocol == corev1.ProtocolTCP) && *p.Port == intstr.FromInt32(port)
			}))
	}
	var guardsIn, guardsOut, in, out bool
	for _, p := range m.policies {
		if slices.Contains(p.Spec.PolicyTypes, networkingv1.PolicyTypeIngress) && matches(&p.Spec.PodSelector, to) {
			guardsIn = true
			for _, rule := range p.Spec.Ingress {
				in = in || permits(rule.From, from, rule.Ports)
			}
		}
		if slices.Contains(p.Spec.PolicyTypes, networkingv1.PolicyTypeEgress) && matches(&p.Spec.PodSelector, from) {
			guardsOut = true
			for _, rule := range p.Spec.Egress {
				out = out || permits(rule.To, to, rule.Ports)
			}
		}
	}
	return (!guardsIn || in) && (!guardsOut || out)
}

// dns are the ports of DNS: the usual one, and the one of its pods in some clusters.
var dns = []string{"TCP 53", "UDP 53", "TCP 5353", "UDP 5353"}

func TestK8s_PodsLookUpNamesAndReachNothingElseOutside(t *testing.T) {
	eachWay(t, func(t *testing.T, m manifests) {
		for _, w := range m.workloads {
			var want, got []string
			if w.isServer() || *w.replicas > 1 {
				want = dns
			}
			if m.production && w.name == "rpc-server" {
				want = append(want, "TCP 6379")
			}
			for _, p := range m.policies {
				for _, rule := range p.Spec.Egress {
					if len(rule.To) == 0 && slices.Contains(m.matching(t, &p.Spec.PodSelector), w.name) {
						require.NotEmpty(t, rule.Ports, p.Name)
						for _, port := range rule.Ports {
							protocol := corev1.ProtocolTCP
							if port.Protocol != nil {
								protocol = *port.Protocol
							}
							got = append(got, fmt.Sprintf("%s %s", protocol, port.Port))
						}
					}
				}
			}
			assert.ElementsMatch(t, want, got, w.name)
		}
	})
}

// binaries build our servers, with the race detector as the other tests do, and
// give their paths.
var binaries = map[string]func() (string, error){"http-server": binary("http-server"), "rpc-server": binary("rpc-server")}

func binary(server string) func() (string, error) {
	return sync.OnceValues(func() (string, error) {
		file := filepath.Join(root, ".bin/deploy", server)
		if out, err := exec.Command("go", "-C", root, "build", "-race", "-o", file, "./"+server).CombinedOutput(); err != nil {
			return "", fmt.Errorf("building %s: %w\n%s", server, err, out)
		}
		return file, nil
	})
}

// help is what a server's --help prints.
func help(t *testing.T, server string) string {
	t.Helper()
	file, err := binaries[server]()
	require.NoError(t, err)
	out, err := exec.CommandContext(t.Context(), file, "--help").CombinedOutput()
	require.NoError(t, err, "%s", out)
	return string(out)
}

// fallback is a setting's default.
func fallback(t *testing.T, help, setting string) string {
	t.Helper()
	found := regexp.MustCompile(`--` + strings.ToLower(strings.ReplaceAll(setting, "_", "-")) + `=(\S+)`).FindStringSubmatch(help)
	require.NotNil(t, found, setting)
	return strings.Trim(found[1], `"`)
}

// env gives the variables of the workload's container, as the first pod has them.
func env(t *testing.T, w workload) map[string]string {
	t.Helper()
	values := map[string]string{}
	for _, v := range w.container().Env {
		assert.NotContains(t, values, v.Name, "%s: twice", w.name)
		switch {
		case v.ValueFrom == nil:
			values[v.Name] = expand(t, v.Value, values)
		case v.ValueFrom.FieldRef.FieldPath == "status.podIP":
			values[v.Name] = "10.0.0.7"
		case v.ValueFrom.FieldRef.FieldPath == "metadata.name":
			values[v.Name] = w.name + "-0"
		default:
			assert.Fail(t, "an unknown source", "%s: %s", w.name, v.Name)
		}
	}
	return values
}

var reference = regexp.MustCompile(`\$\(([^)]*)\)`)

// expand replaces every $(NAME) by a value that is known already, as Kubernetes
// does. An unknown one, which Kubernetes would leave as it is, fails the test.
func expand(t *testing.T, text string, values map[string]string) string {
	t.Helper()
	return reference.ReplaceAllStringFunc(text, func(r string) string {
		value, known := values[r[2:len(r)-1]]
		assert.True(t, known, "%s refers to nothing", r)
		return value
	})
}

func TestK8s_EveryVariableIsReadBySomebody(t *testing.T) {
	eachWay(t, func(t *testing.T, m manifests) {
		for _, w := range m.workloads {
			var read []string
			if w.isServer() {
				for _, setting := range regexp.MustCompile(`\(\$([A-Z_]+)\)`).FindAllStringSubmatch(strings.Join(strings.Fields(help(t, w.name)), " "), -1) {
					read = append(read, setting[1])
				}
				require.Greater(t, len(read), 5, w.name)
			}
			texts := slices.Clone(w.container().Args)
			for _, v := range w.container().Env {
				texts = append(texts, v.Value)
			}
			for _, r := range reference.FindAllStringSubmatch(strings.Join(texts, " "), -1) {
				read = append(read, r[1])
			}
			assert.Empty(t, w.container().EnvFrom, w.name)
			for _, v := range w.container().Env {
				assert.Contains(t, read, v.Name, "%s has no such setting", w.name)
			}
		}
	})
}

func TestK8s_ServersTakeTheirSettings(t *testing.T) {
	eachWay(t, func(t *testing.T, m manifests) {
		for _, w := range m.workloads {
			if !w.isServer() {
				continue
			}
			// The sub-command checks all settings and asks the admin address, where
			// nobody or somebody listens here.
			file, err := binaries[w.name]()
			require.NoError(t, err)
			cmd := exec.CommandContext(t.Context(), file, "healthcheck")
			cmd.Env = os.Environ()
			for name, value := range env(t, w) {
				if strings.HasSuffix(name, "_FILE") {
					value = filepath.Join(t.TempDir(), "secret")
					require.NoError(t, os.WriteFile(value, []byte("secret\n"), 0o600))
				}
				cmd.Env = append(cmd.Env, name+"="+value)
			}
			if out, err := cmd.CombinedOutput(); err != nil {
				assert.Regexp(t, "/readyz|not ready", string(out), w.name)
			}
		}
	})
}

func TestK8s_ServersListenOnThePortsOfTheirContainers(t *testing.T) {
	eachWay(t, func(t *testing.T, m manifests) {
		for _, w := range m.workloads {
			if !w.isServer() {
				continue
			}
			values, help := env(t, w), help(t, w.name)
			listening := map[string]string{"http": "LISTEN", "thrift": "LISTEN", "admin": "ADMIN_LISTEN"}
			for _, port := range w.container().Ports {
				setting := listening[port.Name]
				value, set := values[setting]
				if !set {
					value = fallback(t, help, setting)
				}
				assert.Equal(t, fmt.Sprintf(":%d", port.ContainerPort), value, "%s: %s, on all addresses", w.name, setting)
			}
			if w.name == "rpc-server" {
				assert.Equal(t, fmt.Sprintf("10.0.0.7:%d", w.port(intstr.FromString("thrift"))), values["ADVERTISE"])
			}
		}
	})
}

func TestK8s_EveryHostIsAServiceOrOneOfItsPods(t *testing.T) {
	eachWay(t, func(t *testing.T, m manifests) {
		// A Service without an address has a name for each pod of its StatefulSet. Its own
		// name gives pods' addresses, which DNS caches when they are gone.
		served := map[string]bool{} // host:port
		for _, s := range m.services {
			w := m.behind(t, s)
			for _, p := range s.Spec.Ports {
				if s.Spec.ClusterIP != corev1.ClusterIPNone {
					served[fmt.Sprintf("%s:%d", s.Name, p.Port)] = true
					continue
				}
				assert.Equal(t, s.Name, w.service, w.name)
				for i := range *w.replicas {
					served[fmt.Sprintf("%s-%d.%s:%d", w.name, i, s.Name, w.port(p.TargetPort))] = true
				}
			}
		}
		var outside []string
		for _, w := range m.workloads {
			values := env(t, w)
			var texts []string
			for _, text := range values {
				texts = append(texts, text)
			}
			for _, text := range w.container().Args {
				texts = append(texts, expand(t, text, values))
			}
			for _, text := range texts {
				for _, address := range regexp.MustCompile(`[\w.-]+:\d+`).FindAllString(text, -1) {
					host, _, err := net.SplitHostPort(address)
					require.NoError(t, err)
					switch {
					case net.ParseIP(host) != nil:
					case strings.HasSuffix(host, ".example.com"):
						outside = append(outside, address)
					default:
						assert.True(t, served[address], "%s: nobody serves %s", w.name, address)
					}
				}
			}
		}
		if m.production {
			assert.Equal(t, []string{"redis-0.example.com:6379", "redis-1.example.com:6379", "redis-2.example.com:6379"}, outside)
		} else {
			assert.Empty(t, outside)
		}
	})
}

func TestK8s_EveryEtcdMemberKnowsAllOthers(t *testing.T) {
	eachWay(t, func(t *testing.T, m manifests) {
		etcd := m.workload(t, "etcd")
		var want []string
		for i := range *etcd.replicas {
			want = append(want, fmt.Sprintf("etcd-%d=http://etcd-%d.etcd:2380", i, i))
		}
		i := slices.IndexFunc(etcd.container().Args, func(arg string) bool { return strings.HasPrefix(arg, "--initial-cluster=") })
		if !m.production {
			assert.Equal(t, int32(1), *etcd.replicas)
			assert.Negative(t, i)
			return
		}
		require.GreaterOrEqual(t, i, 0)
		assert.Equal(t, int32(3), *etcd.replicas)
		assert.Equal(t, "--initial-cluster="+strings.Join(want, ","), etcd.container().Args[i])
		for _, server := range []string{"rpc-server", "http-server"} {
			assert.Len(t, strings.Split(env(t, m.workload(t, server))["ETCD_ENDPOINTS"], ","), 3, server)
		}
	})
}

func TestK8s_EveryVolumeAndSecretExists(t *testing.T) {
	guide, err := os.ReadFile(filepath.Join(root, "docs/kubernetes.md"))
	require.NoError(t, err)
	eachWay(t, func(t *testing.T, m manifests) {
		for _, w := range m.workloads {
			mounts := map[string]string{} // by volume
			for _, mount := range w.container().VolumeMounts {
				mounts[mount.Name] = mount.MountPath
			}
			values := env(t, w)
			for _, v := range w.container().Env {
				if v.ValueFrom != nil {
					assert.Nil(t, v.ValueFrom.SecretKeyRef, v.Name)
					assert.Nil(t, v.ValueFrom.ConfigMapKeyRef, v.Name)
				}
			}
			var volumes []string
			for _, claim := range w.claims {
				volumes = append(volumes, claim.Name)
			}
			var secrets []string
			for _, v := range w.pod.Spec.Volumes {
				volumes = append(volumes, v.Name)
				require.NotNil(t, v.Secret, "%s: volume %s", w.name, v.Name)
				secrets = append(secrets, v.Secret.SecretName)
				key := path.Base(values["REDIS_PASSWORD_FILE"])
				assert.Equal(t, mounts[v.Name], path.Dir(values["REDIS_PASSWORD_FILE"]))
				create := fmt.Sprintf("kubectl create secret generic %s --from-file=%s=", v.Secret.SecretName, key)
				assert.True(t, strings.Contains(string(guide), create), "docs/kubernetes.md does not tell: %s", create)
			}
			var mounted []string
			for name := range mounts {
				mounted = append(mounted, name)
			}
			assert.ElementsMatch(t, volumes, mounted, w.name)

			var wantClaims int
			var wantSecrets []string
			switch {
			case w.name == "redis" || w.name == "etcd":
				wantClaims = 1
			case w.name == "rpc-server" && m.production:
				wantSecrets = []string{"redis"}
			}
			assert.Len(t, w.claims, wantClaims, w.name)
			assert.Equal(t, wantSecrets, secrets, w.name)
		}
	})
}

func TestK8s_StoresKeepTheirDataInTheClaim(t *testing.T) {
	eachWay(t, func(t *testing.T, m manifests) {
		for _, w := range m.workloads {
			if len(w.claims) == 0 {
				continue
			}
			args := strings.ReplaceAll(strings.Join(w.container().Args, " "), "--data-dir=", "--dir ")
			dir := regexp.MustCompile(`--dir (\S+)`).FindStringSubmatch(args)
			require.NotNil(t, dir, w.name)
			assert.True(t, strings.HasPrefix(dir[1]+"/", w.container().VolumeMounts[0].MountPath+"/"), "%s: %s", w.name, dir[1])
		}
	})
}

func TestK8s_RedisKeepsWhatIsAcknowledged(t *testing.T) {
	eachWay(t, func(t *testing.T, m manifests) {
		if m.production {
			return // Redis is outside
		}
		redis := m.workload(t, "redis").container()
		given := map[string]string{}
		for pair := range slices.Chunk(redis.Args, 2) {
			require.Len(t, pair, 2)
			given[pair[0]] = pair[1]
		}
		for name, value := range map[string]string{
			"--appendonly": "yes", "--appendfsync": "always", "--no-appendfsync-on-rewrite": "no", "--maxmemory-policy": "noeviction",
		} {
			assert.Equal(t, value, given[name], name)
		}
		most, err := resource.ParseQuantity(strings.ToUpper(strings.TrimSuffix(given["--maxmemory"], "b")) + "i") // 1gb is 1Gi
		require.NoError(t, err)
		assert.Negative(t, most.Cmp(*redis.Resources.Limits.Memory()), "maxmemory must leave some of the container's memory")
	})
}

func TestK8s_EveryContainerIsLockedDown(t *testing.T) {
	eachWay(t, func(t *testing.T, m manifests) {
		for _, w := range m.workloads {
			pod, own := w.pod.Spec.SecurityContext, w.container().SecurityContext
			if assert.NotNil(t, pod, w.name) {
				assert.Equal(t, new(true), pod.RunAsNonRoot, "%s: runAsNonRoot", w.name)
				assert.Equal(t, new(int64(65532)), pod.RunAsUser, "%s: runAsUser", w.name)
				assert.Equal(t, new(int64(65532)), pod.RunAsGroup, "%s: runAsGroup", w.name)
				assert.Equal(t, &corev1.SeccompProfile{Type: corev1.SeccompProfileTypeRuntimeDefault}, pod.SeccompProfile, "%s: seccompProfile", w.name)
				if len(w.claims)+len(w.pod.Spec.Volumes) > 0 {
					assert.Equal(t, new(int64(65532)), pod.FSGroup, "%s: fsGroup", w.name)
				}
			}
			assert.Equal(t, &corev1.SecurityContext{
				AllowPrivilegeEscalation: new(false),
				ReadOnlyRootFilesystem:   new(true),
				Capabilities:             &corev1.Capabilities{Drop: []corev1.Capability{"ALL"}},
			}, own, "%s: securityContext", w.name)
			assert.Equal(t, new(false), w.pod.Spec.EnableServiceLinks, "%s: enableServiceLinks", w.name)
			assert.Equal(t, new(false), w.pod.Spec.AutomountServiceAccountToken, "%s: automountServiceAccountToken", w.name)
			assert.False(t, w.pod.Spec.HostNetwork || w.pod.Spec.HostPID || w.pod.Spec.HostIPC, w.name)
		}
	})
}

func TestK8s_EveryContainerHasRequestsAndLimits(t *testing.T) {
	eachWay(t, func(t *testing.T, m manifests) {
		for _, w := range m.workloads {
			r := w.container().Resources
			for _, name := range []corev1.ResourceName{corev1.ResourceCPU, corev1.ResourceMemory, corev1.ResourceEphemeralStorage} {
				request, requested := r.Requests[name]
				limit, limited := r.Limits[name]
				assert.True(t, requested && limited, "%s: %s", w.name, name)
				assert.LessOrEqual(t, request.Cmp(limit), 0, "%s: %s", w.name, name)
			}
		}
	})
}

func TestK8s_ProbesAskForTheRealState(t *testing.T) {
	eachWay(t, func(t *testing.T, m manifests) {
		for _, w := range m.workloads {
			got := map[string]string{}
			for name, probe := range probes(w) {
				switch {
				case !assert.NotNil(t, probe, "%s: %s", w.name, name):
				case probe.HTTPGet != nil:
					got[name] = probe.HTTPGet.Port.String() + probe.HTTPGet.Path
				case probe.Exec != nil:
					got[name] = strings.Join(probe.Exec.Command, " ")
				}
			}
			want := map[string]string{"startupProbe": "admin/readyz", "readinessProbe": "admin/readyz", "livenessProbe": "admin/healthz"}
			switch w.name {
			case "etcd":
				want = map[string]string{"startupProbe": "client/health", "readinessProbe": "client/health", "livenessProbe": "client/health?serializable=true&exclude=NOSPACE"}
			case "redis":
				want = map[string]string{"startupProbe": "redis-cli ping", "readinessProbe": "redis-cli -e ping", "livenessProbe": "redis-cli ping"}
			}
			assert.Equal(t, want, got, w.name)
		}
	})
}

func TestK8s_ImagesArePinnedAndOursAreThoseTheReadmeBuilds(t *testing.T) {
	readme, err := os.ReadFile(filepath.Join(root, "README.md"))
	require.NoError(t, err)
	built := map[string]string{} // by target
	for _, line := range regexp.MustCompile(`(?m)^docker build --target ([\w-]+) -t (\S+) \.$`).FindAllStringSubmatch(string(readme), -1) {
		built[line[1]] = line[2]
	}
	eachWay(t, func(t *testing.T, m manifests) {
		for _, w := range m.workloads {
			image := w.container().Image
			assert.Regexp(t, `^([\w.-]+/)*[\w-]+:v?\d+\.\d+\.\d+(-[\w.-]+)?$`, image, w.name)
			assert.Equal(t, corev1.PullIfNotPresent, w.container().ImagePullPolicy, w.name)
			if m.production {
				image = strings.TrimPrefix(image, "registry.example.com/")
			}
			if w.isServer() {
				assert.Equal(t, built[w.name], image)
			}
		}
	})
}

func TestK8s_OnlyOneHandSetsTheNumberOfPods(t *testing.T) {
	eachWay(t, func(t *testing.T, m manifests) {
		scaled := map[string]bool{}
		for _, s := range m.scalers {
			target := s.Spec.ScaleTargetRef
			w := m.workload(t, target.Name)
			assert.Equal(t, autoscalingv2.CrossVersionObjectReference{APIVersion: "apps/v1", Kind: w.kind, Name: w.name}, target)
			assert.Greater(t, *s.Spec.MinReplicas, int32(1), target.Name)
			assert.Greater(t, s.Spec.MaxReplicas, *s.Spec.MinReplicas, target.Name)
			if assert.Len(t, s.Spec.Metrics, 1) {
				assert.Equal(t, corev1.ResourceCPU, s.Spec.Metrics[0].Resource.Name)
			}
			scaled[w.name] = true
		}
		for _, w := range m.workloads {
			assert.Equal(t, scaled[w.name], w.replicas == nil, "%s: replicas", w.name)
		}
	})
}

// TestK8s_UpdatesLeavePodsSpread wants only the new pods counted: the old ones, which
// are about to go, would send all the new ones to one node.
func TestK8s_UpdatesLeavePodsSpread(t *testing.T) {
	eachWay(t, func(t *testing.T, m manifests) {
		for _, w := range m.workloads {
			if w.kind != "Deployment" {
				continue
			}
			var keys []string
			for _, c := range w.pod.Spec.TopologySpreadConstraints {
				keys = append(keys, c.TopologyKey)
				assert.Equal(t, []string{"pod-template-hash"}, c.MatchLabelKeys, "%s: %s", w.name, c.TopologyKey)
			}
			assert.Equal(t, []string{"kubernetes.io/hostname", "topology.kubernetes.io/zone"}, keys, w.name)
		}
	})
}

func TestK8s_UpdatesLoseNoRequest(t *testing.T) {
	eachWay(t, func(t *testing.T, m manifests) {
		for _, w := range m.workloads {
			grace := w.pod.Spec.TerminationGracePeriodSeconds
			require.NotNil(t, grace, w.name)
			if !w.isServer() {
				continue
			}
			if update := w.strategy.RollingUpdate; assert.NotNil(t, update, w.name) {
				assert.Equal(t, new(intstr.FromInt32(0)), update.MaxUnavailable, w.name)
				assert.Equal(t, new(intstr.FromInt32(1)), update.MaxSurge, w.name)
			}
			var waits time.Duration
			values, help := env(t, w), help(t, w.name)
			for _, setting := range []string{"LEAVE_WAIT", "DRAIN_TIMEOUT"} {
				value, set := values[setting]
				if !set {
					value = fallback(t, help, setting)
				}
				wait, err := time.ParseDuration(value)
				require.NoError(t, err)
				waits += wait
				if w.name == "http-server" && setting == "LEAVE_WAIT" { // which is found through its Service
					assert.GreaterOrEqual(t, wait, 5*time.Second)
				}
			}
			assert.GreaterOrEqual(t, time.Duration(*grace)*time.Second, waits+10*time.Second, "%s: terminationGracePeriodSeconds", w.name)
		}
	})
}

func TestK8s_BudgetsLetNodesBeDrained(t *testing.T) {
	eachWay(t, func(t *testing.T, m manifests) {
		for _, b := range m.budgets {
			assert.Equal(t, new(intstr.FromInt32(1)), b.Spec.MaxUnavailable, b.Name)
			assert.Nil(t, b.Spec.MinAvailable, b.Name)
		}
	})
}

func TestK8s_KubeScoreFindsNothingCritical(t *testing.T) {
	_, err := tool("kube-score", "kube-score", append([]string{"score"}, files(t, "k8")...)...)
	assert.NoError(t, err)

	text, err := overlay()
	require.NoError(t, err)
	rendered := filepath.Join(t.TempDir(), "production.yaml")
	require.NoError(t, os.WriteFile(rendered, text, 0o600))
	_, err = tool("kube-score", "kube-score", "score", rendered)
	assert.NoError(t, err)
}
