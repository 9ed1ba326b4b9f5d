package kube

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	v1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"

	"github.com/weir-project/weir/endpoints"
)

// The paths at which the API server has what we read.
const (
	pathServices = "/api/v1/services"
	pathNodes    = "/api/v1/nodes"
	pathSlices   = "/apis/discovery.k8s.io/v1/endpointslices"
	pathSpaces   = "/api/v1/namespaces"
	pathConfig   = "/api/v1/namespaces/kube-system/configmaps"
	pathPods     = "/api/v1/pods"
	pathCIDRs    = "/apis/networking.k8s.io/v1/servicecidrs"
)

var kinds = map[string]metav1.TypeMeta{
	pathServices: {APIVersion: "v1", Kind: "Service"},
	pathPods:     {APIVersion: "v1", Kind: "Pod"},
	pathNodes:    {APIVersion: "v1", Kind: "Node"},
	pathConfig:   {APIVersion: "v1", Kind: "ConfigMap"},
	pathSpaces:   {APIVersion: "v1", Kind: "Namespace"},
	pathSlices:   {APIVersion: "discovery.k8s.io/v1", Kind: "EndpointSlice"},
	pathCIDRs:    {APIVersion: "networking.k8s.io/v1", Kind: "ServiceCIDR"},
}

// apiServer is as much of an API server as a reflector needs. It does not select: it records how it
// is asked.
type apiServer struct {
	mu       sync.Mutex
	version  int
	objects  map[string]map[string]metav1.Object // by path and namespace/name
	watchers map[string][]chan event
	history  map[string][]event // all that was told, for those who come a little late
	asked    map[string]string  // path -> selectors
	refuse   map[string]int     // path -> HTTP status
	streamed int                // lists that were streamed
	noStream bool               // streaming lists are not supported
}

type event struct {
	Type   string `json:"type"`
	Object any    `json:"object"`

	version int
}

func newAPIServer() *apiServer {
	s := &apiServer{version: 1, objects: map[string]map[string]metav1.Object{}, watchers: map[string][]chan event{}, history: map[string][]event{}, asked: map[string]string{}, refuse: map[string]int{}}
	for path := range kinds {
		s.objects[path] = map[string]metav1.Object{}
	}
	return s
}

func key(o metav1.Object) string { return o.GetNamespace() + "/" + o.GetName() }

// set creates or changes an object.
func (s *apiServer) set(path string, o metav1.Object) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.version++
	o.SetResourceVersion(fmt.Sprint(s.version))
	kind := "ADDED"
	if s.objects[path][key(o)] != nil {
		kind = "MODIFIED"
	}
	s.objects[path][key(o)] = o
	s.tell(path, event{kind, o, s.version})
}

func (s *apiServer) delete(path, namespace, name string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.version++
	o := s.objects[path][namespace+"/"+name]
	delete(s.objects[path], key(o))
	o.SetResourceVersion(fmt.Sprint(s.version))
	s.tell(path, event{"DELETED", o, s.version})
}

func (s *apiServer) tell(path string, e event) {
	e.Object = typed(path, e.Object)
	s.history[path] = append(s.history[path], e)
	for _, w := range s.watchers[path] {
		w <- e
	}
}

// drop ends all watches; what changes until they are taken up again is told by a list only, because
// the old version is too old.
func (s *apiServer) drop() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for path, list := range s.watchers {
		for _, w := range list {
			w <- event{"ERROR", metav1.Status{TypeMeta: metav1.TypeMeta{APIVersion: "v1", Kind: "Status"}, Status: "Failure", Reason: metav1.StatusReasonExpired, Code: 410}, s.version}
			close(w)
		}
		delete(s.watchers, path)
	}
}

func (s *apiServer) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	path, q := r.URL.Path, r.URL.Query()
	s.mu.Lock()
	s.asked[path] = strings.Trim(q.Get("labelSelector")+" "+q.Get("fieldSelector"), " ")
	status := s.refuse[path]
	if q.Get("sendInitialEvents") == "true" && s.noStream {
		status = http.StatusUnprocessableEntity
	}
	if status != 0 {
		s.mu.Unlock()
		w.Header().Set("Content-Type", "application/json")
		w.WriteHeader(status)
		_ = json.NewEncoder(w).Encode(metav1.Status{TypeMeta: metav1.TypeMeta{APIVersion: "v1", Kind: "Status"}, Status: "Failure", Code: int32(status)})
		return
	}
	var objects []any
	for _, o := range s.objects[path] {
		objects = append(objects, typed(path, o))
	}
	w.Header().Set("Content-Type", "application/json")
	if q.Get("watch") == "" {
		version := s.version
		s.mu.Unlock()
		_ = json.NewEncoder(w).Encode(map[string]any{
			"apiVersion": kinds[path].APIVersion, "kind": kinds[path].Kind + "List",
			"metadata": map[string]any{"resourceVersion": fmt.Sprint(version)}, "items": objects,
		})
		return
	}
	events := make(chan event, 1000)
	if q.Get("sendInitialEvents") == "true" {
		s.streamed++
		for _, o := range objects {
			events <- event{"ADDED", o, s.version}
		}
		events <- event{"BOOKMARK", typed(path, &v1.Service{ObjectMeta: metav1.ObjectMeta{
			ResourceVersion: fmt.Sprint(s.version), Annotations: map[string]string{metav1.InitialEventsAnnotationKey: "true"},
		}}), s.version}
	} else {
		from, _ := strconv.Atoi(q.Get("resourceVersion"))
		for _, e := range s.history[path] {
			if e.version > from {
				events <- e
			}
		}
	}
	s.watchers[path] = append(s.watchers[path], events)
	s.mu.Unlock()
	for {
		select {
		case e, ok := <-events:
			if !ok {
				return
			}
			_ = json.NewEncoder(w).Encode(e)
			w.(http.Flusher).Flush()
		case <-r.Context().Done():
			return
		}
	}
}

// typed returns an object with its kind.
func typed(path string, o any) map[string]any {
	raw, _ := json.Marshal(o)
	m := map[string]any{}
	_ = json.Unmarshal(raw, &m)
	m["apiVersion"], m["kind"] = kinds[path].APIVersion, kinds[path].Kind
	return m
}

// reports remembers problems.
type reports struct {
	mu   sync.Mutex
	list []string
}

func (r *reports) Report(p endpoints.Problem) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.list = append(r.list, p.Error())
}

func (r *reports) all() string {
	r.mu.Lock()
	defer r.mu.Unlock()
	return strings.Join(r.list, "\n")
}

// run feeds an engine from a server until the test ends.
func run(t *testing.T, host string, change ...func(*Config)) (*endpoints.Engine, *reports) {
	t.Helper()
	client, err := kubernetes.NewForConfig(&rest.Config{Host: host, QPS: 1000, Burst: 1000})
	if err != nil {
		t.Fatal(err)
	}
	e, r := endpoints.New(endpoints.Config{NodeName: "here"}), &reports{}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() {
		c := Config{Client: client, NodeName: "here", Sink: e, Reporter: r}
		for _, f := range change {
			f(&c)
		}
		done <- NewSource(c).Run(ctx)
	}()
	t.Cleanup(func() {
		cancel()
		select {
		case err := <-done:
			if err != nil {
				t.Errorf("Run: %v", err)
			}
		case <-time.After(5 * time.Second):
			t.Error("Run does not end with its context")
		}
	})
	return e, r
}

func serve(t *testing.T, s *apiServer) *httptest.Server {
	server := httptest.NewServer(s)
	t.Cleanup(func() { server.CloseClientConnections(); server.Close() })
	return server
}

func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for deadline := time.Now().Add(20 * time.Second); !ok(); time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("never: %s", what)
		}
	}
}

func kubeService(name, ip string) *v1.Service {
	return &v1.Service{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: name}, Spec: v1.ServiceSpec{ClusterIP: ip, Ports: []v1.ServicePort{{Port: 80}}}}
}

func kubeSlice(name, service string, ips ...string) *discoveryv1.EndpointSlice {
	port := int32(8080)
	s := &discoveryv1.EndpointSlice{
		ObjectMeta:  metav1.ObjectMeta{Namespace: "default", Name: name, Labels: map[string]string{discoveryv1.LabelServiceName: service}},
		AddressType: discoveryv1.AddressTypeIPv4, Ports: []discoveryv1.EndpointPort{{Port: &port}},
	}
	for _, ip := range ips {
		s.Endpoints = append(s.Endpoints, discoveryv1.Endpoint{Addresses: []string{ip}})
	}
	return s
}

func cluster(e *endpoints.Engine, name string) string {
	var r endpoints.Resolved
	e.Resolve(endpoints.Name{Namespace: "default", Name: name}, &r)
	if r.Service == nil {
		return "none"
	}
	if len(r.Ports) == 0 {
		return "no ports"
	}
	return fmt.Sprint(r.Ports[0].Cluster)
}

func TestSource(t *testing.T) {
	for _, streaming := range []bool{true, false} {
		t.Run(fmt.Sprintf("streaming=%v", streaming), func(t *testing.T) {
			api := newAPIServer()
			api.noStream = !streaming
			api.set(pathServices, kubeService("web", "10.96.0.1"))
			api.set(pathServices, kubeService("bad", "10.96.0.x"))
			api.set(pathSlices, kubeSlice("web-1", "web", "10.0.0.1", "10.0.0.2"))
			api.set(pathNodes, &v1.Node{ObjectMeta: metav1.ObjectMeta{Name: "here", Labels: map[string]string{v1.LabelTopologyZone: "z"}}})
			api.set(pathCIDRs, &networkingv1.ServiceCIDR{ObjectMeta: metav1.ObjectMeta{Name: "one"}, Spec: networkingv1.ServiceCIDRSpec{CIDRs: []string{"10.96.0.0/16"}}})
			e, r := run(t, serve(t, api).URL)
			eventually(t, "synced", e.Synced)
			if got := cluster(e, "web"); got != "[10.0.0.1:8080 10.0.0.2:8080]" {
				t.Errorf("web is %s", got)
			}
			c := e.Take()
			if c.Node == nil || c.Node.Zone != "z" || fmt.Sprint(c.ServiceCIDRs) != "[10.96.0.0/16]" {
				t.Errorf("node %+v, service CIDRs %v", c.Node, c.ServiceCIDRs)
			}
			api.mu.Lock()
			asked := fmt.Sprint(api.asked[pathServices], "|", api.asked[pathSlices], "|", api.asked[pathNodes], "|", api.asked[pathCIDRs])
			if streaming != (api.streamed > 0) {
				t.Errorf("%d lists were streamed", api.streamed)
			}
			api.mu.Unlock()
			if want := "!service.kubernetes.io/service-proxy-name spec.clusterIP!=None|!service.kubernetes.io/headless|metadata.name=here|"; asked != want {
				t.Errorf("asked for %s\nwant %s", asked, want)
			}

			api.set(pathSlices, kubeSlice("web-1", "web", "10.0.0.2"))
			eventually(t, "one endpoint less", func() bool { return cluster(e, "web") == "[10.0.0.2:8080]" })
			api.set(pathSlices, kubeSlice("web-2", "web", "10.0.0.3"))
			eventually(t, "another slice", func() bool { return cluster(e, "web") == "[10.0.0.2:8080 10.0.0.3:8080]" })
			api.delete(pathSlices, "default", "web-1")
			eventually(t, "one slice less", func() bool { return cluster(e, "web") == "[10.0.0.3:8080]" })
			api.set(pathCIDRs, &networkingv1.ServiceCIDR{ObjectMeta: metav1.ObjectMeta{Name: "two"}, Spec: networkingv1.ServiceCIDRSpec{CIDRs: []string{"10.95.0.0/16"}}})
			eventually(t, "another range", func() bool { return fmt.Sprint(e.Take().ServiceCIDRs) == "[10.95.0.0/16 10.96.0.0/16]" })
			api.delete(pathCIDRs, "", "one")
			eventually(t, "one range less", func() bool { return fmt.Sprint(e.Take().ServiceCIDRs) == "[10.95.0.0/16]" })
			api.delete(pathNodes, "", "here")
			eventually(t, "no node", func() bool { return e.Node() == nil })
			api.set(pathServices, kubeService("other", "10.96.0.2"))
			eventually(t, "another service", func() bool { return cluster(e, "other") == "[]" })

			e.Take()
			before := e.Revision()
			api.drop()
			api.set(pathServices, kubeService("after", "10.96.0.3"))
			eventually(t, "listed again", func() bool { return cluster(e, "after") == "[]" })
			if got := e.Revision(); got != before+1 {
				t.Errorf("a new list changed %d things, want 1", got-before)
			}
			if got, want := r.all(), `Service default/bad: spec.clusterIPs[0]: "10.96.0.x" is not an IP address`; got != want {
				t.Errorf("reported\n%s\nwant once\n%s", got, want)
			}
			api.set(pathServices, kubeService("bad", "10.96.0.y"))
			eventually(t, "reported again", func() bool { return strings.Contains(r.all(), "10.96.0.y") })
			gone := kubeService("web", "")
			gone.Spec.Type = v1.ServiceTypeExternalName
			api.set(pathServices, gone)
			eventually(t, "no longer for us", func() bool { return cluster(e, "web") == "none" })
		})
	}
}

// TestDNS reads what only names depend on.
func TestDNS(t *testing.T) {
	for _, allowed := range []bool{true, false} {
		api := newAPIServer()
		if !allowed {
			api.refuse[pathSpaces] = http.StatusForbidden
		}
		foreign := kubeService("foreign", "10.96.0.2")
		foreign.Labels = map[string]string{labelProxyName: "other"}
		external := &v1.Service{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "external"},
			Spec: v1.ServiceSpec{Type: v1.ServiceTypeExternalName, ExternalName: "example.org"}}
		slice := kubeSlice("headless-1", "headless", "10.0.0.1", "10.0.0.2", "10.0.0.3")
		slice.Labels[labelHeadless] = ""
		host := "second"
		slice.Endpoints[1].Hostname = &host
		for _, s := range []*v1.Service{kubeService("web", "10.96.0.1"), foreign, external, kubeService("headless", "None")} {
			api.set(pathServices, s)
		}
		api.set(pathSlices, slice)
		api.set(pathSpaces, &v1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: "empty"}})
		e, _ := run(t, serve(t, api).URL, func(c *Config) { c.DNS = true })
		names := e.Subscribe()
		eventually(t, "synced", func() bool { return e.Synced() && names.Synced() })
		api.mu.Lock()
		if asked := api.asked[pathServices] + api.asked[pathSlices]; asked != "" {
			t.Errorf("asked for %s", asked)
		}
		api.mu.Unlock()
		read := func(name string) (*endpoints.Service, []*endpoints.Slice) {
			return names.Read(endpoints.Name{Namespace: "default", Name: name}, nil)
		}
		if s, _ := read("foreign"); s == nil || !s.NoProxy || fmt.Sprint(s.ClusterIPs) != "[10.96.0.2]" {
			t.Errorf("foreign is %+v", s)
		}
		if s, _ := read("external"); s == nil || !s.NoProxy || s.ExternalName != "example.org" {
			t.Errorf("external is %+v", s)
		}
		if s, list := read("headless"); s == nil || !s.Headless || len(list) != 1 || !list[0].Headless || fmt.Sprintf("%q", list[0].Hostnames) != `["" "second" ""]` {
			t.Errorf("headless is %+v, %v", s, list)
		}
		if names.Namespace("empty") != allowed {
			t.Errorf("allowed to read Namespaces %v: the opposite is known", allowed)
		}
		if got := e.Take().Services; fmt.Sprint(got) != "[default/web]" {
			t.Errorf("traffic hears of %v", got)
		}
		if got := names.Take(); len(got.Services) != 4 {
			t.Errorf("DNS hears of %v", got.Services)
		}
	}
}

// TestFollowConfigMap follows one ConfigMap, which comes, changes and goes.
func TestFollowConfigMap(t *testing.T) {
	api := newAPIServer()
	client, err := kubernetes.NewForConfig(&rest.Config{Host: serve(t, api).URL, QPS: 1000, Burst: 1000})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	told, done := make(chan string, 10), make(chan error)
	go func() {
		done <- NewSource(Config{Client: client, Reporter: &reports{}}).FollowConfigMap(ctx, "kube-system", "kube-dns",
			func(data map[string]string) { told <- fmt.Sprint(data) })
	}()
	expect := func(want string) {
		t.Helper()
		select {
		case got := <-told:
			if got != want {
				t.Errorf("told %s, want %s", got, want)
			}
		case <-time.After(20 * time.Second):
			t.Fatalf("never told %s", want)
		}
	}
	set := func(name, value string) {
		api.set(pathConfig, &v1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Namespace: "kube-system", Name: name}, Data: map[string]string{"k": value}})
	}
	expect("map[]")
	set("kube-dns", "1")
	expect("map[k:1]")
	set("kube-dns", "2")
	expect("map[k:2]")
	api.delete(pathConfig, "kube-system", "kube-dns")
	expect("map[]")
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
}

// TestNothingToRead has neither a node nor the right to read ServiceCIDRs.
func TestNothingToRead(t *testing.T) {
	for _, status := range []int{http.StatusNotFound, http.StatusForbidden} {
		api := newAPIServer()
		api.refuse[pathCIDRs] = status
		e, _ := run(t, serve(t, api).URL)
		eventually(t, "synced", e.Synced)
		if c := e.Take(); c.Node != nil || c.ServiceCIDRs != nil {
			t.Errorf("node %v, service CIDRs %v", c.Node, c.ServiceCIDRs)
		}
	}
}

// TestForbiddenForAMoment restarts an API server that, as they do, forbids everything until it has
// read its roles. What was known of the ServiceCIDRs stays, and what has changed is read soon.
func TestForbiddenForAMoment(t *testing.T) {
	forbid := func(api *apiServer, status int) {
		api.mu.Lock()
		defer api.mu.Unlock()
		for path := range kinds {
			api.refuse[path] = status
		}
	}
	cidr := func(name, prefix string) *networkingv1.ServiceCIDR {
		return &networkingv1.ServiceCIDR{ObjectMeta: metav1.ObjectMeta{Name: name}, Spec: networkingv1.ServiceCIDRSpec{CIDRs: []string{prefix}}}
	}
	api := newAPIServer()
	api.set(pathCIDRs, cidr("one", "10.96.0.0/16"))
	forbid(api, http.StatusForbidden)
	e, _ := run(t, serve(t, api).URL)
	time.Sleep(300 * time.Millisecond)
	if e.Synced() {
		t.Fatal("synced with a server that forbids everything")
	}
	forbid(api, 0)
	eventually(t, "synced", e.Synced)
	if c := e.Take(); fmt.Sprint(c.ServiceCIDRs) != "[10.96.0.0/16]" {
		t.Errorf("synced with the ranges %v", c.ServiceCIDRs)
	}

	forbid(api, http.StatusForbidden)
	api.drop()
	api.set(pathCIDRs, cidr("two", "10.95.0.0/16"))
	time.Sleep(300 * time.Millisecond)
	if c := e.Take(); fmt.Sprint(c.ServiceCIDRs) != "[10.96.0.0/16]" {
		t.Errorf("forbidden: the ranges are %v", c.ServiceCIDRs)
	}
	forbid(api, 0)
	eventually(t, "another range", func() bool { return fmt.Sprint(e.Take().ServiceCIDRs) == "[10.95.0.0/16 10.96.0.0/16]" })
}

// TestServerComesLate starts before the API server does.
func TestServerComesLate(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	address := l.Addr().String()
	l.Close()
	e, _ := run(t, "http://"+address)
	time.Sleep(300 * time.Millisecond)
	if e.Synced() {
		t.Fatal("synced with nobody")
	}
	if l, err = net.Listen("tcp", address); err != nil {
		t.Skip(err)
	}
	server := &httptest.Server{Listener: l, Config: &http.Server{Handler: newAPIServer()}}
	server.Start()
	t.Cleanup(func() { server.CloseClientConnections(); server.Close() })
	eventually(t, "synced", e.Synced)
}

// TestRunEnds ends while there is no API server.
func TestRunEnds(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	l.Close()
	run(t, "http://"+l.Addr().String())
	time.Sleep(50 * time.Millisecond)
}

func TestRESTConfig(t *testing.T) {
	t.Setenv("KUBERNETES_SERVICE_HOST", "")
	if _, err := RESTConfig("", ""); err == nil || !strings.Contains(err.Error(), "--kubeconfig") {
		t.Errorf("outside of a cluster: %v", err)
	}
	c, err := RESTConfig("", "https://192.0.2.1:6443")
	if err != nil || c.Host != "https://192.0.2.1:6443" || c.UserAgent != "weir" || c.ContentType != "application/vnd.kubernetes.protobuf" {
		t.Errorf("master alone: %+v, %v", c, err)
	}
	path := filepath.Join(t.TempDir(), "kubeconfig")
	kubeconfig := `{apiVersion: v1, kind: Config, current-context: a, clusters: [{name: a, cluster: {server: "https://192.0.2.2"}}], contexts: [{name: a, context: {cluster: a, user: a}}], users: [{name: a, user: {token: t}}]}`
	if err := os.WriteFile(path, []byte(kubeconfig), 0o600); err != nil {
		t.Fatal(err)
	}
	if c, err := RESTConfig(path, ""); err != nil || c.Host != "https://192.0.2.2" || c.BearerToken != "t" {
		t.Errorf("kubeconfig: %+v, %v", c, err)
	}
	if c, err := RESTConfig(path, "https://192.0.2.3"); err != nil || c.Host != "https://192.0.2.3" || c.BearerToken != "t" {
		t.Errorf("kubeconfig and master: %+v, %v", c, err)
	}
	if _, err := RESTConfig(path+".missing", ""); err == nil || !strings.Contains(err.Error(), path) {
		t.Errorf("missing kubeconfig: %v", err)
	}
}

// TestHint connects to an in-cluster address at which nobody listens.
func TestHint(t *testing.T) {
	refused := errors.New("refused")
	h := &hinter{roundTrip(func() error { return &net.OpError{Op: "dial", Err: refused} }), "https://10.96.0.1:443"}
	_, err := h.RoundTrip(nil)
	if err == nil || !errors.Is(err, refused) || !strings.Contains(err.Error(), "https://10.96.0.1:443 is a ClusterIP") || !strings.Contains(err.Error(), "--master") {
		t.Errorf("got %v", err)
	}
	h.next = roundTrip(func() error { return &net.OpError{Op: "read", Err: refused} })
	if _, err := h.RoundTrip(nil); err == nil || strings.Contains(err.Error(), "--master") {
		t.Errorf("a connection that was made: %v", err)
	}
}

type roundTrip func() error

func (f roundTrip) RoundTrip(*http.Request) (*http.Response, error) { return nil, f() }
