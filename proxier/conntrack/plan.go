package conntrack

import (
	"net/netip"
	"slices"

	"golang.org/x/sys/unix"

	"github.com/weir-project/weir/dataplane"
)

// Job says what has become of one frontend, and with it which of its flows are stale.
type Job struct {
	// Frontend is what the clients dialled. UDP, and TCP where that is switched on; jobs for
	// other protocols are ignored.
	Frontend dataplane.Frontend
	// Keep lists the endpoints whose flows stay: the serving ones. Flows to any other endpoint
	// go. Empty: none stays. Neither Keep nor what it shares memory with is ever written.
	Keep []netip.AddrPort
	// Now returns what Keep would be by now. It is asked before flows are removed, because the rules go on
	// changing while the table is read, and a new flow to an endpoint that has just come is not stale. So
	// it must know of an endpoint before the rules do. Nil: Keep does not change.
	Now func() []netip.AddrPort
	// Appeared says that the rules did not know the frontend before. Then its UDP flows that
	// nobody translated go too.
	Appeared bool
}

// maxScans is how many filtered dumps may stand in for one of a whole protocol, for each protocol
// and family. Every dump walks the whole table, filtered or not; what a filter saves is the
// copying of entries, which is seven times as dear as passing over them.
const maxScans = 4

// maxFiltered is the largest table, in entries, of which filtered dumps are asked for. While the
// kernel looks for entries that fit it serves no packets on that CPU: 0.2 µs an entry, 0.2 s in a table
// of a million. Without a filter it pauses after every 32 KB, that is each half millisecond.
const maxFiltered = 50_000

// searchFrom is the number of endpoints from which they are sorted and searched.
const searchFrom = 16

// plan judges entries.
type plan struct {
	targets map[dataplane.Frontend]target
	keeps   []keep
	now     map[dataplane.Frontend]*keep // for one batch
}

// target is what is known of one frontend.
type target struct {
	keep     int // index into keeps
	now      func() []netip.AddrPort
	appeared bool
}

// keep is a list of endpoints. Many frontends of a service share one.
type keep struct {
	list   []netip.AddrPort
	sorted bool
}

func (k *keep) has(ap netip.AddrPort) bool {
	if len(k.list) < searchFrom {
		return slices.Contains(k.list, ap)
	}
	if !k.sorted {
		if !slices.IsSortedFunc(k.list, netip.AddrPort.Compare) {
			k.list = slices.Clone(k.list)
			slices.SortFunc(k.list, netip.AddrPort.Compare)
		}
		k.sorted = true
	}
	_, found := slices.BinarySearchFunc(k.list, ap, netip.AddrPort.Compare)
	return found
}

// newPlan prepares for jobs, of which the last for a frontend counts. tcp admits those for TCP.
func newPlan(jobs []Job, tcp bool) *plan {
	p := &plan{targets: make(map[dataplane.Frontend]target, len(jobs)), now: map[dataplane.Frontend]*keep{}}
	type identity struct {
		first *netip.AddrPort
		n     int
	}
	known := map[identity]int{}
	for i := range jobs {
		j := &jobs[i]
		if !wanted(j.Frontend.Protocol, tcp) || !j.Frontend.Addr.IsValid() {
			continue
		}
		var id identity
		if len(j.Keep) > 0 {
			id = identity{&j.Keep[0], len(j.Keep)}
		}
		at, ok := known[id]
		if !ok {
			at = len(p.keeps)
			known[id] = at
			p.keeps = append(p.keeps, keep{list: j.Keep})
		}
		p.targets[j.Frontend] = target{at, j.Now, j.Appeared}
	}
	return p
}

func wanted(p dataplane.Protocol, tcp bool) bool { return p == protoUDP || p == protoTCP && tcp }

// scans returns what to ask the kernel for, in a table with that many entries.
func (p *plan) scans(entries int) []scan {
	switch {
	case len(p.targets) == 0:
		return nil
	case entries > maxFiltered:
		return []scan{{}}
	}
	byClass := map[scan][]dataplane.Frontend{}
	for f := range p.targets {
		c := scan{family: familyOf(f.Addr), protocol: f.Protocol}
		byClass[c] = append(byClass[c], f)
	}
	var scans []scan
	for class, fs := range byClass {
		scans = append(scans, p.narrow(class, fs)...)
	}
	return scans
}

func familyOf(a netip.Addr) uint8 {
	if a.Is4() {
		return unix.AF_INET
	}
	return unix.AF_INET6
}

// narrow returns the scans that see every flow of the frontends, which are of one protocol and
// family: one for each address, one for each port, or one for all.
func (p *plan) narrow(all scan, fs []dataplane.Frontend) []scan {
	addrs, ports := map[netip.Addr][]dataplane.Frontend{}, map[uint16][]dataplane.Frontend{}
	for _, f := range fs {
		ports[f.Port] = append(ports[f.Port], f)
		if all.family == unix.AF_INET { // see scan.addr
			addrs[f.Addr] = append(addrs[f.Addr], f)
		}
	}
	var scans []scan
	add := func(s scan, fs []dataplane.Frontend) {
		s.translated = !slices.ContainsFunc(fs, func(f dataplane.Frontend) bool {
			return p.targets[f].appeared && f.Protocol == protoUDP
		})
		scans = append(scans, s)
	}
	switch {
	case len(addrs) > 0 && len(addrs) <= min(len(ports), maxScans):
		for addr, fs := range addrs {
			s := all
			if s.addr = addr; len(fs) == 1 {
				s.port = fs[0].Port
			}
			add(s, fs)
		}
	case len(ports) <= maxScans:
		for port, fs := range ports {
			s := all
			s.port = port
			add(s, fs)
		}
	default:
		add(all, fs)
	}
	return scans
}

// stale reports whether an entry is to be removed. It allocates nothing, except for the first
// flow of a frontend whose many endpoints have to be sorted.
func (p *plan) stale(e *entry) bool {
	t, ok := p.targets[e.frontend()]
	switch {
	case !ok, p.keeps[t.keep].has(e.reply.src):
		return false
	case e.orig.proto == protoTCP:
		return e.translated() && tcpOpen(e.tcpState)
	}
	return e.translated() || t.appeared
}

// spare drops from a batch the flows to endpoints that are kept by now. Of each frontend it asks once.
func (p *plan) spare(b *batch) {
	clear(p.now)
	n := 0
	for i := range b.n {
		d := &b.doomed[i]
		f := d.frontend()
		k := p.now[f]
		if ask := p.targets[f].now; ask != nil && k == nil {
			k = &keep{list: ask()}
			p.now[f] = k
		}
		if k == nil || !k.has(d.endpoint) {
			b.doomed[n] = *d
			n++
		}
	}
	b.n = n
}

// tcpOpen reports whether somebody may still be waiting for a connection in this state.
func tcpOpen(state uint8) bool {
	switch state {
	case tcpLastAck, tcpTimeWait, tcpClose:
		return false
	}
	return true
}
