package dataplane

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"sync"
	"time"

	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"
)

// DNS is what the rules need to let this node answer the cluster DNS address itself. The zero value
// is none of that.
type DNS struct {
	// Addrs are served on this node. Packets to them, and answers from them, go by leases.
	Addrs []netip.Addr
	// Everybody lets clients by the lease that are neither pods nor this node. Where the layout
	// cannot tell pods, without it only the node itself goes by the lease.
	Everybody bool
}

// dnsPort is where DNS is served.
const dnsPort = 53

// ProbeTTL is the TTL, or hop limit, of packets from this node that reach a DNS address of the layout
// without a lease, and without conntrack: by them one finds out whether there should be a lease.
const ProbeTTL = 1

// priorityRaw is before conntrack (-200).
const priorityRaw = -300

// addrs returns the addresses of a family.
func (d *DNS) addrs(fam *family) []netip.Addr {
	var addrs []netip.Addr
	for _, a := range d.Addrs {
		if familyOf(a) == fam {
			addrs = append(addrs, a)
		}
	}
	return addrs
}

// has reports whether a family's table has the set.
func (l *Layout) has(fam *family, s Set) bool { return s != dnsAlive || len(l.DNS.addrs(fam)) > 0 }

// dnsChains are the chains before conntrack: two base chains, and what they lead to.
//
// A packet of a pod to an address with a lease is not tracked, so that no NAT chain sees it, and is
// delivered on this node: over UDP only while there is a socket, which is what makes the next packet
// after our death take the way of every other. With TCP that cannot be asked: the last ACK of a
// handshake meets a request socket, which the expression does not take for one. The node's own
// packets pass the output hook, where the expression would see the sender's socket.
func (l *Layout) dnsChains(w words) []chain {
	addrs := l.DNS.addrs(w.fam)
	if len(addrs) == 0 {
		return nil
	}
	serve := chain{name: "dns-serve", rules: []rule{
		w.rule(w.protocolIs(unix.IPPROTO_UDP), w.specificSocket(), w.notrack()),
		w.rule(w.protocolIs(unix.IPPROTO_TCP), w.notrack()),
	}}
	clients := chain{name: "dns-clients"}
	if l.DNS.Everybody {
		clients.rules = append(clients.rules, w.rule(w.jumpTo(serve.name)))
	} else {
		for _, pods := range l.pods(w) {
			clients.rules = append(clients.rules, w.rule(pods, w.jumpTo(serve.name)))
		}
	}
	// Each lookup twice, for a packet that looks just as a lease is renewed.
	in := chain{name: "dns-in", rules: []rule{
		w.rule(w.frontend(), w.in(dnsAlive), w.jumpTo(clients.name)),
		w.rule(w.frontend(), w.in(dnsAlive), w.jumpTo(clients.name)),
	}}
	out := chain{name: "dns-out", rules: []rule{
		w.rule(w.frontend(), w.in(dnsAlive), w.notrack()),
		w.rule(w.frontend(), w.in(dnsAlive), w.notrack()),
		w.rule(w.protocolIs(unix.IPPROTO_UDP), w.portIs(dnsPort), w.ttlIs(ProbeTTL), w.notrack()),
		w.rule(w.protocolIs(unix.IPPROTO_TCP), w.portIs(dnsPort), w.ttlIs(ProbeTTL), w.notrack()),
	}}
	// Whoever was let in gets the answer untracked too, also when the lease has just ended.
	answers := chain{name: "dns-answers", rules: []rule{
		w.rule(w.protocolIs(unix.IPPROTO_UDP), w.sourcePortIs(dnsPort), w.notrack()),
		w.rule(w.protocolIs(unix.IPPROTO_TCP), w.sourcePortIs(dnsPort), w.notrack()),
	}}
	rawIn := chain{name: "raw-prerouting", hook: "prerouting", typ: "filter", priority: priorityRaw}
	rawOut := chain{name: "raw-output", hook: "output", typ: "filter", priority: priorityRaw}
	for _, a := range addrs {
		rawIn.rules = append(rawIn.rules, w.rule(w.destinationIs(a), w.jump(in.name)))
		rawOut.rules = append(rawOut.rules, w.rule(w.sourceIs(a), w.jump(answers.name)), w.rule(w.destinationIs(a), w.jump(out.name)))
	}
	return []chain{serve, clients, in, out, answers, rawIn, rawOut}
}

// dnsMasquerade hides the DNS addresses from whoever is not on this node: a process here that asks
// one of them has it as its source too, also when it is sent elsewhere.
func (l *Layout) dnsMasquerade(w words, when ...[]expression) []rule {
	var rules []rule
	for _, a := range l.DNS.addrs(w.fam) {
		parts := append(when[:len(when):len(when)], w.sourceIs(a), w.leavesNode(), w.masquerade())
		rules = append(rules, w.rule(parts...))
	}
	return rules
}

// dnsRefuse refuses what nobody has translated and no lease let by: other ports of the address, which is
// one of this node's, and clients that are not to be answered. The reset that refuses one of the node's
// own packets has that address at both ends, and must not be refused in its turn.
func (l *Layout) dnsRefuse(w words) []rule {
	var rules []rule
	for _, a := range l.DNS.addrs(w.fam) {
		rules = append(rules,
			w.rule(w.sourceIs(a), w.protocolIs(unix.IPPROTO_TCP), w.isReset(), w.ret()),
			w.rule(w.destinationIs(a), w.jumpTo("refuse")))
	}
	return rules
}

// leases are those that have been asked for. Its own lock lets Renew be heard while a Replace has
// that of the Conn.
type leases struct {
	mu      sync.Mutex
	until   map[Frontend]time.Time
	changed bool // something was asked for that is not written yet
}

func (l *leases) set(frontends []Frontend, until time.Time) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.until == nil {
		l.until = map[Frontend]time.Time{}
	}
	for _, f := range frontends {
		l.until[f] = until
	}
	l.changed = true
}

// any reports whether there is any lease.
func (l *leases) any() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, until := range l.until {
		if time.Until(until) > 0 {
			return true
		}
	}
	return false
}

// take returns what has been asked for since the last time, or all of it.
func (l *leases) take(all bool) map[Frontend]time.Time {
	l.mu.Lock()
	defer l.mu.Unlock()
	if !all && !l.changed {
		return nil
	}
	l.changed = false
	taken := maps.Clone(l.until)
	maps.DeleteFunc(l.until, func(_ Frontend, until time.Time) bool { return time.Until(until) <= 0 })
	return taken
}

// Renew lets clients of frontends go by the lease for d from now on, at most as long as a Replace or
// somebody else does not remove the tables. The frontends are at DNS addresses of the layout. It waits
// for what the Conn is doing, but a Replace of many transactions renews between them.
func (c *Conn) Renew(ctx context.Context, frontends []Frontend, d time.Duration) error {
	c.leases.set(frontends, time.Now().Add(d))
	return c.writeLeases(ctx)
}

// Release ends the leases of frontends. There need not be any.
func (c *Conn) Release(ctx context.Context, frontends []Frontend) error {
	c.leases.set(frontends, time.Time{})
	return c.writeLeases(ctx)
}

func (c *Conn) writeLeases(ctx context.Context) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if err := ctx.Err(); err != nil {
		return err
	}
	wanted := c.leases.take(false)
	for _, fam := range c.families {
		if err := c.lease(fam, wanted); err != nil {
			return err
		}
	}
	return nil
}

// carryLeases writes what was asked for while a Replace is at work, or all that there is, into the
// family's table.
func (c *Conn) carryLeases(fam *family, all bool) error {
	wanted := c.leases.take(all)
	if len(wanted) > 0 {
		for _, other := range c.families {
			if other != fam && c.state[other.number()].name != "" {
				if err := c.lease(other, wanted); err != nil {
					return err
				}
			}
		}
	}
	return c.lease(fam, wanted)
}

// lease brings the leases of a family's table to what is wanted of those frontends.
func (c *Conn) lease(fam *family, wanted map[Frontend]time.Time) error {
	for f, until := range wanted {
		if !f.Addr.IsValid() || familyOf(f.Addr) != fam {
			continue
		}
		if !c.cfg.Layout.has(fam, dnsAlive) {
			return fmt.Errorf("lease %s: the layout has no DNS address of this family: %w", f, unix.EINVAL)
		}
		if c.state[fam.number()].name == "" {
			return fmt.Errorf("lease %s: %w", f, ErrStale)
		}
		if err := c.leaseOne(fam, f, time.Until(until)); err != nil {
			return fmt.Errorf("lease %s: %w", f, err)
		}
	}
	return nil
}

// leaseTries is how often a lease is written again because it ended just as that was tried.
const leaseTries = 3

// leaseOne writes one lease; without time left, it ends it. An element that is there keeps its time
// (until kernel 6.12), so it is deleted and added in one transaction. Before kernel 6.3, the deletion
// of one that is not there, or no longer, is an error: then it is only added, which is an error if it
// is there.
func (c *Conn) leaseOne(fam *family, f Frontend, left time.Duration) (err error) {
	left = left.Truncate(time.Millisecond)
	del := uint8(unix.NFT_MSG_DELSETELEM)
	if c.destroy {
		del = nftMsgDestroySetElem
	}
	write := func(ends, begins bool) error {
		b := c.newBatch()
		if ends {
			appendLease(&b.messages, fam, c.state[fam.number()].name, del, 0, f, 0)
		}
		if begins {
			appendLease(&b.messages, fam, c.state[fam.number()].name, unix.NFT_MSG_NEWSETELEM, unix.NLM_F_CREATE|unix.NLM_F_EXCL, f, left)
		}
		return c.commit(b)
	}
	if left <= 0 {
		if err = write(true, false); errors.Is(err, unix.ENOENT) && c.tableIsThere(fam) {
			err = nil // it had ended
		}
		return err
	}
	for range leaseTries {
		if err = write(true, true); c.destroy || !errors.Is(err, unix.ENOENT) {
			return err
		}
		if err = write(false, true); !errors.Is(err, unix.EEXIST) {
			return err
		}
	}
	return err
}

func (c *Conn) tableIsThere(fam *family) bool {
	t, err := c.getTable(fam, c.state[fam.number()].name)
	return err == nil && t != nil
}

// appendLease appends a message about the element that a lease is, with its time if it has one.
func appendLease(m *messages, fam *family, table string, msg uint8, flags uint16, f Frontend, left time.Duration) {
	m.begin(fam.nfproto, msg, flags)
	m.string(unix.NFTA_SET_ELEM_LIST_TABLE, table)
	m.string(unix.NFTA_SET_ELEM_LIST_SET, dnsAlive.String())
	list := m.nest(unix.NFTA_SET_ELEM_LIST_ELEMENTS)
	elem := m.nest(unix.NFTA_LIST_ELEM)
	key := m.nest(unix.NFTA_SET_ELEM_KEY)
	m.bytes(unix.NFTA_DATA_VALUE, appendKey(nil, dnsAlive, &Element{Frontend: f}, false))
	m.unnest(key)
	if left > 0 {
		m.u64(unix.NFTA_SET_ELEM_TIMEOUT, uint64(left/time.Millisecond))
	}
	m.unnest(elem)
	m.unnest(list)
	m.end()
}

// Words of rules that only DNS has.

// specificSocket holds if a socket would take the packet that is bound to its very address.
func (w words) specificSocket() []expression {
	return append(word(&expr.Socket{Key: expr.SocketKeyWildcard, Register: firstRegister}), w.equal([]byte{0})...)
}

func (w words) notrack() []expression { return word(&expr.Notrack{}) }

func (w words) destinationIs(a netip.Addr) []expression {
	return append(w.destination(), w.equal(a.AsSlice())...)
}

func (w words) sourceIs(a netip.Addr) []expression {
	return append(w.network(firstRegister, w.fam.saddr), w.equal(a.AsSlice())...)
}

func (w words) portIs(port uint16) []expression {
	return append(w.port(firstRegister), w.equal([]byte{byte(port >> 8), byte(port)})...)
}

func (w words) sourcePortIs(port uint16) []expression {
	load := word(&expr.Payload{DestRegister: firstRegister, Base: expr.PayloadBaseTransportHeader, Offset: 0, Len: 2})
	return append(load, w.equal([]byte{byte(port >> 8), byte(port)})...)
}

// ttlIs compares the TTL, or the hop limit.
func (w words) ttlIs(ttl byte) []expression {
	offset := uint32(8)
	if w.fam == ipv6 {
		offset = 7
	}
	load := word(&expr.Payload{DestRegister: firstRegister, Base: expr.PayloadBaseNetworkHeader, Offset: offset, Len: 1})
	return append(load, w.equal([]byte{ttl})...)
}

// leavesNode holds for packets that go out by another interface than lo.
func (w words) leavesNode() []expression {
	lo := make([]byte, unix.IFNAMSIZ)
	copy(lo, "lo")
	return word(&expr.Meta{Key: expr.MetaKeyOIFNAME, Register: firstRegister}, &expr.Cmp{Op: expr.CmpOpNeq, Register: firstRegister, Data: lo})
}

// isReset holds for TCP packets with the flag RST.
func (w words) isReset() []expression {
	const rst = 1 << 2
	return word(
		&expr.Payload{DestRegister: firstRegister, Base: expr.PayloadBaseTransportHeader, Offset: 13, Len: 1},
		&expr.Bitwise{SourceRegister: firstRegister, DestRegister: firstRegister, Len: 1, Mask: []byte{rst}, Xor: []byte{0}},
		&expr.Cmp{Op: expr.CmpOpNeq, Register: firstRegister, Data: []byte{0}})
}
