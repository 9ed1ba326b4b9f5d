package dns

import (
	"bytes"
	"errors"
	"fmt"
	"net/netip"
	"sync/atomic"
	"time"

	"github.com/weir-project/weir/endpoints"
)

// Config says what a Zone is called and how it answers.
type Config struct {
	Domain string        // "": cluster.local
	TTL    time.Duration // of records; 0: 5 s
	// ZeroTTL asks for a TTL of 0.
	ZeroTTL bool
	// NoPods leaves out the names of pods by their addresses (1-2-3-4.namespace.pod).
	NoPods bool
	// Servers are the addresses of the zone's name server, ns.dns under the domain. Of either family
	// there may be none.
	Servers []netip.Addr
}

const (
	defaultDomain = "cluster.local"
	defaultTTL    = 5 * time.Second
	maxTTL        = time.Hour
	// maxNegative is how long nobody may remember that there is no such name: a name that appears
	// is seen within that.
	maxNegative = 5 * time.Second
	// maxDomain leaves room for what stands in front, and for two copies of it in a SOA record.
	maxDomain = 100
)

// version is what the zone keeps to: Kubernetes DNS-Based Service Discovery.
const (
	version    = "1.1.0"
	versionTTL = 28800
)

// Zone holds the names of a cluster. One goroutine may call Update while any number asks.
type Zone struct {
	domain   []byte // in wire form
	labels   int    // of domain
	noPods   bool
	ttl      uint32 // seconds
	negative uint32
	ns4, ns6 []netip.Addr
	nsName   []byte // in wire form
	soa      []byte // RDATA, but for the serial
	serial   atomic.Uint32

	services   table[answers] // by the labels of service and namespace
	namespaces table[space]   // by label
	addresses  table[reverse] // by address, 4 or 16 bytes

	known  map[endpoints.Name]*service // what Update has built
	spaces map[string]space
	list   []*endpoints.Slice // working memory of Update
	ready  chan struct{}      // closed once the source has synced
}

// space says why there is a namespace.
type space struct {
	object   bool
	services int
}

// answers are what there is to say of a service and the names below it. A value does not change,
// but for hosts, where each name is replaced by itself.
type answers struct {
	wire  []byte // the service's name
	alias []byte // the name that an ExternalName service stands for; nil: it is none
	bare  bool   // headless: without an endpoint there is no such name

	v4    vec[[4]byte]
	v6    vec[[16]byte]
	all   vec[target] // ports and, of a headless service, endpoints: each once
	ports []group     // that have a name
	hosts *table[host]
}

// group is what is found at _port._protocol under a service.
type group struct {
	port, protocol string // labels, with underscores
	targets        vec[target]
}

// target is what one SRV record points to.
type target struct {
	host string // the label of an endpoint; "" is the service
	port uint16
}

// host is an endpoint, or all that go by one hostname. A value does not change.
type host struct {
	v4 [][4]byte
	v6 [][16]byte
}

// reverse is whom an address belongs to. A value does not change.
type reverse struct {
	services []*service // whose cluster IP it is, by name; the first counts
	hosts    []hostName // otherwise all of these
}

type hostName struct {
	service *service
	label   string
}

// NewZone returns a zone without services.
func NewZone(c Config) (*Zone, error) {
	if c.Domain == "" {
		c.Domain = defaultDomain
	}
	if c.TTL == 0 && !c.ZeroTTL {
		c.TTL = defaultTTL
	}
	if c.TTL < 0 || c.TTL > maxTTL {
		return nil, fmt.Errorf("TTL %v is not between 0s and %v", c.TTL, maxTTL)
	}
	domain, err := parseName(c.Domain)
	if err != nil {
		return nil, fmt.Errorf("cluster domain: %w", err)
	}
	if len(domain) > maxDomain {
		return nil, errors.New("cluster domain: " + c.Domain + " is too long")
	}
	z := &Zone{
		domain: domain, noPods: c.NoPods,
		ttl: uint32(c.TTL / time.Second), negative: uint32(min(c.TTL, maxNegative) / time.Second),
		known: map[endpoints.Name]*service{}, spaces: map[string]space{}, ready: make(chan struct{}),
	}
	var n name
	n.read(domain)
	z.labels = n.count
	for _, a := range c.Servers {
		if a.Is4() {
			z.ns4 = append(z.ns4, a)
		} else {
			z.ns6 = append(z.ns6, a)
		}
	}
	z.serial.Store(uint32(time.Now().Unix()))
	z.nsName = append([]byte("\x02ns\x03dns"), domain...)
	z.soa = z.newSOA()
	return z, nil
}

// newSOA returns the RDATA of the zone's SOA record, with serial 0.
func (z *Zone) newSOA() []byte {
	b := append([]byte(nil), z.nsName...)
	b = append(append(b, "\x0ahostmaster"...), z.domain...)
	for _, n := range []uint32{0, 7200, 1800, 86400, z.negative} { // serial, refresh, retry, expire, minimum
		b = append(b, byte(n>>24), byte(n>>16), byte(n>>8), byte(n))
	}
	return b
}

// Domain returns the zone's name, in presentation form with a dot at the end.
func (z *Zone) Domain() string { return presentation(z.domain) }

// presentation writes a name for people.
func presentation(wire []byte) string {
	var b []byte
	for at := 0; at < len(wire) && wire[at] != 0; at += int(wire[at]) + 1 {
		b = append(append(b, wire[at+1:at+1+int(wire[at])]...), '.')
	}
	return string(b)
}

// kind is what a name is.
type kind uint8

const (
	outside kind = iota // of the zone
	missing             // in the zone, but there is none
	empty               // there are names below it
	apex
	versionName
	serverName
	serviceName
	hostNode
	portNode
	podName
	addressName // of the reverse tree
)

// node is what a zone has at a name.
type node struct {
	kind kind
	apex int // the label at which the zone begins
	svc  *answers
	host *host
	port *group
	addr netip.Addr
	back *reverse
}

// find looks a name up.
func (z *Zone) find(n *name) node {
	rest := n.count - z.labels
	if rest < 0 || !bytes.Equal(n.from(rest), z.domain) {
		return z.findAddress(n)
	}
	found := node{apex: rest}
	if rest == 0 {
		found.kind = apex
		return found
	}
	switch string(n.label(rest - 1)) {
	case "svc":
		z.findService(n, rest-1, &found)
	case "pod":
		z.findPod(n, rest-1, &found)
	case "dns-version":
		found.kind = missing
		if rest == 1 {
			found.kind = versionName
		}
	case "dns":
		switch {
		case rest == 1:
			found.kind = empty
		case rest == 2 && string(n.label(0)) == "ns":
			found.kind = serverName
		default:
			found.kind = missing
		}
	default:
		found.kind = missing
	}
	return found
}

// findAddress looks up a name of the reverse tree. Each address that we know is a zone of its own;
// all others are somebody else's.
func (z *Zone) findAddress(n *name) node {
	a, ok := n.reverse()
	if !ok {
		return node{kind: outside}
	}
	if back := z.back(a); back != nil {
		return node{kind: addressName, back: back}
	}
	return node{kind: outside}
}

func (z *Zone) back(a netip.Addr) *reverse {
	if a.Is4() {
		b := a.As4()
		return z.addresses.get(b[:])
	}
	b := a.As16()
	return z.addresses.get(b[:])
}

// findSpace looks up a namespace below svc or pod.
func (z *Zone) findSpace(n *name, at int) kind {
	if z.namespaces.get(n.label(at)) == nil {
		return missing
	}
	return empty
}

// findService looks up a name of below labels under svc.
func (z *Zone) findService(n *name, below int, found *node) {
	found.kind = missing
	switch {
	case below == 0:
		found.kind = empty
		return
	case below == 1:
		found.kind = z.findSpace(n, 0)
		return
	case below > 4:
		return
	}
	svc := z.services.get(n.wire[n.labels[below-2]:n.labels[below]])
	if svc == nil || svc.bare && svc.v4.n+svc.v6.n == 0 {
		return
	}
	found.svc = svc
	switch below {
	case 2:
		found.kind = serviceName
	case 3:
		svc.findBelow(n.label(0), found)
	case 4:
		for i := range svc.ports {
			g := &svc.ports[i]
			if g.port == string(n.label(0)) && g.protocol == string(n.label(1)) {
				found.kind, found.port = portNode, g
				return
			}
		}
	}
}

// findBelow looks up one label under a service: an endpoint, or the protocol of a port with a name.
func (svc *answers) findBelow(label []byte, found *node) {
	if label[0] == '_' {
		for i := range svc.ports {
			if svc.ports[i].protocol == string(label) {
				found.kind = empty
				return
			}
		}
		return
	}
	if found.host = svc.hosts.get(label); found.host != nil {
		found.kind = hostNode
	}
}

// findPod looks up a name of below labels under pod.
func (z *Zone) findPod(n *name, below int, found *node) {
	found.kind = missing
	if z.noPods {
		return
	}
	switch below {
	case 0:
		found.kind = empty
	case 1:
		found.kind = z.findSpace(n, 0)
	case 2:
		if z.findSpace(n, 1) == missing {
			return
		}
		if a, ok := undash(n.label(0)); ok {
			found.kind, found.addr = podName, a
		}
	}
}
