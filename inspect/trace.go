package inspect

import (
	"errors"
	"fmt"
	"math/big"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/weir-project/weir/dataplane"
	"github.com/weir-project/weir/endpoints"
	"github.com/weir-project/weir/inspect/api"
	"github.com/weir-project/weir/proxier"
)

// Question is a connection that somebody asks about.
type Question struct {
	From  netip.Addr // the zero value: the node itself
	Proto endpoints.Protocol
	To    netip.AddrPort
	Name  string // in place of To's address; "": none
}

// ParseQuestion reads the words of weir trace: who, with what, where to. Its errors are of usage.
func ParseQuestion(from, proto, to string) (q Question, err error) {
	if from != "node" {
		if q.From, err = netip.ParseAddr(from); err != nil || q.From.IsMulticast() || q.From.IsUnspecified() {
			return q, fmt.Errorf("FROM %q: neither the address of a pod, a node or a client, nor the word node", from)
		}
		q.From = q.From.Unmap().WithZone("")
	}
	i := slices.IndexFunc(protocols, func(p endpoints.Protocol) bool { return strings.EqualFold(p.String(), proto) })
	if i < 0 {
		return q, fmt.Errorf("PROTO %q: not one of tcp, udp, sctp", proto)
	}
	q.Proto = protocols[i]
	return q, q.parseTo(to)
}

var protocols = []endpoints.Protocol{endpoints.TCP, endpoints.UDP, endpoints.SCTP}

func (q *Question) parseTo(to string) error {
	colon := strings.LastIndexByte(to, ':')
	if colon < 0 {
		return fmt.Errorf("DST:PORT %q: no port behind a colon", to)
	}
	host, text := to[:colon], to[colon+1:]
	port, err := strconv.ParseUint(text, 10, 16)
	if err != nil || port == 0 {
		return fmt.Errorf("DST:PORT %q: port %q is not from 1 to 65535", to, text)
	}
	bare, bracketed := strings.CutPrefix(host, "[")
	if bracketed {
		if bare, bracketed = strings.CutSuffix(bare, "]"); !bracketed {
			return fmt.Errorf("DST:PORT %q: a bracket that is not closed", to)
		}
	}
	a, err := netip.ParseAddr(bare)
	switch {
	case err == nil && a.Is6() && !bracketed:
		return fmt.Errorf("DST:PORT %q: an IPv6 address goes in brackets, as in [fd00::10]:80", to)
	case err == nil && (a.IsMulticast() || a.IsUnspecified()):
		return fmt.Errorf("DST:PORT %q: %s is no address to connect to", to, a)
	case err == nil:
		a = a.Unmap().WithZone("")
	case bracketed || !validName(host):
		return fmt.Errorf("DST:PORT %q: %q is neither an address nor a name", to, host)
	default:
		q.Name = strings.ToLower(host)
	}
	q.To = netip.AddrPortFrom(a, uint16(port))
	if a.IsValid() && q.From.IsValid() && a.Is4() != q.From.Is4() {
		return fmt.Errorf("FROM %s and DST %s are of different families", q.From, a)
	}
	return nil
}

// validName reports whether a text can be a host's name.
func validName(s string) bool {
	for label := range strings.SplitSeq(strings.TrimSuffix(s, "."), ".") {
		if label == "" || len(label) > 63 {
			return false
		}
	}
	digits := func(r rune) bool { return r == '.' || r >= '0' && r <= '9' }
	if strings.IndexFunc(s, func(r rune) bool { return !digits(r) }) < 0 {
		return false // an address gone wrong
	}
	return len(s) <= 253 && strings.IndexFunc(s, func(r rune) bool {
		return !digits(r) && r != '-' && r != '_' && (r < 'a' || r > 'z') && (r < 'A' || r > 'Z')
	}) < 0
}

// Trace tells what would become of a new connection. It walks the rules with what the kernel is
// believed to hold, and asks the kernel for what only that knows: routes, and the endpoints that clients
// with affinity were given.
func (i *Inspector) Trace(q Question) (api.Trace, error) {
	t := api.Trace{Meta: meta("Trace"), Name: q.Name, Why: []string{}, Steps: []api.TraceStep{}}
	if q.Name != "" {
		answer, to, err := i.resolve(q.Name, q.From)
		if err != nil {
			return t, err
		}
		t.Answer, q.To = answer, netip.AddrPortFrom(to, q.To.Port())
	}
	x := &tracing{i: i, t: &t, layout: i.cfg.Kernel.Layout(), packet: dataplane.Packet{
		To: dataplane.Frontend{Addr: q.To.Addr(), Port: q.To.Port(), Protocol: dataplane.Protocol(q.Proto)}, Source: q.From}}
	t.To = frontendOf(x.packet.To)
	if err := x.locate(); err != nil {
		return t, err
	}
	x.held = i.cfg.Proxy.View(x.packet.To, x.packet.Source)
	if err := x.dynamic(); err != nil {
		return t, err
	}
	walk, err := x.layout.Walk(x.packet, x)
	if err != nil {
		return t, err
	}
	t.Outcome, t.Affinity = walk.Outcome.String(), walk.Affinity
	x.steps(walk.Steps)
	x.explain(&walk)
	return t, x.targets(walk.Targets)
}

// tracing is one trace in the making. It is what the walk reads of the maps.
type tracing struct {
	i      *Inspector
	t      *api.Trace
	layout dataplane.Layout
	packet dataplane.Packet
	held   dataplane.Elements
	given  netip.AddrPort // by affinity; the zero value: nothing
	where  map[netip.AddrPort]*endpoints.Where
}

// Element implements dataplane.Elements.
func (x *tracing) Element(set dataplane.Set, key dataplane.Element) (dataplane.Element, bool) {
	if set == dataplane.Affinity {
		key.Endpoint = x.given
		return key, x.given.IsValid()
	}
	return x.held.Element(set, key)
}

// Timeout implements dataplane.Elements.
func (x *tracing) Timeout(f dataplane.Frontend) time.Duration { return x.held.Timeout(f) }

// locate finds out who the sender is.
func (x *tracing) locate() error {
	p, from := &x.packet, &x.t.From
	if !p.Source.IsValid() {
		to, err := x.i.routes.way(p.To.Addr)
		if err != nil {
			return fmt.Errorf("the node itself cannot send to it: %w", err)
		}
		if p.Source = to.source; !p.Source.IsValid() {
			return fmt.Errorf("this node has no address from which it could send to %s", p.To.Addr)
		}
	}
	back, err := x.i.routes.way(p.Source)
	if err != nil && !errors.Is(err, errNoRoute) {
		return err
	}
	p.FromNode, p.Generated = back.local, back.local
	from.Address, from.Kind = p.Source, "outside"
	if p.Generated {
		from.Kind = "node"
		return nil
	}
	p.Interface, from.Interface = back.link, back.link
	if x.layout.Local.Detects(p.Source, back.link) {
		from.Kind = "pod"
	}
	return nil
}

// dynamic asks the kernel for what only that knows: the endpoint that a client with affinity was
// given, and whether this node answers its DNS address.
func (x *tracing) dynamic() error {
	leases := x.i.answersDNS(x.packet.To.Addr)
	affinity := x.held.Timeout(x.packet.To) > 0
	if !leases && !affinity {
		return nil
	}
	r, err := x.i.cfg.Kernel.Reader()
	if err != nil {
		return err
	}
	defer r.Close()
	if leases {
		if x.packet.Leased, err = r.Leased(x.packet.To); err != nil {
			return err
		}
	}
	if !affinity {
		return nil
	}
	e, ok, err := r.Get(dataplane.Affinity, dataplane.Element{Frontend: x.packet.To, Client: x.packet.Source})
	if ok {
		x.given = e.Endpoint
	}
	return err
}

func (x *tracing) steps(steps []dataplane.Step) {
	for _, s := range steps {
		x.t.Steps = append(x.t.Steps, api.TraceStep{Chain: s.Chain, Asked: s.Asked, Result: s.Result})
	}
}

func (x *tracing) why(format string, args ...any) {
	x.t.Why = append(x.t.Why, fmt.Sprintf(format, args...))
}

// targets tells of the endpoints, and whom each will see.
func (x *tracing) targets(list []dataplane.Target) error {
	for k, target := range list {
		percent, _ := new(big.Rat).Mul(target.Share, big.NewRat(100, 1)).Float64()
		e := api.TraceEndpoint{Address: target.Endpoint.Addr(), Port: target.Endpoint.Port(), Share: target.Share.RatString(),
			Percent: percent, Source: x.packet.Source}
		if w := x.where[target.Endpoint]; w != nil {
			e.Node, e.Zone = w.Node, w.Zone
		}
		to, err := x.i.routes.way(e.Address)
		if err != nil && !errors.Is(err, errNoRoute) {
			return err
		}
		if x.packet.Generated || !to.local { // else it is delivered without going through postrouting
			packet := x.packet
			packet.Out = to.link
			masqueraded, steps, err := x.layout.Masquerade(packet, target.Endpoint, x)
			if err != nil {
				return err
			}
			if k == 0 {
				x.steps(steps)
			}
			if e.Masqueraded = masqueraded; masqueraded {
				e.Source = to.source
			}
		} else if k == 0 {
			x.t.Steps = append(x.t.Steps, api.TraceStep{Chain: "input", Result: "delivered on this node: not asked about masquerading"})
		}
		x.t.Endpoints = append(x.t.Endpoints, e)
	}
	return nil
}

// answersDNS reports whether an address is one at which this node answers DNS, when it does.
func (i *Inspector) answersDNS(a netip.Addr) bool {
	if i.cfg.DNS == nil {
		return false
	}
	d := i.cfg.DNS()
	return d != nil && slices.Contains(d.Addresses, a)
}

// explain says in Kubernetes' words what the walk has found.
func (x *tracing) explain(walk *dataplane.Walk) {
	if walk.Outcome == dataplane.Untracked {
		x.why("this node answers DNS at %s itself: the packet is neither tracked nor translated, and delivered here", x.packet.To.Addr)
		return
	}
	if walk.Outcome == dataplane.Refused && x.i.answersDNS(x.packet.To.Addr) {
		if _, ok := x.i.cfg.Proxy.Owner(x.packet.To); !ok {
			x.why("%s is where this node answers DNS, and nothing else: refused", x.packet.To.Addr)
			return
		}
	}
	owner, ok := x.i.cfg.Proxy.Owner(x.packet.To)
	if !ok {
		x.explainNobody(walk)
		return
	}
	x.t.Service = owner.String()
	held, _ := x.i.cfg.Proxy.Held(owner)
	svc, explained := x.i.cfg.Engine.Explain(owner)
	port, f := frontendIn(&held, x.packet.To)
	if svc == nil || f == nil {
		x.why("%s has just changed: ask again", owner)
		return
	}
	x.t.Kind = f.Kind
	x.why("%s port %d of %s is a %s", x.packet.To.Protocol, x.packet.To.Port, x.packet.To.Addr, kindOf(f.Kind, owner))
	e := &endpoints.Explained{}
	for k := range explained {
		if find(&proxier.Held{Ports: []proxier.HeldPort{*port}}, &explained[k]) != nil {
			e = &explained[k]
		}
	}
	x.where = map[netip.AddrPort]*endpoints.Where{}
	for k := range e.Endpoints {
		x.where[e.Endpoints[k].Addr] = e.Endpoints[k].Where
	}
	x.explainSources(f)
	if walk.Outcome == dataplane.Dropped && asked(walk, "dispatch", "not in allowed-sources") {
		return
	}
	x.explainPolicy(walk, svc, f, e)
	if walk.Affinity {
		x.why("the client was given this endpoint within the last %s (session affinity)", f.Affinity)
	} else if f.Affinity > 0 {
		x.why("whichever endpoint it gets, the client keeps for %s (session affinity)", f.Affinity)
	}
}

func kindOf(kind string, owner endpoints.Name) string { return kind + " of Service " + owner.String() }

// frontendIn finds a frontend and its port.
func frontendIn(held *proxier.Held, key dataplane.Frontend) (*proxier.HeldPort, *proxier.HeldFrontend) {
	for k := range held.Ports {
		p := &held.Ports[k]
		for j := range p.Frontends {
			if f := &p.Frontends[j]; f.Key == key && f.LostTo == (endpoints.Name{}) {
				return p, f
			}
		}
	}
	return nil, nil
}

// asked reports whether a chain asked something that held.
func asked(walk *dataplane.Walk, chain, what string) bool {
	return slices.ContainsFunc(walk.Steps, func(s dataplane.Step) bool {
		return s.Chain == chain && strings.HasSuffix(s.Asked, what) && s.Result != "no match"
	})
}

func (x *tracing) explainSources(f *proxier.HeldFrontend) {
	if !f.Restricted {
		return
	}
	verb := "lets"
	if !slices.ContainsFunc(f.Sources, func(p netip.Prefix) bool { return p.Contains(x.packet.Source) }) {
		verb = "does not let"
	}
	x.why("loadBalancerSourceRanges %s %s in", verb, x.packet.Source)
}

// explainPolicy says by which policy endpoints were chosen, and what that left.
func (x *tracing) explainPolicy(walk *dataplane.Walk, svc *endpoints.Service, f *proxier.HeldFrontend, e *endpoints.Explained) {
	outside := asked(walk, "off-cluster", "in local-services")
	local := outside || f.Endpoints == proxier.LocalList
	internal := f.Kind == "ClusterIP"
	switch {
	case internal && svc.InternalLocal:
		local = true
		x.why("internalTrafficPolicy is Local: endpoints on this node only")
	case internal:
		x.why("internalTrafficPolicy is Cluster: endpoints on all nodes")
	case outside:
		x.why("externalTrafficPolicy is Local and the client is neither a pod nor the node: endpoints on this node only, and they see its address")
	case svc.ExternalLocal:
		x.why("externalTrafficPolicy is Local, but not for pods and the node itself: endpoints on all nodes")
	default:
		x.why("externalTrafficPolicy is Cluster: endpoints on all nodes")
	}
	if !local {
		x.explainTopology(e)
	}
	if e.Terminating && !local || e.TerminatingLocal && local {
		x.why("no such endpoint is ready, so those stand in that still serve while they terminate")
	}
	switch {
	case walk.Outcome == dataplane.Refused:
		x.why("%d endpoints are known, and none is ready or still serves: refused", len(e.Endpoints))
	case walk.Outcome == dataplane.Dropped:
		x.why("there is no such endpoint on this node, but elsewhere: dropped, so that balancers and clients try another node")
	case !walk.Affinity:
		x.why("%d of %d known endpoints are chosen, by a number that is drawn at random", len(walk.Targets), len(e.Endpoints))
	}
}

func (x *tracing) explainTopology(e *endpoints.Explained) {
	zone := ""
	if n := x.i.cfg.Engine.Node(); n != nil {
		zone = n.Zone
	}
	switch e.Topology {
	case endpoints.SameZone:
		x.why("every ready endpoint has a hint, and some are for this node's zone %s: only those", zone)
	case endpoints.SameNode:
		x.why("every ready endpoint has a hint, and some are for this node: only those")
	default:
		x.why("no topology hints narrow that down")
	}
}

// explainNobody says why a destination is no frontend.
func (x *tracing) explainNobody(walk *dataplane.Walk) {
	to := x.packet.To
	for _, name := range x.i.cfg.Engine.Services() {
		svc := x.i.cfg.Engine.Service(name)
		if svc != nil && svc.Proxied() && slices.Contains(svc.ClusterIPs, to.Addr) {
			x.t.Service = name.String()
			x.why("%s is the cluster IP of Service %s, which has no port %d for %s", to.Addr, name, to.Port, to.Protocol)
		}
	}
	switch walk.Outcome {
	case dataplane.Dropped:
		x.why("%s is in a range of cluster IPs, and no Service has it: dropped", to.Addr)
	case dataplane.Unserved:
		x.why("no Service has %s at %s port %d: Weir does nothing about it, and it goes to %s itself", to.Addr, to.Protocol, to.Port, to.Addr)
	}
}
