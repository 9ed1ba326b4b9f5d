package forward

import (
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/miekg/dns"
	"k8s.io/klog/v2"
)

// Config is what may change while a Forwarder runs.
type Config struct {
	// Upstreams are asked for every name that no stub domain holds. Empty: those of
	// Options.ResolvConf.
	Upstreams []netip.AddrPort
	// StubDomains have upstreams of their own, which alone are asked for names in the domain. Of
	// several domains that hold a name, the longest counts. One without upstreams is answered with
	// SERVFAIL.
	StubDomains map[string][]netip.AddrPort
}

// Override returns c with what over says: its upstreams, if it has any, and its stub domains before
// those of c.
func (c Config) Override(over Config) Config {
	merged := Config{Upstreams: c.Upstreams, StubDomains: map[string][]netip.AddrPort{}}
	if len(over.Upstreams) > 0 {
		merged.Upstreams = over.Upstreams
	}
	for _, m := range []map[string][]netip.AddrPort{c.StubDomains, over.StubDomains} {
		for domain, servers := range m {
			merged.StubDomains[canonicalDomain(domain)] = servers
		}
	}
	return merged
}

func canonicalDomain(s string) string {
	return strings.ToLower(strings.TrimSuffix(s, ".")) + "."
}

// Options are what a Forwarder is made with. The zero value of each is its default.
type Options struct {
	// ResolvConf is the file whose nameservers are asked when the Config names none; it is read
	// again when it changes. "": there is no such file.
	ResolvConf string
	// Search, if not nil, is told of the search list of ResolvConf, at first and whenever the file has
	// changed. It must not call the Forwarder.
	Search func(domains []string)
	// ReloadInterval is how often ResolvConf is looked at. 5 s.
	ReloadInterval time.Duration
	// Listen are the addresses at which we are asked ourselves: an upstream there is left out.
	Listen []netip.AddrPort

	CacheBytes     int           // 16 MiB; less than 0: no cache
	MinTTL         time.Duration // 0: as the records say
	MaxTTL         time.Duration // 1 h
	MaxDenialTTL   time.Duration // 30 s
	FailureTTL     time.Duration // how long a failure is remembered, at most 5 s. 1 s
	PrefetchHits   int           // how often an answer must have been used to be fetched before its end. 3; less than 0: none is
	MaxStale       time.Duration // how long after its end an answer may be used if no upstream helps. 1 h; less than 0: not at all
	StaleTTL       time.Duration // what such an answer says of itself, and when it is tried again. 5 s
	StaleAfter     time.Duration // how long a client waits before it is given a stale answer. 1.8 s
	TryTimeout     time.Duration // when another upstream is asked as well. 1.5 s
	Deadline       time.Duration // when a question is given up, less than what clients wait. 4.5 s
	MaxOutstanding int           // questions that upstreams are asked at the same time. 1000
	MaxWaiting     int           // clients that wait for them. 32768

	Observer Observer
	Logger   klog.Logger
}

func (o *Options) setDefaults() {
	setDefault(&o.ReloadInterval, 5*time.Second)
	setDefault(&o.CacheBytes, 16<<20)
	setDefault(&o.MaxTTL, time.Hour)
	setDefault(&o.MaxDenialTTL, 30*time.Second)
	setDefault(&o.FailureTTL, time.Second)
	setDefault(&o.PrefetchHits, 3)
	setDefault(&o.MaxStale, time.Hour)
	setDefault(&o.StaleTTL, 5*time.Second)
	setDefault(&o.StaleAfter, 1800*time.Millisecond)
	setDefault(&o.TryTimeout, 1500*time.Millisecond)
	setDefault(&o.Deadline, 4500*time.Millisecond)
	setDefault(&o.MaxOutstanding, 1000)
	setDefault(&o.MaxWaiting, 32768)
	o.CacheBytes, o.PrefetchHits, o.MaxStale = max(o.CacheBytes, 0), max(o.PrefetchHits, 0), max(o.MaxStale, 0)
	o.FailureTTL = min(o.FailureTTL, 5*time.Second)
	if o.Observer == nil {
		o.Observer = nobody{}
	}
}

func setDefault[T comparable](v *T, d T) {
	if *v == *new(T) {
		*v = d
	}
}

func (o *Options) limits() limits {
	seconds := func(d time.Duration) uint32 { return uint32((d + time.Second - 1) / time.Second) }
	return limits{min: seconds(o.MinTTL), max: seconds(o.MaxTTL), maxDenial: seconds(o.MaxDenialTTL), failure: seconds(o.FailureTTL)}
}

// ParseKubeDNSConfigMap reads the stubDomains and upstreamNameservers of the ConfigMap
// kube-system/kube-dns:
//
//	stubDomains: {"acme.local": ["10.1.2.3", "10.1.2.4:5353"]}
//	upstreamNameservers: ["8.8.8.8"]
//
// The Config holds what could be read, also when there is an error, which names all that could not.
func ParseKubeDNSConfigMap(data map[string]string) (Config, error) {
	var c Config
	var errs []error
	var servers []string
	if s := data["upstreamNameservers"]; strings.TrimSpace(s) != "" {
		if err := json.Unmarshal([]byte(s), &servers); err != nil {
			errs = append(errs, fmt.Errorf("upstreamNameservers: %w", err))
		}
	}
	c.Upstreams, errs = parseServers("upstreamNameservers", servers, errs)
	stubs := map[string][]string{}
	if s := data["stubDomains"]; strings.TrimSpace(s) != "" {
		if err := json.Unmarshal([]byte(s), &stubs); err != nil {
			errs = append(errs, fmt.Errorf("stubDomains: %w", err))
			stubs = nil
		}
	}
	for _, domain := range slices.Sorted(maps.Keys(stubs)) {
		what := fmt.Sprintf("stubDomains %q", domain)
		if _, err := wireDomain(domain); err != nil {
			errs = append(errs, fmt.Errorf("%s: %w", what, err))
			continue
		}
		var list []netip.AddrPort
		if list, errs = parseServers(what, stubs[domain], errs); len(list) == 0 {
			errs = append(errs, fmt.Errorf("%s: no upstream", what))
			continue
		}
		if c.StubDomains == nil {
			c.StubDomains = map[string][]netip.AddrPort{}
		}
		c.StubDomains[canonicalDomain(domain)] = list
	}
	return c, errors.Join(errs...)
}

func parseServers(what string, list []string, errs []error) ([]netip.AddrPort, []error) {
	var servers []netip.AddrPort
	for _, s := range list {
		a, err := ParseUpstream(s)
		if err != nil {
			errs = append(errs, fmt.Errorf("%s: %w", what, err))
			continue
		}
		servers = append(servers, a)
	}
	return servers, errs
}

// ParseUpstream reads an address with or without a port, which is 53 then.
func ParseUpstream(s string) (netip.AddrPort, error) {
	s = strings.TrimSpace(s)
	if a, err := netip.ParseAddr(strings.TrimSuffix(strings.TrimPrefix(s, "["), "]")); err == nil {
		return checkUpstream(netip.AddrPortFrom(a.Unmap(), 53))
	}
	a, err := netip.ParseAddrPort(s)
	if err != nil {
		return netip.AddrPort{}, fmt.Errorf("upstream %q: not an address, with or without a port", s)
	}
	return checkUpstream(netip.AddrPortFrom(a.Addr().Unmap(), a.Port()))
}

func checkUpstream(a netip.AddrPort) (netip.AddrPort, error) {
	if a.Port() == 0 || a.Addr().IsMulticast() || a.Addr().IsUnspecified() {
		return netip.AddrPort{}, fmt.Errorf("upstream %s: nobody can be asked there", a)
	}
	return a, nil
}

// wireDomain is the lower-cased wire form of a domain.
func wireDomain(domain string) ([]byte, error) {
	var buf [maxName]byte
	n, err := dns.PackDomainName(canonicalDomain(domain), buf[:], 0, nil, false)
	if err != nil {
		return nil, fmt.Errorf("domain %q: %w", domain, err)
	}
	return slices.Clone(buf[:n]), nil
}

// parseResolvConf returns the nameservers of a resolv.conf, each once. What cannot be read is left
// out and returned as bad.
func parseResolvConf(data []byte) (servers []netip.AddrPort, bad []string) {
	for line := range strings.Lines(string(data)) {
		fields := strings.Fields(line)
		if len(fields) < 2 || fields[0] != "nameserver" {
			continue
		}
		a, err := netip.ParseAddr(fields[1])
		if err == nil {
			var u netip.AddrPort
			if u, err = checkUpstream(netip.AddrPortFrom(a.Unmap(), 53)); err == nil && !slices.Contains(servers, u) {
				servers = append(servers, u)
			}
		}
		if err != nil {
			bad = append(bad, fields[1])
		}
	}
	return servers, bad
}

// parseSearch returns the search list of a resolv.conf: of several the last, as the kubelet takes it
// for pods.
func parseSearch(data []byte) (domains []string) {
	for line := range strings.Lines(string(data)) {
		fields := strings.Fields(line)
		if len(fields) == 0 || fields[0] != "search" {
			continue
		}
		domains = nil
		for _, d := range fields[1:] {
			if d != "." {
				d = strings.TrimSuffix(d, ".")
			}
			domains = append(domains, d)
		}
	}
	return domains
}
