//go:build linux

package packets

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/weir-project/weir/internal/netlab"
)

// What a load balancer finds at the healthCheckNodePort, step by step.
func TestNetnsHealthCheckNodePort(t *testing.T) {
	t.Parallel()
	lab, _ := newLab(t, netlab.Config{})
	d := newDaemon(t, lab, clusterCIDR...)
	w := world{name: "health-check", steps: []step{{}}}
	if err := d.first(&w); err != nil {
		t.Fatal(err)
	}
	client := lab.Host("client")
	transport := &http.Transport{DisableKeepAlives: true, DialContext: func(ctx context.Context, network, addr string) (net.Conn, error) {
		return client.Dial(ctx, network, addr)
	}}
	get := func(url string) string {
		c := http.Client{Transport: transport, Timeout: 5 * time.Second}
		r, err := c.Get(url)
		if err != nil {
			return "nobody listens"
		}
		defer r.Body.Close()
		var body struct {
			Service struct {
				Namespace, Name string
			}
			LocalEndpoints      int
			ServiceProxyHealthy bool
		}
		text, _ := io.ReadAll(r.Body)
		if err := json.Unmarshal(text, &body); err != nil {
			return fmt.Sprintf("%s: %v", text, err)
		}
		return fmt.Sprintf("%d %s/%s %d %v, weight %s", r.StatusCode, body.Service.Namespace, body.Service.Name,
			body.LocalEndpoints, body.ServiceProxyHealthy, strings.Join(r.Header["X-Load-Balancing-Endpoint-Weight"], " "))
	}
	for _, tt := range []struct{ name, over, want string }{
		{"two ready endpoints on the node", "", "200 default/checked 2 true, weight 2"},
		{"endpoints elsewhere", "away", "503 default/checked 0 true, weight 0"},
		{"terminating endpoints do not count", "leaving", "503 default/checked 0 true, weight 0"},
		{"externalTrafficPolicy became Cluster", "cluster", "nobody listens"},
		{"and Local again", "", "200 default/checked 2 true, weight 2"},
		{"service removed", "removed", "nobody listens"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			d.turn(t, &w, tt.over)
			for _, url := range []string{"http://172.31.0.11:31400/", "http://[fd00:31::11]:31400/any/path"} {
				var got string
				for deadline := time.Now().Add(5 * time.Second); got != tt.want && time.Now().Before(deadline); time.Sleep(10 * time.Millisecond) {
					got = get(url)
				}
				if got != tt.want {
					t.Errorf("%s: %s; want %s", url, got, tt.want)
				}
			}
		})
	}
	d.finish(t)
}
