package netlab

import (
	"net/netip"
	"testing"
	"time"
)

func TestSCTPRoundTrip(t *testing.T) {
	in := sctpPacket{source: 4711, dest: 80, tag: 0x01020304, chunk: sctpInitAck, initiate: 7, cookie: []byte("who I am")}
	out, ok := parseSCTP(in.marshal())
	if !ok || out.source != in.source || out.dest != in.dest || out.tag != in.tag || out.chunk != in.chunk ||
		out.initiate != in.initiate || string(out.cookie) != string(in.cookie) {
		t.Errorf("parsed %+v, %t", out, ok)
	}
	b := in.marshal()
	b[20]++
	if _, ok := parseSCTP(b); ok {
		t.Error("a wrong checksum passed")
	}
}

func FuzzParseSCTP(f *testing.F) {
	f.Add(sctpPacket{chunk: sctpInit, initiate: 1}.marshal())
	f.Add(sctpPacket{chunk: sctpInitAck, initiate: 1, cookie: []byte("odd")}.marshal())
	f.Fuzz(func(t *testing.T, b []byte) { parseSCTP(b) })
}

func TestHistogram(t *testing.T) {
	var h histogram
	for i := 1; i <= 1000; i++ {
		h.add(time.Duration(i) * time.Microsecond)
	}
	for q, want := range map[float64]time.Duration{0.5: 500 * time.Microsecond, 0.99: 990 * time.Microsecond} {
		if got := h.quantile(q); got < want*95/100 || got > want*105/100 {
			t.Errorf("quantile %v: %s, want about %s", q, got, want)
		}
	}
	if h.max != time.Millisecond {
		t.Errorf("max %s", h.max)
	}
}

func TestNextPort(t *testing.T) {
	var h Host
	seen := make(map[uint16]bool)
	for range sourcePorts {
		p := h.nextPort(netip.IPv4Unspecified())
		if seen[p] || p < firstPort || p >= nodePorts && p < nodePortsEnd {
			t.Fatalf("port %d", p)
		}
		seen[p] = true
	}
}
