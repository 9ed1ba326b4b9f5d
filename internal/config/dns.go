package config

import (
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/spf13/pflag"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"github.com/weir-project/weir/dns"
	"github.com/weir-project/weir/dns/forward"
)

// DNS is how the cluster's names are answered on this node. Without addresses they are not.
type DNS struct {
	Addrs      []netip.Addr // the cluster DNS address, or one in each family, or more
	AnswerAll  bool         // clients that are neither pods nor this node, too
	Upstreams  []netip.AddrPort
	Domain     string
	TTL        time.Duration
	NoPods     bool // no names of pods by their addresses
	LogQueries bool
	SearchWalk bool // follow this node's pods, for their search lists
}

// dnsOptions are the flags of DNS as they were given.
type dnsOptions struct {
	addrs, upstreams      []string
	domain, pods          string
	ttl                   uint32
	answerAll, logQueries bool
	searchWalk            bool
}

func (o *dnsOptions) addFlags(fs *pflag.FlagSet) {
	fs.StringSliceVar(&o.addrs, "dns-address", nil, "The cluster DNS address, which is then served on this node: one or more, of either family, comma-separated. Default: none, no DNS.")
	fs.BoolVar(&o.answerAll, "dns-answer-all", false, "Answer clients at --dns-address that are neither pods nor this node, too. Default: false.")
	fs.StringSliceVar(&o.upstreams, "dns-upstream", nil, "Servers to ask for names outside the cluster: IP or IP:port, comma-separated. Default: those of /etc/resolv.conf, which is followed.")
	fs.StringVar(&o.domain, "cluster-domain", "cluster.local", "The cluster's domain, for DNS.")
	fs.Uint32Var(&o.ttl, "dns-ttl", 5, "Seconds for which clients may remember an answer about the cluster.")
	fs.StringVar(&o.pods, "dns-pods", "insecure", "Names of pods by their addresses: insecure (whatever the address, in namespaces that exist) or disabled.")
	fs.BoolVar(&o.logQueries, "dns-log-queries", false, "Log every DNS query. Default: false.")
	fs.BoolVar(&o.searchWalk, "dns-search-walk", false, "Follow the pods of this node, and answer the first name of a walk through their search lists with its end. Default: false.")
}

// overlayDNS lays what the flags say of DNS over c.
func (o *Options) overlayDNS(r *resolver, c *Config) {
	d := &o.dns
	if len(d.addrs) == 0 {
		for _, name := range []string{"dns-answer-all", "dns-upstream", "cluster-domain", "dns-ttl", "dns-pods", "dns-log-queries", "dns-search-walk"} {
			if o.ownFlags.Changed(name) {
				r.warn("without effect: --%s, as there is no --dns-address", name)
			}
		}
		return
	}
	c.DNS = DNS{
		Addrs: r.dnsAddrs(d.addrs), Upstreams: r.upstreams(d.upstreams),
		AnswerAll: d.answerAll, Domain: d.domain, TTL: time.Duration(d.ttl) * time.Second, NoPods: d.pods == "disabled", LogQueries: d.logQueries, SearchWalk: d.searchWalk,
	}
	if d.pods != "insecure" && d.pods != "disabled" {
		r.fault(field.NotSupported(field.NewPath("--dns-pods"), d.pods, []string{"insecure", "disabled"}))
	}
	if _, err := dns.NewZone(dns.Config{Domain: d.domain}); err != nil {
		r.fault(field.Invalid(field.NewPath("--cluster-domain"), d.domain, err.Error()))
	} else if _, err := dns.NewZone(dns.Config{TTL: c.DNS.TTL, ZeroTTL: true}); err != nil {
		r.fault(field.Invalid(field.NewPath("--dns-ttl"), d.ttl, err.Error()))
	}
	if c.DNS.AnswerAll {
		return
	}
	for _, a := range c.DNS.Addrs {
		if !c.LocalDetection.tells(a) {
			r.warn("pods cannot be told from other clients of %s (--detect-local-mode, --cluster-cidr): only this node is answered there; --dns-answer-all answers everybody", a)
		}
	}
}

// tells reports whether there is a way to tell pods from others in an address's family.
func (d *LocalDetection) tells(a netip.Addr) bool {
	switch d.Mode {
	case DetectNone:
		return false
	case DetectClusterCIDR:
		return slices.ContainsFunc(d.ClusterCIDRs, func(c netip.Prefix) bool { return c.Addr().Is4() == a.Is4() })
	}
	return true
}

func (r *resolver) dnsAddrs(list []string) []netip.Addr {
	path := field.NewPath("--dns-address")
	var addrs []netip.Addr
	for i, s := range list {
		a, ok := parseAddr(strings.TrimSpace(s))
		switch {
		case !ok || a.IsUnspecified() || a.IsMulticast() || a.IsLoopback() || a.IsLinkLocalUnicast() || a.Zone() != "":
			r.fault(field.Invalid(path.Index(i), s, "must be an IP address, such as the cluster IP of the Service kube-dns"))
		case slices.Contains(addrs, a):
			r.warn("%s has %s more than once", path, a)
		default:
			addrs = append(addrs, a)
		}
	}
	return addrs
}

func (r *resolver) upstreams(list []string) []netip.AddrPort {
	var servers []netip.AddrPort
	for i, s := range list {
		a, err := forward.ParseUpstream(s)
		if err != nil {
			r.fault(field.Invalid(field.NewPath("--dns-upstream").Index(i), s, "must be an address, with or without a port"))
			continue
		}
		servers = append(servers, a)
	}
	return servers
}
