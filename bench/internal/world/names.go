package world

import (
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strconv"

	"github.com/weir-project/weir/dns/dnstest"
)

// NamesAddr is where servers of names answer in the node, and upstreamAddr where the server is that
// they ask for other names.
var (
	NamesAddr    = netip.MustParseAddrPort("127.0.0.1:5300")
	upstreamAddr = netip.MustParseAddrPort("127.0.0.1:5400")
)

// WeirDNS is the server of names in weir's binary.
func WeirDNS(binary string) Proxy {
	return Proxy{Name: "weir", Command: func(w *World) ([]string, error) {
		return []string{binary, "dns", "--kubeconfig", w.Cluster.AdminKubeconfig, "--listen", NamesAddr.String(),
			"--upstream", upstreamAddr.String()}, nil
	}}
}

// WithNames is Weir as a proxy that answers at the cluster's DNS address too, or Weir alone; both may read
// what names take.
func WithNames(weir Proxy, names bool) Proxy {
	command := weir.Command
	weir.Command = func(w *World) ([]string, error) {
		argv, err := command(w)
		argv = append(argv, "--kubeconfig", w.Cluster.AdminKubeconfig)
		if names {
			argv = append(argv, "--dns-address", "10.96.0.10", "--dns-upstream", upstreamAddr.String())
		}
		return argv, err
	}
	return weir
}

// CoreDNS is CoreDNS with the Corefile of kubeadm 1.36, and the API server found as pods find it.
func CoreDNS(binary string) Proxy {
	return Proxy{Name: "coredns", Command: func(w *World) ([]string, error) {
		path := filepath.Join(w.dir, "Corefile")
		text := fmt.Sprintf(`.:%d {
    bind 127.0.0.1
    errors
    health 127.0.0.1:5301 {
        lameduck 5s
    }
    ready 127.0.0.1:5302
    kubernetes cluster.local in-addr.arpa ip6.arpa {
        pods insecure
        fallthrough in-addr.arpa ip6.arpa
        ttl 30
    }
    prometheus 127.0.0.1:9153
    forward . %s {
        max_concurrent 1000
    }
    cache 30 {
        disable success cluster.local
        disable denial cluster.local
    }
    loop
    reload
    loadbalance
}
`, NamesAddr.Port(), upstreamAddr)
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			return nil, err
		}
		return w.Cluster.AsPod(binary, "-conf", path)
	}}
}

// OnCore is a proxy that may use one processor only, and knows.
func OnCore(p Proxy, core int) Proxy {
	command := p.Command
	p.Command = func(w *World) ([]string, error) {
		argv, err := command(w)
		return append([]string{"env", "GOMAXPROCS=1", "taskset", "-c", strconv.Itoa(core)}, argv...), err
	}
	return p
}

// ServeElsewhere starts the server that is asked for names that are not the cluster's. It ends with the
// world.
func (w *World) ServeElsewhere(answer dnstest.Answer) error {
	tcp, err := w.Node.Listen("tcp4", upstreamAddr.String())
	if err != nil {
		return err
	}
	udp, err := w.Node.ListenPacket("udp4", upstreamAddr.String())
	if err != nil {
		_ = tcp.Close()
		return err
	}
	w.closers = append(w.closers, dnstest.ServeOn(tcp, udp, answer))
	return nil
}
