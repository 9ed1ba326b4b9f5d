package cluster

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	authenticationv1 "k8s.io/api/authentication/v1"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/client-go/discovery/cached/memory"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/restmapper"
	"k8s.io/utils/ptr"

	"github.com/weir-project/weir/deploy/tools/manifests"
	"github.com/weir-project/weir/deploy/tools/pod"
	"github.com/weir-project/weir/internal/kubelab"
	"github.com/weir-project/weir/internal/netlab"
)

const (
	namespace = "kube-system"
	nodeName  = "node1"
	apiPort   = "6443"
	patience  = 60 * time.Second
)

// world is a lab whose node has an API server that writes an audit log.
type world struct {
	t      *testing.T
	lab    *netlab.Lab
	api    kubernetes.Interface
	config *rest.Config
	audit  string // path of the log

	dynamic dynamic.Interface
	mapper  *restmapper.DeferredDiscoveryRESTMapper
}

const auditPolicy = `
apiVersion: audit.k8s.io/v1
kind: Policy
omitStages: [RequestReceived]
rules:
- {level: Metadata, users: ["system:serviceaccount:kube-system:weir"]}
- {level: None}
`

func newWorld(t *testing.T) *world {
	t.Helper()
	netlab.Require(t)
	if testing.Short() {
		t.Skip("-short")
	}
	if _, err := exec.LookPath("runc"); err != nil {
		t.Fatalf("%v: hack/prepare.sh installs it", err)
	}
	w := &world{t: t, lab: netlab.NewForTest(t, netlab.Config{}), audit: filepath.Join(t.TempDir(), "audit.log")}
	policy := filepath.Join(t.TempDir(), "policy.yaml")
	w.must(os.WriteFile(policy, []byte(auditPolicy), 0o644))
	c := kubelab.StartForTest(t, kubelab.Config{Host: w.node(), APIServerArgs: []string{
		"--audit-policy-file=" + policy, "--audit-log-path=" + w.audit, "--audit-log-mode=blocking-strict"}})
	w.api, w.config = c.Client(), c.RESTConfig()
	w.config.ContentConfig = rest.ContentConfig{} // JSON: protobuf cannot carry unstructured objects
	var err error
	w.dynamic, err = dynamic.NewForConfig(w.config)
	w.must(err)
	w.mapper = restmapper.NewDeferredDiscoveryRESTMapper(memory.NewMemCacheClient(w.api.Discovery()))
	w.registerNode()
	return w
}

func (w *world) node() *netlab.Host { return w.lab.Host("node") }

func (w *world) must(err error) {
	w.t.Helper()
	if err != nil {
		w.t.Fatal(err)
	}
}

// registerNode writes the Node object, as a kubelet would.
func (w *world) registerNode() {
	w.t.Helper()
	node := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: nodeName},
		Spec: corev1.NodeSpec{PodCIDRs: []string{netlab.PodCIDR4.String(), netlab.PodCIDR6.String()}, PodCIDR: netlab.PodCIDR4.String()}}
	node, err := w.api.CoreV1().Nodes().Create(w.t.Context(), node, metav1.CreateOptions{})
	w.must(err)
	for _, a := range []netip.Addr{w.node().Addr4, w.node().Addr6} {
		node.Status.Addresses = append(node.Status.Addresses, corev1.NodeAddress{Type: corev1.NodeInternalIP, Address: a.String()})
	}
	_, err = w.api.CoreV1().Nodes().UpdateStatus(w.t.Context(), node, metav1.UpdateOptions{})
	w.must(err)
}

// create creates an object; unknown and repeated fields are an error.
func (w *world) create(o *unstructured.Unstructured, options metav1.CreateOptions) error {
	gvk := o.GroupVersionKind()
	mapping, err := w.mapper.RESTMapping(gvk.GroupKind(), gvk.Version)
	if err != nil {
		return fmt.Errorf("%s: %w", gvk, err)
	}
	options.FieldValidation = metav1.FieldValidationStrict
	_, err = w.dynamic.Resource(mapping.Resource).Namespace(o.GetNamespace()).Create(w.t.Context(), o, options)
	if err != nil {
		return fmt.Errorf("%s %s: %w", gvk.Kind, o.GetName(), err)
	}
	return nil
}

// apply creates the objects of a kustomization.
func (w *world) apply(objects []*unstructured.Unstructured) {
	w.t.Helper()
	for _, o := range objects {
		w.must(w.create(o, metav1.CreateOptions{}))
	}
}

// render renders a kustomization.
func (w *world) render(name string) []*unstructured.Unstructured {
	w.t.Helper()
	objects, err := manifests.Render(name)
	w.must(err)
	return objects
}

// configMap is how a kubelet reads a ConfigMap.
func (w *world) configMap(name string) (map[string]string, error) {
	c, err := w.api.CoreV1().ConfigMaps(namespace).Get(w.t.Context(), name, metav1.GetOptions{})
	if apierrors.IsNotFound(err) {
		return nil, fmt.Errorf("ConfigMap %s: %w", name, os.ErrNotExist)
	}
	if err != nil {
		return nil, err
	}
	return c.Data, nil
}

// account returns the files of the service account of a pod, with a fresh token.
func (w *world) account(spec corev1.PodSpec) map[string][]byte {
	w.t.Helper()
	if !ptr.Deref(spec.AutomountServiceAccountToken, true) {
		return nil
	}
	token, err := w.api.CoreV1().ServiceAccounts(namespace).CreateToken(w.t.Context(), spec.ServiceAccountName, &authenticationv1.TokenRequest{}, metav1.CreateOptions{})
	w.must(err)
	return map[string][]byte{"token": []byte(token.Status.Token), "ca.crt": w.config.CAData, "namespace": []byte(namespace)}
}

// pod returns the pod that the DaemonSet in the API makes for the node.
func (w *world) pod(daemonSet string) *pod.Pod {
	w.t.Helper()
	d, err := w.api.AppsV1().DaemonSets(namespace).Get(w.t.Context(), daemonSet, metav1.GetOptions{})
	w.must(err)
	return w.podOf(d)
}

func (w *world) podOf(d *appsv1.DaemonSet) *pod.Pod {
	w.t.Helper()
	dir := w.t.TempDir()
	w.must(os.Chmod(dir, 0o755))
	spec := d.Spec.Template.Spec
	return &pod.Pod{Spec: spec, NodeName: nodeName, Rootfs: rootfs, Dir: dir,
		ConfigMap: w.configMap, Account: w.account(spec), ResolvConf: "nameserver 127.0.0.1\n"}
}

// container is one that runs.
type container struct {
	w    *world
	log  string // path
	proc *netlab.Process
}

// start starts a container of a pod, with changes to what the pod says of it.
func (w *world) start(p *pod.Pod, name string, change ...func(*corev1.Container)) *container {
	w.t.Helper()
	spec, err := p.Container(name)
	w.must(err)
	for _, f := range change {
		f(spec)
	}
	var cmd *exec.Cmd
	cmd, err = p.Command(spec)
	w.must(err)
	c := &container{w: w, log: filepath.Join(p.Dir, name+".log")}
	log, err := os.OpenFile(c.log, os.O_CREATE|os.O_TRUNC|os.O_WRONLY, 0o644)
	w.must(err)
	defer log.Close()
	cmd.Stdout, cmd.Stderr = log, log
	c.proc, err = w.node().Start(cmd)
	w.must(err)
	w.t.Cleanup(func() {
		c.stop()
		if w.t.Failed() {
			w.t.Logf("%s says:\n%s", name, c.said())
		}
	})
	return c
}

// run runs a container to its end and returns its error, if any.
func (w *world) run(p *pod.Pod, name string, change ...func(*corev1.Container)) (said string, err error) {
	w.t.Helper()
	c := w.start(p, name, change...)
	select {
	case <-c.proc.Done():
		return c.said(), c.proc.Wait()
	case <-time.After(patience):
		w.t.Fatalf("container %s does not end:\n%s", name, c.said())
		return "", nil
	}
}

func (c *container) said() string {
	b, err := os.ReadFile(c.log)
	if err != nil {
		return err.Error()
	}
	return string(b)
}

// stop ends a container as a kubelet would, first by SIGTERM.
func (c *container) stop() {
	select {
	case <-c.proc.Done():
		return
	default:
	}
	// The group: unshare passes nothing on, runc does.
	_ = syscall.Kill(-c.proc.Pid, syscall.SIGTERM)
	select {
	case <-c.proc.Done():
	case <-time.After(patience):
		c.w.t.Error("a container does not end upon SIGTERM")
		_ = c.proc.Close()
	}
}

// ready waits until the pod's readiness probe succeeds.
func (c *container) ready(p *pod.Pod) {
	c.w.t.Helper()
	spec, err := p.Container("weir")
	c.w.must(err)
	get := spec.ReadinessProbe.HTTPGet
	c.w.eventually(func() error {
		select {
		case <-c.proc.Done():
			c.w.t.Fatalf("weir ended: %v\n%s", c.proc.Wait(), c.said())
		default:
		}
		_, err := c.w.get(net.JoinHostPort(c.w.node().Addr4.String(), get.Port.String()), get.Path)
		return err
	})
}

// get asks a server in the node.
func (w *world) get(addr, path string) (string, error) {
	client := http.Client{Timeout: 10 * time.Second, Transport: &http.Transport{DisableKeepAlives: true,
		DialContext: func(ctx context.Context, network, addr string) (net.Conn, error) {
			return w.node().Dial(ctx, network, addr)
		}}}
	r, err := client.Get("http://" + addr + path)
	if err != nil {
		return "", err
	}
	defer r.Body.Close()
	body, err := io.ReadAll(r.Body)
	if err == nil && r.StatusCode != http.StatusOK {
		err = fmt.Errorf("%s%s: %s: %s", addr, path, r.Status, body)
	}
	return string(body), err
}

// eventually waits until check finds nothing wrong.
func (w *world) eventually(check func() error) {
	w.t.Helper()
	var err error
	for deadline := time.Now().Add(patience); time.Now().Before(deadline); time.Sleep(20 * time.Millisecond) {
		if err = check(); err == nil {
			return
		}
	}
	w.t.Fatalf("after %s: %v", patience, err)
}

// service creates a Service with one endpoint on port 80, the server's. externalIP may be "".
func (w *world) service(name, clusterIP, externalIP string, server netip.AddrPort) {
	w.t.Helper()
	s := &corev1.Service{ObjectMeta: metav1.ObjectMeta{Name: name}, Spec: corev1.ServiceSpec{
		ClusterIP: clusterIP, Ports: []corev1.ServicePort{{Name: "http", Port: 80}, {Name: "https", Port: 443}}}}
	if externalIP != "" {
		s.Spec.ExternalIPs = []string{externalIP}
	}
	_, err := w.api.CoreV1().Services("default").Create(w.t.Context(), s, metav1.CreateOptions{})
	w.must(err)
	slice := &discoveryv1.EndpointSlice{
		ObjectMeta: metav1.ObjectMeta{Name: name, Labels: map[string]string{discoveryv1.LabelServiceName: name},
			Annotations: map[string]string{corev1.EndpointsLastChangeTriggerTime: time.Now().Format(time.RFC3339Nano)}},
		AddressType: discoveryv1.AddressTypeIPv4,
		Ports:       []discoveryv1.EndpointPort{{Name: ptr.To("http"), Port: ptr.To(int32(server.Port())), Protocol: ptr.To(corev1.ProtocolTCP)}},
		Endpoints:   []discoveryv1.Endpoint{{Addresses: []string{server.Addr().String()}}},
	}
	_, err = w.api.DiscoveryV1().EndpointSlices("default").Create(w.t.Context(), slice, metav1.CreateOptions{})
	w.must(err)
}

// request is one line of the audit log, as far as it matters here.
type request struct {
	Verb      string
	ObjectRef struct{ Resource, APIGroup, Namespace, Name string }
	Response  struct{ Code int } `json:"responseStatus"`
}

// requests returns what Weir has asked the API server.
func (w *world) requests() (list []request) {
	w.t.Helper()
	b, err := os.ReadFile(w.audit)
	w.must(err)
	for line := range strings.Lines(string(b)) {
		if !strings.HasSuffix(line, "\n") {
			break // being written
		}
		var r request
		w.must(json.Unmarshal([]byte(line), &r))
		list = append(list, r)
	}
	return list
}
