package manifests

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/weir-project/weir/endpoints"
)

const web = `# a comment first

apiVersion: v1
kind: Service
metadata:
  name: web
spec:
  clusterIP: 10.96.0.10
  ports:
  - port: 80
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata:
  name: web-1
  labels:
    kubernetes.io/service-name: web
addressType: IPv4
ports:
- port: 8080
endpoints:
- addresses: [10.0.0.1]
- addresses: [10.0.0.2]
  conditions: {ready: false}
`

// summary writes what a file says, a line for each object and problem.
func summary(c content) string {
	var b strings.Builder
	for _, o := range c.objects {
		fmt.Fprintf(&b, "%d %s %v", o.line, o.id.kind, o.id.name)
		switch {
		case o.service != nil:
			fmt.Fprintf(&b, " %v %v", o.service.ClusterIPs, o.service.Ports)
		case o.slice != nil:
			fmt.Fprintf(&b, " for %v:", o.slice.Service)
			for _, ep := range o.slice.Endpoints {
				fmt.Fprintf(&b, " %v", ep.Addr)
			}
		case o.pod != nil:
			fmt.Fprintf(&b, " %v", o.pod.Addrs)
		case o.node != nil:
			fmt.Fprintf(&b, " %v", o.node.Addrs)
		case o.cidrs != nil:
			fmt.Fprintf(&b, " %v", o.cidrs)
		}
		b.WriteString("\n")
	}
	for _, p := range c.problems {
		fmt.Fprintln(&b, p.Error())
	}
	for _, s := range c.ignored {
		fmt.Fprintln(&b, "ignored", s)
	}
	return b.String()
}

func TestDecode(t *testing.T) {
	for _, tt := range []struct{ name, text, want string }{
		{name: "nothing", text: "# only a comment\n---\n\n---\n"},
		{name: "null", text: "null\n---\n~\n"},
		{
			name: "several documents, with defaults", text: web,
			want: "3 Service default/web [10.96.0.10] [{ TCP 80 0}]\n12 EndpointSlice default/web-1 for default/web: 10.0.0.1 10.0.0.2\n",
		},
		{
			name: "clusterIPs alone", text: "{apiVersion: v1, kind: Service, metadata: {name: a, namespace: b}, spec: {clusterIPs: [10.96.0.1, 'fd00::1']}}",
			want: "1 Service b/a [10.96.0.1 fd00::1] []\n",
		},
		{
			name: "clusterIP and clusterIPs disagree", text: "{apiVersion: v1, kind: Service, metadata: {name: a}, spec: {clusterIP: 10.96.0.2, clusterIPs: [10.96.0.1]}}",
			want: "1 Service default/a [10.96.0.1] []\nf.yaml:1: Service default/a: spec.clusterIP: 10.96.0.2 is not spec.clusterIPs[0], 10.96.0.1, which counts\n",
		},
		{
			name: "JSON with tabs", text: "{\n\t\"apiVersion\": \"v1\",\n\t\"kind\": \"Service\",\n\t\"metadata\": {\"name\": \"a\"}\n}\n",
			want: "1 Service default/a [] []\n",
		},
		{
			name: "document that begins on its separator", text: "--- {apiVersion: v1, kind: Service, metadata: {name: a}}\n--- # the next\n{apiVersion: v1, kind: Service, metadata: {name: b}}\n...\n",
			want: "1 Service default/a [] []\n3 Service default/b [] []\n",
		},
		{
			name: "Windows line ends", text: strings.ReplaceAll(web, "\n", "\r\n"),
			want: "3 Service default/web [10.96.0.10] [{ TCP 80 0}]\n12 EndpointSlice default/web-1 for default/web: 10.0.0.1 10.0.0.2\n",
		},
		{
			name: "lists", text: "{apiVersion: v1, kind: List, items: [{apiVersion: v1, kind: Service, metadata: {name: a}}, {apiVersion: v1, kind: List, items: [{apiVersion: v1, kind: Node, metadata: {name: n1}}]}]}\n" +
				"---\n{apiVersion: v1, kind: ServiceList, items: [{metadata: {name: b}}]}\n",
			want: "1 Service default/a [] []\n1 Node n1 []\n3 Service default/b [] []\n",
		},
		{
			name: "all kinds", text: "{apiVersion: v1, kind: Node, metadata: {name: n1}, status: {addresses: [{type: InternalIP, address: 192.0.2.1}]}}\n---\n" +
				"{apiVersion: networking.k8s.io/v1, kind: ServiceCIDR, metadata: {name: c}, spec: {cidrs: [10.96.0.0/12]}}\n",
			want: "1 Node n1 [192.0.2.1]\n3 ServiceCIDR c [10.96.0.0/12]\n",
		},
		{
			name: "other kinds", text: "{apiVersion: apps/v1, kind: Deployment}\n---\n{apiVersion: serving.knative.dev/v1, kind: Service, metadata: {name: a}}",
			want: "ignored Deployment (line 1)\nignored Service (line 3)\n",
		},
		{
			name: "another version of our kinds", text: "{apiVersion: discovery.k8s.io/v1beta1, kind: EndpointSlice, metadata: {name: a}}",
			want: "f.yaml:1: EndpointSlice : apiVersion: \"discovery.k8s.io/v1beta1\" is not \"discovery.k8s.io/v1\"\n",
		},
		{
			name: "no name", text: "{apiVersion: v1, kind: Service, metadata: {namespace: a}}",
			want: "f.yaml:1: Service a/: metadata.name: there is none\n",
		},
		{
			name: "unknown field", text: "\n{apiVersion: v1, kind: Service, metadata: {name: a}, spec: {clusterIp: 10.96.0.1}}",
			want: "2 Service default/a [] []\nf.yaml:2: Service default/a: unknown field \"spec.clusterIp\"\n",
		},
		{
			name: "the same key twice", text: "apiVersion: v1\nkind: Service\nmetadata:\n  name: a\n  name: b\n",
			want: "1 Service default/b [] []\nf.yaml:5: Manifest f.yaml: key \"name\" already set in map\n",
		},
		{
			name: "fields that make no sense", text: "{apiVersion: v1, kind: Service, metadata: {name: a}, spec: {clusterIP: nonsense}}\n---\n{apiVersion: discovery.k8s.io/v1, kind: EndpointSlice, metadata: {name: a, labels: {kubernetes.io/service-name: a}}}",
			want: "1 Service default/a [] []\n3 EndpointSlice default/a\nf.yaml:1: Service default/a: spec.clusterIPs[0]: \"nonsense\" is not an IP address\nf.yaml:3: EndpointSlice default/a: addressType: \"\" is neither IPv4 nor IPv6\n",
		},
		{
			name: "pods, which nobody reads", text: "{apiVersion: v1, kind: Pod, metadata: {name: a}}",
			want: "ignored Pod (line 1)\n",
		},
		{
			name: "ExternalName", text: "{apiVersion: v1, kind: Service, metadata: {name: a}, spec: {type: ExternalName}}",
			want: "1 Service default/a\n",
		},
	} {
		t.Run(tt.name, func(t *testing.T) {
			c, err := decode("f.yaml", []byte(tt.text), false, "")
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(tt.want, summary(c)); diff != "" {
				t.Errorf("-want +got\n%s", diff)
			}
		})
	}
}

func TestDecodeErrors(t *testing.T) {
	for _, tt := range []struct {
		name, text string
		line       int
		reason     string
	}{
		{name: "bad indentation", text: web + "---\nkind: Service\n metadata: {}\n", line: 27, reason: "mapping values are not allowed in this context"},
		{name: "open bracket", text: "kind: [Service\n", line: 1, reason: "did not find expected ',' or ']'"},
		{name: "tab", text: "kind: Service\nspec:\n\tports: []\n", line: 3, reason: "found character that cannot start any token"},
		{name: "no kind", text: "---\n\nmetadata: {name: a}\n", line: 3, reason: "there is no kind"},
		{name: "text", text: "hello\n", line: 1, reason: "cannot unmarshal string"},
		{name: "wrong type", text: "# x\napiVersion: v1\nkind: Service\nmetadata: {name: a}\nspec: {ports: [{port: http}]}\n", line: 2, reason: "cannot unmarshal string into Go struct field"},
		{name: "wrong type in a list", text: "{apiVersion: v1, kind: List, items: [7]}", line: 1, reason: "cannot unmarshal number"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			_, err := decode("f.yaml", []byte(tt.text), false, "")
			var at *syntaxError
			if !errors.As(err, &at) {
				t.Fatalf("no syntax error: %v", err)
			}
			if at.line != tt.line || !strings.Contains(err.Error(), tt.reason) {
				t.Errorf("line %d: %v; want line %d: %s", at.line, err, tt.line, tt.reason)
			}
		})
	}
}

func FuzzManifest(f *testing.F) {
	f.Add([]byte(web))
	f.Add([]byte("{apiVersion: v1, kind: List, items: [{apiVersion: v1, kind: Service, metadata: {name: a}, spec: {ports: [{port: 1}]}}]}"))
	f.Add([]byte("--- {apiVersion: networking.k8s.io/v1, kind: ServiceCIDR, metadata: {name: c}, spec: {cidrs: [10.96.0.0/12]}}\n..."))
	f.Add([]byte("a: &a [*a]\n---\n? {}: b\n"))
	f.Fuzz(func(t *testing.T, b []byte) {
		c, err := decode("f.yaml", b, true, "here")
		lines := strings.Count(string(b), "\n") + 1
		if at := (*syntaxError)(nil); err != nil && (!errors.As(err, &at) || at.line < 1) {
			t.Errorf("error without a line: %v", err)
		}
		for _, o := range c.objects {
			if o.id.name.Name == "" || o.line < 1 || o.line > lines {
				t.Errorf("object %v at line %d of %d", o.id, o.line, lines)
			}
			if o.service != nil && o.service.Name != o.id.name || o.slice != nil && o.slice.Name != o.id.name {
				t.Errorf("%v has a value of another name", o.id)
			}
		}
	})
}

// write writes a file in place.
func write(t *testing.T, path, text string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
}

// put renames a file into place.
func put(t *testing.T, path, text string) {
	t.Helper()
	write(t, path+".new", text)
	must(t, os.Rename(path+".new", path))
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func serviceText(name, ip string) string {
	return fmt.Sprintf("apiVersion: v1\nkind: Service\nmetadata: {name: %s}\nspec: {clusterIP: %s, ports: [{port: 80}]}\n", name, ip)
}

// TestPods follows the manifests of pods on this node.
func TestPods(t *testing.T) {
	dir := t.TempDir()
	const pod = "{apiVersion: v1, kind: Pod, metadata: {name: %s}, spec: {nodeName: %s}, status: {podIP: %s}}\n---\n"
	path := filepath.Join(dir, "pods.yaml")
	write(t, path, fmt.Sprintf(pod, "a", "here", "10.0.0.1")+fmt.Sprintf(pod, "b", "there", "10.0.0.2"))
	told := make(pods, 10)
	start(t, dir, func(c *Config) { c.Pods = told })
	told.expect(t, "replace [default/a]")
	write(t, path, fmt.Sprintf(pod, "a", "here", "10.0.0.3"))
	told.expect(t, "set default/a [10.0.0.3]")
	write(t, path, "")
	told.expect(t, "delete default/a")
}

// pods writes down what it is told.
type pods chan string

func (p pods) ReplacePods(list []*endpoints.Pod) {
	var names []string
	for _, pod := range list {
		names = append(names, pod.Name.String())
	}
	p <- fmt.Sprint("replace ", names)
}
func (p pods) SetPod(pod *endpoints.Pod)     { p <- fmt.Sprint("set ", pod.Name, " ", pod.Addrs) }
func (p pods) DeletePod(name endpoints.Name) { p <- fmt.Sprint("delete ", name) }

func (p pods) expect(t *testing.T, want string) {
	t.Helper()
	select {
	case got := <-p:
		if got != want {
			t.Errorf("told %q, want %q", got, want)
		}
	case <-time.After(20 * time.Second):
		t.Fatalf("never told %q", want)
	}
}
