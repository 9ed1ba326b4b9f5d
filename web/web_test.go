package web

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/weir-project/weir/dns"
	"github.com/weir-project/weir/endpoints"
	"github.com/weir-project/weir/inspect/api"
)

// node has services with three endpoints each, the first of which is not ready.
type node struct {
	names  []endpoints.Name
	asked  int // for one service
	events []api.Event
}

func (n *node) Status() api.Status { return api.Status{Node: "node1", Healthy: true} }

func (n *node) Events(after uint64) api.EventList {
	var list api.EventList
	for _, e := range n.events {
		if e.ID > after {
			list.Items = append(list.Items, e)
		}
	}
	return list
}

func (n *node) Service(name endpoints.Name, withEndpoints bool) (api.Service, bool) {
	n.asked++
	for _, o := range n.names {
		if o != name {
			continue
		}
		p := api.ServicePort{Port: 80, Protocol: "TCP", NodePort: 30080, Family: "IPv4", Ready: 2, Total: 3, Frontends: []api.ServiceFrontend{
			{Kind: "ClusterIP", Address: netip.MustParseAddr("10.96.0.10")}, {Kind: "NodePort", Address: netip.MustParseAddr("172.31.0.11")}}}
		for i := range 3 {
			if withEndpoints {
				p.Endpoints = append(p.Endpoints, api.Endpoint{Address: netip.AddrFrom4([4]byte{10, 244, 0, byte(i)}), Zone: "z1", Node: fmt.Sprint("n", i/2), Ready: i > 0})
			}
		}
		return api.Service{Namespace: name.Namespace, Name: name.Name, Ports: []api.ServicePort{p}}, true
	}
	return api.Service{}, false
}

func cluster(n int) *node {
	c := &node{}
	for i := range n {
		c.names = append(c.names, endpoints.Name{Namespace: fmt.Sprintf("ns-%d", i%10), Name: fmt.Sprintf("web-%05d", i)})
	}
	return c
}

func (n *node) handler(c Config) http.Handler {
	c.Inspector, c.Services = n, func() []endpoints.Name { return n.names }
	return Handler(c)
}

func get(t *testing.T, h http.Handler, path string, into any) {
	t.Helper()
	w := httptest.NewRecorder()
	h.ServeHTTP(w, httptest.NewRequest("GET", path, nil))
	if w.Code != 200 {
		t.Fatalf("GET %s: %d %s", path, w.Code, w.Body)
	}
	if err := json.Unmarshal(w.Body.Bytes(), into); err != nil {
		t.Fatalf("GET %s: %v", path, err)
	}
}

func TestServices(t *testing.T) {
	tests := []struct {
		name, query            string
		matched, offset, items int
		first                  string
	}{
		{"the first page", "", 50_000, 0, 100, "web-00000"},
		{"another", "?offset=200", 50_000, 200, 100, "web-00200"},
		{"beyond the end", "?offset=99999999999", 50_000, 49_900, 100, "web-49900"},
		{"a name", "?q=WEB-00017", 1, 0, 1, "web-00017"},
		{"a namespace", "?q=ns-3/", 5_000, 0, 100, "web-00003"},
		{"words", "?q=ns-3+7", 1355, 0, 100, "web-00073"},
		{"nothing", "?q=<script>&offset=100", 0, 0, 0, ""},
	}
	n := cluster(50_000)
	h := n.handler(Config{})
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			n.asked = 0
			var p Page
			get(t, h, "/data/services"+tt.query, &p)
			if p.Total != 50_000 || p.Matched != tt.matched || p.Offset != tt.offset || len(p.Items) != tt.items {
				t.Errorf("%d of %d from %d, %d here; want %d from %d, %d here", p.Matched, p.Total, p.Offset, len(p.Items), tt.matched, tt.offset, tt.items)
			}
			if tt.items > 0 && p.Items[0].Name != tt.first {
				t.Errorf("first is %s, want %s", p.Items[0].Name, tt.first)
			}
			if n.asked > pageSize {
				t.Errorf("%d services looked at for a page of %d", n.asked, pageSize)
			}
		})
	}
}

func TestService(t *testing.T) {
	h := cluster(3).handler(Config{})
	var s Service
	get(t, h, "/data/service?namespace=ns-1&name=web-00001", &s)
	want := [][]Place{{{Zone: "z1", Node: "n0", Ready: 1, Total: 2}, {Zone: "z1", Node: "n1", Ready: 1, Total: 1}}}
	if diff := cmp.Diff(want, s.Places); diff != "" {
		t.Errorf("places (-want +got):\n%s", diff)
	}
	var p Page
	get(t, h, "/data/services?q=web-00001", &p)
	row := Row{Namespace: "ns-1", Name: "web-00001", Addresses: []string{"10.96.0.10"}, Ports: []string{"80/TCP (node 30080)"}, Ready: 2, Total: 3}
	if diff := cmp.Diff([]Row{row}, p.Items); diff != "" {
		t.Errorf("row (-want +got):\n%s", diff)
	}
}

func TestManyEndpointsAreCut(t *testing.T) {
	list := make([]api.Endpoint, 100_000)
	for i := range list {
		list[i] = api.Endpoint{Node: fmt.Sprint("n", i%5000), Ready: true}
	}
	if got := places(list); len(got) != maxPlaces || got[0].Total != 20 {
		t.Errorf("%d places, the first with %d endpoints", len(got), got[0].Total)
	}
}

func TestOverview(t *testing.T) {
	n := cluster(1)
	for i := range 300 {
		n.events = append(n.events, api.Event{ID: uint64(i + 1), Services: 2, Changes: []api.ServiceChange{{Service: "default/web"}}})
	}
	stats := &dns.Stats{Requests: []dns.Count{{Zone: ".", N: 3}, {Zone: ".", N: 4}, {Zone: "cluster.local.", N: 5}}, Responses: []dns.Count{{Label: "NOERROR", N: 12}}}
	h := n.handler(Config{DNS: func() *dns.Stats { return stats }})
	var o Overview
	get(t, h, "/data/overview", &o)
	if len(o.Syncs) != shownSyncs || o.Syncs[0].ID != 181 || o.Syncs[0].What != "default/web and 1 more" {
		t.Errorf("%d syncs, the first is %+v", len(o.Syncs), o.Syncs[0])
	}
	if diff := cmp.Diff(&DNS{Queries: map[string]uint64{".": 7, "cluster.local.": 5}, Responses: map[string]uint64{"NOERROR": 12}}, o.DNS); diff != "" {
		t.Errorf("DNS (-want +got):\n%s", diff)
	}
	get(t, h, "/data/overview?after=299", &o)
	if len(o.Syncs) != 1 {
		t.Errorf("%d syncs after 299 of 300", len(o.Syncs))
	}
}

func TestGuard(t *testing.T) {
	tests := []struct {
		name, method, host, path, site string
		loopback                       bool
		code                           int
	}{
		{"a browser", "GET", "127.0.0.1:10257", "/", "none", true, 200},
		{"by name", "GET", "LocalHost:8080", "/data/overview", "same-origin", true, 200},
		{"IPv6", "GET", "[::1]:10257", "/data/services", "", true, 200},
		{"without a port", "HEAD", "127.0.0.1", "/page.js", "", true, 200},
		{"a name that leads here", "GET", "evil.example:10257", "/data/overview", "same-origin", true, 421},
		{"one that begins like ours", "GET", "localhost.evil.example", "/", "", true, 421},
		{"no name", "GET", "", "/", "", true, 421},
		{"an address that others reach", "GET", "node1.example:10257", "/data/overview", "", false, 200},
		{"another site asks", "GET", "127.0.0.1:10257", "/data/overview", "cross-site", true, 403},
		{"a subdomain asks", "GET", "127.0.0.1:10257", "/data/overview", "same-site", true, 403},
		{"a link from another site", "GET", "127.0.0.1:10257", "/", "cross-site", true, 200},
		{"writing", "POST", "127.0.0.1:10257", "/data/overview", "", true, 405},
		{"asking whether it may", "OPTIONS", "127.0.0.1:10257", "/data/overview", "cross-site", true, 405},
		{"elsewhere", "GET", "127.0.0.1:10257", "/etc/passwd", "", true, 404},
		{"no number", "GET", "127.0.0.1:10257", "/data/services?offset=x", "", true, 400},
		{"no such service", "GET", "127.0.0.1:10257", "/data/service?namespace=a&name=b", "", true, 404},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			r := httptest.NewRequest(tt.method, tt.path, nil)
			r.Host = tt.host
			if tt.site != "" {
				r.Header.Set("Sec-Fetch-Site", tt.site)
			}
			w := httptest.NewRecorder()
			cluster(1).handler(Config{Loopback: tt.loopback}).ServeHTTP(w, r)
			if w.Code != tt.code {
				t.Errorf("%d %s, want %d", w.Code, w.Body, tt.code)
			}
			h := w.Header()
			if h.Get("Content-Security-Policy") != policy || h.Get("X-Content-Type-Options") != "nosniff" || h.Get("Access-Control-Allow-Origin") != "" {
				t.Errorf("headers %v", h)
			}
		})
	}
}

// What is loaded is ours, and nothing is inline that the policy would not allow.
func TestPageIsSelfContained(t *testing.T) {
	h := cluster(1).handler(Config{})
	for _, path := range []string{"/", "/page.css", "/page.js", "/icon.svg"} {
		w := httptest.NewRecorder()
		h.ServeHTTP(w, httptest.NewRequest("GET", path, nil))
		body := strings.ReplaceAll(w.Body.String(), "http://www.w3.org/2000/svg", "")
		if w.Code != 200 || len(body) < 100 {
			t.Errorf("%s: %d, %d bytes", path, w.Code, len(body))
		}
		for _, never := range []string{"http://", "https://", "@import", "innerHTML", "outerHTML", "insertAdjacentHTML", "eval(", " style=", " onclick=", "localStorage"} {
			if strings.Contains(body, never) {
				t.Errorf("%s holds %q", path, never)
			}
		}
	}
}
