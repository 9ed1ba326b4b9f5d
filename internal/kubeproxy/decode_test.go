package kubeproxy

import (
	"encoding/binary"
	"net/netip"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"
)

func TestListening(t *testing.T) {
	if binary.NativeEndian.Uint16([]byte{1, 0}) != 1 {
		t.Skip("the tables are of a little-endian machine")
	}
	const tcp = `  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode
   0: 0100007F:2809 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 38412 1 0000000000000000 100 0 0 10 0
   1: 0100007F:2809 0100007F:D431 01 00000000:00000000 00:00000000 00000000     0        0 38413 1 0000000000000000 100 0 0 10 0
   2: 00000000:0016 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 17 1 0000000000000000 100 0 0 10 0
`
	const tcp6 = `  sl  local_address                         remote_address                        st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode
   0: 00000000000000000000000000000000:2810 00000000000000000000000000000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 38414 1 0000000000000000 100 0 0 10 0
`
	got := append(listening([]byte(tcp)), listening([]byte(tcp6))...)
	want := []listener{{netip.MustParseAddrPort("127.0.0.1:10249"), "38412"}, {netip.MustParseAddrPort("[::]:10256"), "38414"}}
	if diff := cmp.Diff(want, got, cmp.AllowUnexported(listener{}), cmp.Comparer(func(a, b netip.AddrPort) bool { return a == b })); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

// As IPVS prints connections: addresses of IPv4 are hexadecimal, those of IPv6 in full.
func TestEstablished(t *testing.T) {
	const table = `Pro FromIP   FPrt ToIP     TPrt DestIP   DPrt State       Expires PEName PEData
TCP 0AF4010C 9C40 0A600001 01BB AC1F000B 192B ESTABLISHED     891
TCP 0AF4010C 9C41 0A600001 01BB AC1F000B 192B TIME_WAIT        12
TCP 0AF4010C 9C42 C0A80001 01BB AC1F000B 192B ESTABLISHED     891
UDP 0AF4010C 9C43 0A600001 0035 0AF4010A 0035 UDP             291
TCP fd00:0010:0244:0001:0000:0000:0000:000c 9C44 fd00:0010:0096:0000:0000:0000:0000:0001 01BB fd00:0031:0000:0000:0000:0000:0000:000b 192B ESTABLISHED     891
`
	own := map[netip.Addr]bool{netip.MustParseAddr("10.96.0.1"): true, netip.MustParseAddr("fd00:10:96::1"): true}
	if n := established(table, own); n != 2 {
		t.Errorf("%d connections, want 2", n)
	}
}

// serverBytes is how IPVS lists a service: the address is a union of 16 bytes.
func serverBytes(family uint16, addr netip.Addr, port uint16) []byte {
	union := make([]byte, 16)
	copy(union, addr.AsSlice())
	service, err := netlink.MarshalAttributes([]netlink.Attribute{
		{Type: ipvsSvcAttrAF, Data: binary.NativeEndian.AppendUint16(nil, family)},
		{Type: ipvsSvcAttrProto, Data: binary.NativeEndian.AppendUint16(nil, unix.IPPROTO_TCP)},
		{Type: ipvsSvcAttrAddr, Data: union},
		{Type: ipvsSvcAttrPort, Data: binary.BigEndian.AppendUint16(nil, port)},
		{Type: 6, Data: []byte("rr\x00")}, // the scheduler
	})
	if err != nil {
		panic(err)
	}
	b, err := netlink.MarshalAttributes([]netlink.Attribute{{Type: ipvsAttrService | unix.NLA_F_NESTED, Data: service}})
	if err != nil {
		panic(err)
	}
	return b
}

func TestVirtualServers(t *testing.T) {
	s := ipvsState{addrs: map[netip.Addr]bool{netip.MustParseAddr("10.96.0.1"): true, netip.MustParseAddr("fd00:10:96::1"): true}}
	tests := []struct {
		name   string
		family uint16
		addr   string
		own    bool
	}{
		{"a cluster IP", unix.AF_INET, "10.96.0.1", true},
		{"a cluster IP, IPv6", unix.AF_INET6, "fd00:10:96::1", true},
		{"a node port, or somebody's", unix.AF_INET, "172.31.0.11", false},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			v, err := decodeServer(serverBytes(test.family, netip.MustParseAddr(test.addr), 443))
			if err != nil {
				t.Fatal(err)
			}
			if v.addr.String() != test.addr || len(v.attrs) != 4 {
				t.Errorf("address %s with %d attributes, want %s with 4", v.addr, len(v.attrs), test.addr)
			}
			if s.own(v) != test.own {
				t.Errorf("own is %t", s.own(v))
			}
		})
	}
}

// Whatever the kernel says, decoding returns.
func FuzzDecode(f *testing.F) {
	f.Add(serverBytes(unix.AF_INET, netip.MustParseAddr("10.96.0.1"), 80))
	f.Fuzz(func(t *testing.T, b []byte) {
		_, _ = decodeServer(b)
		_, _ = jumpOf(b)
		_ = attributes(b, func(ad *netlink.AttributeDecoder) error {
			_, err := decodeChain(ad)
			return err
		})
		for _, fam := range nftFamilies {
			parseBlob(fam, "nat", map[int]string{0: "PREROUTING"}, b)
		}
		_, _ = parseSave(b)
		_ = established(string(b), nil)
		_ = listening(b)
	})
}
