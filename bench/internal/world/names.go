package world

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"

	"github.com/weir-project/weir/dns/dnstest"
)

// NamesPort is where servers of names answer, at 127.0.0.1 in the node, and upstreamPort where the server
// is that they ask for other names.
const (
	NamesPort    = 5300
	upstreamPort = 5400
)

// WeirDNS is the server of names in weir's binary.
func WeirDNS(binary string) Proxy {
	return Proxy{Name: "weir", Command: func(w *World) ([]string, error) {
		return []string{binary, "dns", "--kubeconfig", w.Cluster.AdminKubeconfig, "--listen", address(NamesPort),
			"--upstream", address(upstreamPort)}, nil
	}}
}

func address(port int) string { return fmt.Sprintf("127.0.0.1:%d", port) }

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
`, NamesPort, address(upstreamPort))
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
	tcp, err := w.Node.Listen("tcp4", address(upstreamPort))
	if err != nil {
		return err
	}
	udp, err := w.Node.ListenPacket("udp4", address(upstreamPort))
	if err != nil {
		_ = tcp.Close()
		return err
	}
	w.closers = append(w.closers, dnstest.ServeOn(tcp, udp, answer))
	return nil
}
