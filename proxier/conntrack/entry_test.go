package conntrack

import (
	"encoding/binary"
	"encoding/hex"
	"net/netip"
	"strings"
	"syscall"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"golang.org/x/sys/unix"
)

func ap(s string) netip.AddrPort { return netip.MustParseAddrPort(s) }

// told is an entry as the kernel tells it.
type told struct {
	src, dst, from string // from: who replies
	proto          uint8
	status, id     uint32
	zone           uint16
	tcpState       int // -1: not told
}

func (m *messages) told(e told) {
	src, dst, from := ap(e.src), ap(e.dst), ap(e.from)
	m.begin(msgNew, unix.NLM_F_MULTI, familyOf(src.Addr()))
	m.tuple(ctaTupleOrig, src, dst, e.proto)
	m.tuple(ctaTupleReply, from, src, e.proto)
	if e.zone != 0 {
		m.attr16(ctaZone, e.zone)
	}
	m.attr32(ctaStatus, e.status)
	m.attr32(ctaID, e.id)
	if e.tcpState > 0 {
		pi := m.nest(ctaProtoInfo)
		ti := m.nest(ctaProtoInfoTCP)
		m.attr(2, 7) // something else before it
		m.attr(ctaProtoInfoTCPState, byte(e.tcpState))
		m.unnest(ti)
		m.unnest(pi)
	}
	m.end()
}

func bodyOf(e told) []byte {
	var m messages
	m.told(e)
	return m.b[nlmsgHeader:]
}

func TestDecode(t *testing.T) {
	tests := []struct {
		name string
		told told
		want entry
	}{
		{
			"UDP over IPv4, translated",
			told{"10.244.1.5:1234", "10.96.0.10:53", "10.244.2.7:5353", unix.IPPROTO_UDP, 0x1a8, 7, 0, -1},
			entry{
				orig:   tuple{ap("10.244.1.5:1234"), ap("10.96.0.10:53"), protoUDP},
				reply:  tuple{ap("10.244.2.7:5353"), ap("10.244.1.5:1234"), protoUDP},
				status: 0x1a8, key: key{family: unix.AF_INET, hasID: true, id: 7},
			},
		},
		{
			"TCP over IPv6, in a zone",
			told{"[fd00::5]:1234", "[fd00::10]:80", "[fd00::10]:80", unix.IPPROTO_TCP, 0, 8, 9, tcpFinWait},
			entry{
				orig:     tuple{ap("[fd00::5]:1234"), ap("[fd00::10]:80"), protoTCP},
				reply:    tuple{ap("[fd00::10]:80"), ap("[fd00::5]:1234"), protoTCP},
				tcpState: tcpFinWait, key: key{family: unix.AF_INET6, hasID: true, id: 8, hasZone: true, zone: 9},
			},
		},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			var got entry
			if err := got.decode(bodyOf(test.told)); err != nil {
				t.Fatal(err)
			}
			opts := cmp.Options{
				cmp.AllowUnexported(entry{}, tuple{}, key{}), cmpopts.EquateComparable(netip.AddrPort{}),
				cmpopts.IgnoreFields(key{}, "tuple", "size"),
			}
			if diff := cmp.Diff(test.want, got, opts); diff != "" {
				t.Errorf("(-want +got)\n%s", diff)
			}
			// The tuple goes back as it came.
			var m, want messages
			want.tuple(ctaTupleOrig, ap(test.told.src), ap(test.told.dst), test.told.proto)
			if err := m.remove(&got.key, 0); err != nil {
				t.Fatal(err)
			}
			if !strings.Contains(string(m.b), string(want.b)) {
				t.Errorf("the deletion\n%s has no tuple\n%s", hex.Dump(m.b), hex.Dump(want.b))
			}
		})
	}
}

func TestDecodeRefuses(t *testing.T) {
	whole := bodyOf(told{"10.244.1.5:1234", "10.96.0.10:53", "10.244.2.7:5353", unix.IPPROTO_TCP, 0, 7, 3, tcpEstablished})
	tuple := append([]byte{}, whole...)
	binary.NativeEndian.PutUint16(tuple[nfgenHeader:], 3) // shorter than its header
	long := []byte{unix.AF_INET, 0, 0, 0, 140, 0, ctaTupleOrig, 0}
	long = append(long, make([]byte, 136)...)
	for name, b := range map[string][]byte{
		"nothing":             {},
		"no tuples":           whole[:nfgenHeader],
		"cut off":             whole[:nfgenHeader+30],
		"attribute too short": tuple,
		"tuple too long":      long,
	} {
		var e entry
		if err := e.decode(b); err == nil {
			t.Errorf("%s: decoded as %+v", name, e)
		}
	}
}

// A deletion without a tuple would empty the table.
func TestRemoveNeedsTuple(t *testing.T) {
	for name, k := range map[string]key{
		"zero":           {},
		"ID only":        {family: unix.AF_INET, hasID: true, id: 3},
		"empty tuple":    {size: 4, tuple: [maxTuple]byte{4, 0, ctaTupleOrig, 0x80}},
		"another":        {size: 8, tuple: [maxTuple]byte{8, 0, ctaStatus}},
		"cut off":        {size: 8, tuple: [maxTuple]byte{40, 0, ctaTupleOrig, 0x80}},
		"no header even": {size: 2, tuple: [maxTuple]byte{4, 0}},
	} {
		var m messages
		if err := m.remove(&k, 0); err == nil || len(m.b) > 0 {
			t.Errorf("%s: %x, %v", name, m.b, err)
		}
	}
}

// seeds are datagrams for the fuzzers.
func seeds(f *testing.F) {
	var m messages
	m.told(told{"10.244.1.5:1234", "10.96.0.10:53", "10.244.2.7:5353", unix.IPPROTO_UDP, 0x1a8, 7, 0, -1})
	f.Add(m.b)
	m.told(told{"[fd00::5]:1234", "[fd00::10]:80", "[fd00::10]:80", unix.IPPROTO_TCP, 0, 8, 9, tcpFinWait})
	f.Add(m.b)
	m.begin(unix.NLMSG_DONE, unix.NLM_F_MULTI, 0)
	m.end()
	f.Add(m.b)
	m.begin(unix.NLMSG_ERROR, 0, 0)
	m.b = append(m.b, make([]byte, 16)...)
	m.end()
	f.Add(m.b)
	f.Add([]byte{})
}

// FuzzDatagram gives everything that reads from the kernel the same bytes.
func FuzzDatagram(f *testing.F) {
	seeds(f)
	f.Fuzz(func(t *testing.T, b []byte) {
		messagesIn := len(b) / nlmsgHeader
		var e entry
		n := 0
		for seq := range uint32(4) {
			d := dump{seq: seq, each: func(body []byte) {
				n++
				if e.decode(body) == nil {
					var m messages
					if err := m.remove(&e.key, 0); err == nil && len(m.b) < nlmsgHeader+nfgenHeader+attrHeader {
						t.Errorf("a deletion of %d bytes", len(m.b))
					}
				}
			}}
			_ = d.take(b)
		}
		if n > messagesIn {
			t.Errorf("%d entries in %d bytes", n, len(b))
		}
		_, _ = acks(b, 1, 4, func(i int, _ syscall.Errno) {
			if i < 0 || i > 3 {
				t.Errorf("message %d refused", i)
			}
		})
		_, _, _ = sizeOf(b, 1)
	})
}

// FuzzDecode has no datagram around the entry.
func FuzzDecode(f *testing.F) {
	f.Add(bodyOf(told{"10.244.1.5:1234", "10.96.0.10:53", "10.244.2.7:5353", unix.IPPROTO_UDP, 0x1a8, 7, 0, -1}))
	f.Add(bodyOf(told{"[fd00::5]:1234", "[fd00::10]:80", "[fd00::10]:80", unix.IPPROTO_TCP, 0, 8, 9, tcpFinWait}))
	f.Fuzz(func(t *testing.T, b []byte) {
		var e entry
		if e.decode(b) == nil {
			newPlan([]Job{{Frontend: e.frontend(), Appeared: true}}, true).stale(&e)
		}
	})
}

func TestDump(t *testing.T) {
	done := func(errno syscall.Errno) []byte {
		b := binary.NativeEndian.AppendUint32(nil, 20)
		b = binary.NativeEndian.AppendUint16(b, unix.NLMSG_DONE)
		b = binary.NativeEndian.AppendUint16(b, 0)
		b = binary.NativeEndian.AppendUint32(b, 1)
		b = binary.NativeEndian.AppendUint32(b, 0)
		return binary.NativeEndian.AppendUint32(b, uint32(-int32(errno)))
	}
	var one messages
	one.told(told{"10.244.1.5:1234", "10.96.0.10:53", "10.244.2.7:5353", unix.IPPROTO_UDP, 0, 7, 0, -1})
	interrupted := append([]byte{}, one.b...)
	interrupted[6] |= unix.NLM_F_DUMP_INTR
	other := append([]byte{}, one.b...)
	other[8] = 99
	endless := append([]byte{}, one.b...)
	binary.NativeEndian.PutUint32(endless, 0)
	tests := []struct {
		name        string
		b           []byte
		entries     int
		done        bool
		interrupted bool
		fails       bool
	}{
		{"nothing", nil, 0, false, false, false},
		{"one", one.b, 1, false, false, false},
		{"one and the end", append(append([]byte{}, one.b...), done(0)...), 1, true, false, false},
		{"after the end", append(done(0), one.b...), 0, true, false, false},
		{"refused", done(unix.EINVAL), 0, true, false, true},
		{"interrupted", interrupted, 1, false, true, false},
		{"an answer to something else", other, 0, false, false, false},
		{"a message without length", endless, 0, false, false, true},
		{"a message that is cut off", one.b[:40], 0, false, false, true},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			n := 0
			d := dump{seq: 1, each: func([]byte) { n++ }}
			err := d.take(test.b)
			if n != test.entries || d.done != test.done || d.interrupted != test.interrupted || (err != nil) != test.fails {
				t.Errorf("%d entries, done %v, interrupted %v, error %v", n, d.done, d.interrupted, err)
			}
		})
	}
}
