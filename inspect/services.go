package inspect

import (
	"net/netip"
	"slices"

	"github.com/weir-project/weir/dataplane"
	"github.com/weir-project/weir/endpoints"
	"github.com/weir-project/weir/inspect/api"
	"github.com/weir-project/weir/proxier"
)

// Service tells of one Service, with its endpoints or without, and whether there is one.
func (i *Inspector) Service(name endpoints.Name, withEndpoints bool) (api.Service, bool) {
	svc, explained := i.cfg.Engine.Explain(name)
	if svc == nil {
		return api.Service{}, false
	}
	held, _ := i.cfg.Proxy.Held(name)
	s := describe(svc)
	for _, a := range i.cfg.Proxy.SetAside() {
		if a.Service == name {
			s.SetAside = &api.SetAside{Service: name.String(), Reason: a.Err.Error(), Since: a.Since, Retry: a.Retry}
		}
	}
	off, served := offCluster(i.cfg.Kernel.Layout()), i.cfg.Kernel.Families()
	for k := range explained {
		e := &explained[k]
		in := find(&held, e)
		missing := !slices.Contains(served, tables[e.Family])
		if missing {
			in = nil
		}
		p := port(e, in, off, withEndpoints)
		p.NoFamily = missing
		s.Ports = append(s.Ports, p)
	}
	return s, true
}

// tables are the families of nftables in which a family is served.
var tables = map[endpoints.Family]string{endpoints.IPv4: "ip", endpoints.IPv6: "ip6"}

// Services calls each with every Service in a namespace, "" is all, by name, with their endpoints or
// without.
func (i *Inspector) Services(namespace string, withEndpoints bool, each func(api.Service) error) error {
	for _, name := range i.cfg.Engine.Services() {
		if namespace != "" && name.Namespace != namespace {
			continue
		}
		s, ok := i.Service(name, withEndpoints)
		if !ok {
			continue // gone meanwhile
		}
		if err := each(s); err != nil {
			return err
		}
	}
	return nil
}

// Named returns the Services that somebody may mean by namespace/name or by a name alone.
func (i *Inspector) Named(text string) []endpoints.Name {
	var out []endpoints.Name
	for _, n := range i.cfg.Engine.Services() {
		if n.String() == text || n.Name == text {
			out = append(out, n)
		}
	}
	return out
}

// describe tells what concerns all ports.
func describe(svc *endpoints.Service) api.Service {
	s := api.Service{
		Namespace: svc.Name.Namespace, Name: svc.Name.Name, Created: svc.Created, ExternalName: svc.ExternalName,
		InternalTrafficPolicy: policy(svc.InternalLocal), ExternalTrafficPolicy: policy(svc.ExternalLocal),
		SessionAffinity: "None", HealthCheckPort: svc.HealthCheckPort,
	}
	switch {
	case svc.ExternalName != "":
		s.NotProxied = "ExternalName"
	case svc.NoProxy:
		s.NotProxied = "OtherProxy"
	case svc.Headless:
		s.NotProxied = "Headless"
	}
	if svc.Affinity > 0 {
		s.SessionAffinity, s.AffinityTimeout = "ClientIP", api.SecondsOf(svc.Affinity)
	}
	return s
}

func policy(local bool) string {
	if local {
		return "Local"
	}
	return "Cluster"
}

// find returns what is held for a port; nil: nothing.
func find(held *proxier.Held, e *endpoints.Explained) *proxier.HeldPort {
	for k := range held.Ports {
		h := &held.Ports[k]
		if h.Family == e.Family && h.Protocol == e.Protocol && h.Port == e.Port.Port {
			return h
		}
	}
	return nil
}

// offCluster says whose connections to cluster IPs are masqueraded under a layout.
func offCluster(l dataplane.Layout) string {
	switch {
	case l.MasqueradeAll:
		return "Always"
	case len(l.Local.CIDRs) > 0, l.Local.Interface != "", l.Local.InterfacePrefix != "":
		return "OffCluster"
	}
	return ""
}

func port(e *endpoints.Explained, held *proxier.HeldPort, off string, withEndpoints bool) api.ServicePort {
	p := api.ServicePort{
		Name: e.Name, Protocol: e.Protocol.String(), Port: e.Port.Port, NodePort: e.NodePort, Family: e.Family.String(),
		Topology: string(e.Topology), Terminating: e.Terminating, Total: len(e.Endpoints),
	}
	for k := range e.Endpoints {
		if e.Endpoints[k].Conditions&endpoints.Ready != 0 {
			p.Ready++
		}
	}
	if held != nil {
		for k := range held.Frontends {
			p.Frontends = append(p.Frontends, frontend(&held.Frontends[k], off))
		}
	}
	if withEndpoints {
		p.Endpoints = endpointsOf(e, held)
	}
	return p
}

func frontend(f *proxier.HeldFrontend, off string) api.ServiceFrontend {
	out := api.ServiceFrontend{Kind: f.Kind, Address: f.Key.Addr, Port: f.Key.Port}
	if f.LostTo != (endpoints.Name{}) {
		out.TakenBy = f.LostTo.String()
		return out
	}
	out.Verdict, out.Class = f.Services.Chain(), f.Services.Class()
	if f.LocalServices != 0 {
		out.LocalVerdict, out.LocalClass = f.LocalServices.Chain(), f.LocalServices.Class()
	}
	if f.Endpoints != proxier.NoList {
		out.Policy = policy(f.Endpoints == proxier.LocalList)
	}
	switch {
	case f.SnatAlways:
		out.Masquerade = "Always"
	case f.SnatNode:
		out.Masquerade = "Node"
	case f.Kind == "ClusterIP":
		out.Masquerade = off
	}
	if f.Restricted {
		out.SourceRanges = f.Sources
	}
	return out
}

func endpointsOf(e *endpoints.Explained, held *proxier.HeldPort) []api.Endpoint {
	var cluster, local map[netip.AddrPort]*uint32
	if held != nil {
		cluster, local = slots(held.Cluster), slots(held.Local)
	}
	out := make([]api.Endpoint, 0, len(e.Endpoints))
	for k := range e.Endpoints {
		x := &e.Endpoints[k]
		is := func(c endpoints.Conditions) bool { return x.Conditions&c != 0 }
		out = append(out, api.Endpoint{
			Address: x.Addr.Addr(), Port: x.Addr.Port(), Node: x.Where.Node, Zone: x.Where.Zone, OnNode: x.OnNode,
			Ready: is(endpoints.Ready), Serving: is(endpoints.Serving), Terminating: is(endpoints.Terminating),
			ZoneHints: x.Where.ZoneHints, NodeHints: x.Where.NodeHints, Slot: cluster[x.Addr], LocalSlot: local[x.Addr],
		})
	}
	return out
}

func slots(list []netip.AddrPort) map[netip.AddrPort]*uint32 {
	m := make(map[netip.AddrPort]*uint32, len(list))
	for k, ap := range list {
		n := uint32(k)
		m[ap] = &n
	}
	return m
}
