package inspect

import (
	"fmt"
	"net/netip"
	"strings"

	mdns "github.com/miekg/dns"

	"github.com/weir-project/weir/dns"
	"github.com/weir-project/weir/endpoints"
	"github.com/weir-project/weir/inspect/api"
)

// defaultDomain is the cluster's domain where DNS is not switched on.
const defaultDomain = "cluster.local"

// resolve answers a name as this node's DNS would, whether it is switched on or not: with a zone that
// holds the one Service which the name may be of. It returns the address that a client of this family
// would use; with no client, IPv4 first.
func (i *Inspector) resolve(name string, client netip.Addr) (*api.DNSAnswer, netip.Addr, error) {
	domain := defaultDomain
	if i.cfg.DNS != nil {
		if d := i.cfg.DNS(); d != nil {
			domain = strings.TrimSuffix(d.Domain, ".")
		}
	}
	full, service, err := fullName(name, domain)
	if err != nil {
		return nil, netip.Addr{}, err
	}
	zone, err := i.zoneOf(service, domain)
	if err != nil {
		return nil, netip.Addr{}, err
	}
	a := &api.DNSAnswer{Name: full}
	types := []uint16{mdns.TypeA, mdns.TypeAAAA}
	if client.Is6() {
		types = types[1:]
	} else if client.Is4() {
		types = types[:1]
	}
	for _, qtype := range types {
		if err := ask(zone, a, qtype); err != nil {
			return nil, netip.Addr{}, err
		}
	}
	if len(a.Addresses) == 0 {
		return nil, netip.Addr{}, noAddress(a, client)
	}
	return a, a.Addresses[0], nil
}

func noAddress(a *api.DNSAnswer, client netip.Addr) error {
	switch {
	case a.Alias != "":
		return fmt.Errorf("%s is another name for %s, outside of the cluster: trace the address of that", a.Name, a.Alias)
	case a.Rcode == "NXDOMAIN":
		return notFound("DNS knows no %s (NXDOMAIN)", a.Name)
	case client.IsValid():
		return notFound("%s has no address of the family of %s", a.Name, client)
	}
	return notFound("%s has no address", a.Name)
}

// fullName completes a name as a pod's search list does, and says which Service it may be of.
func fullName(name, domain string) (full string, service endpoints.Name, err error) {
	name = strings.TrimSuffix(name, ".")
	full = name
	switch labels := strings.Count(name, ".") + 1; {
	case name == domain || strings.HasSuffix(name, "."+domain):
	case labels == 1:
		return "", service, badRequest("the name %q alone depends on the pod's namespace: say %s.NAMESPACE", name, name)
	case labels == 2:
		full = name + ".svc." + domain
	case strings.HasSuffix(name, ".svc"):
		full = name + "." + domain
	default:
		return "", service, notFound("%s is not one of the cluster's names (%s): trace the address that it has", name, domain)
	}
	parts := strings.Split(strings.TrimSuffix(strings.TrimSuffix(full, domain), "."), ".")
	if n := len(parts); n >= 3 && parts[n-1] == "svc" {
		service = endpoints.Name{Namespace: parts[n-2], Name: parts[n-3]}
	}
	return full, service, nil
}

// zoneOf returns a zone with one Service.
func (i *Inspector) zoneOf(name endpoints.Name, domain string) (*dns.Zone, error) {
	zone, err := dns.NewZone(dns.Config{Domain: domain})
	if err != nil {
		return nil, err
	}
	one := endpoints.New(endpoints.Config{})
	names := one.Subscribe()
	var services []*endpoints.Service
	var namespaces []string
	if name.Namespace != "" {
		namespaces = append(namespaces, name.Namespace)
	}
	if svc := i.cfg.Engine.Service(name); svc != nil {
		services = append(services, svc)
	}
	one.ReplaceServices(services)
	one.ReplaceSlices(i.cfg.Engine.Slices(name))
	one.ReplaceNamespaces(namespaces)
	zone.Update(names)
	return zone, nil
}

// ask adds a zone's answer to a question.
func ask(zone *dns.Zone, a *api.DNSAnswer, qtype uint16) error {
	query := new(mdns.Msg).SetQuestion(mdns.Fqdn(a.Name), qtype)
	query.SetEdns0(4096, false)
	wire, err := query.Pack()
	if err != nil {
		return badRequest("%s: %v", a.Name, err)
	}
	response, err := zone.Answer(wire)
	if err != nil {
		return err
	}
	var msg mdns.Msg
	if err := msg.Unpack(response); err != nil {
		return fmt.Errorf("answer to %s: %w", a.Name, err)
	}
	a.Rcode = mdns.RcodeToString[msg.Rcode]
	for _, rr := range msg.Answer {
		switch rr := rr.(type) {
		case *mdns.A:
			if addr, ok := netip.AddrFromSlice(rr.A); ok {
				a.Addresses = append(a.Addresses, addr.Unmap())
			}
		case *mdns.AAAA:
			if addr, ok := netip.AddrFromSlice(rr.AAAA); ok {
				a.Addresses = append(a.Addresses, addr)
			}
		case *mdns.CNAME:
			a.Alias = strings.TrimSuffix(rr.Target, ".")
		}
	}
	return nil
}
