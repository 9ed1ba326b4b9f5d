package conntrack

import (
	"cmp"
	"fmt"
	"net/netip"
	"slices"
	"testing"

	gocmp "github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"github.com/weir-project/weir/dataplane"
)

// many returns n endpoints in no order.
func many(n int) []netip.AddrPort {
	var list []netip.AddrPort
	for i := range n {
		i = (i*7919 + 5) % n // n is no multiple of the prime
		list = append(list, netip.AddrPortFrom(netip.AddrFrom4([4]byte{10, 244, byte(i >> 8), byte(i)}), 5353))
	}
	return list
}

func TestStale(t *testing.T) {
	const dns, dns6, web = "10.96.0.10:53", "[fd00::10]:53", "10.96.0.20:80"
	const epA, epB = "10.244.1.1:5353", "10.244.1.2:5353"
	const nodePort = "172.31.0.11:30053"
	udp := func(dst, from string) told {
		src := "10.244.9.9:4000"
		if ap(dst).Addr().Is6() {
			src = "[fd00::9]:4000"
		}
		return told{src, dst, from, unix.IPPROTO_UDP, 0, 1, 0, -1}
	}
	tcp := func(dst, from string, state int) told {
		return told{"10.244.9.9:4000", dst, from, unix.IPPROTO_TCP, 0, 1, 0, state}
	}
	job := func(f string, p dataplane.Protocol, keep ...string) Job {
		j := Job{Frontend: frontend(f, p)}
		for _, k := range keep {
			j.Keep = append(j.Keep, ap(k))
		}
		return j
	}
	appeared := func(j Job) Job { j.Appeared = true; return j }
	tests := []struct {
		name  string
		job   Job
		entry told
		want  bool
	}{
		{"endpoint kept", job(dns, protoUDP, epA), udp(dns, epA), false},
		{"endpoint replaced", job(dns, protoUDP, epB), udp(dns, epA), true},
		{"endpoint's port replaced", job(dns, protoUDP, "10.244.1.1:5354"), udp(dns, epA), true},
		{"scaled to zero", job(dns, protoUDP), udp(dns, epA), true},
		{"IPv6 replaced", job(dns6, protoUDP, "[fd00::1]:53"), udp(dns6, "[fd00::2]:53"), true},
		{"IPv6 kept", job(dns6, protoUDP, "[fd00::2]:53"), udp(dns6, "[fd00::2]:53"), false},
		{"untranslated, frontend known before", job(dns, protoUDP, epA), udp(dns, dns), false},
		{"untranslated, frontend appeared", appeared(job(dns, protoUDP, epA)), udp(dns, dns), true},
		{"untranslated, appeared without endpoints", appeared(job(dns, protoUDP)), udp(dns, dns), true},
		{"appeared, and already translated", appeared(job(dns, protoUDP, epA)), udp(dns, epA), false},
		{"the endpoint is at the frontend's own address", appeared(job(dns, protoUDP, dns)), udp(dns, dns), false},
		{"another frontend", job(dns, protoUDP), udp("10.96.0.11:53", epA), false},
		{"another port", job(dns, protoUDP), udp("10.96.0.10:54", epA), false},
		{"another protocol", job(dns, protoUDP), tcp(dns, epA, tcpEstablished), false},
		{"NodePort number on another host", job(nodePort, protoUDP), udp("172.31.0.12:30053", epA), false},
		{"NodePort number as a source port", job(nodePort, protoUDP), told{nodePort, "9.9.9.9:53", "9.9.9.9:53", unix.IPPROTO_UDP, 0, 1, 0, -1}, false},
		{"in another zone", job(dns, protoUDP), told{"10.244.9.9:4000", dns, epA, unix.IPPROTO_UDP, 0, 1, 5, -1}, true},
		{"TCP replaced", job(web, protoTCP, epB), tcp(web, epA, tcpEstablished), true},
		{"TCP kept", job(web, protoTCP, epA), tcp(web, epA, tcpEstablished), false},
		{"TCP still dialling", job(web, protoTCP, epB), tcp(web, epA, tcpSynSent), true},
		{"TCP over", job(web, protoTCP, epB), tcp(web, epA, tcpTimeWait), false},
		{"TCP of unknown state", job(web, protoTCP, epB), tcp(web, epA, -1), true},
		{"TCP untranslated, frontend appeared", appeared(job(web, protoTCP)), tcp(web, web, tcpEstablished), false},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			var e entry
			if err := e.decode(bodyOf(test.entry)); err != nil {
				t.Fatal(err)
			}
			if got := newPlan([]Job{test.job}, true).stale(&e); got != test.want {
				t.Errorf("stale: %v, want %v", got, test.want)
			}
		})
	}
	t.Run("TCP not admitted", func(t *testing.T) {
		if p := newPlan([]Job{job(web, protoTCP), job(web, 132)}, false); len(p.targets) > 0 {
			t.Errorf("%v", p.targets)
		}
	})
}

// Flows to endpoints that have come while the table was read stay.
func TestSpare(t *testing.T) {
	const epA, epB, epC = "10.244.1.1:53", "10.244.1.2:53", "10.244.1.3:53"
	grown, fixed := frontend("10.96.0.10:53", protoUDP), frontend("10.96.0.11:53", protoUDP)
	asked := 0
	p := newPlan([]Job{
		{Frontend: grown, Keep: []netip.AddrPort{ap(epA)}, Now: func() []netip.AddrPort {
			asked++
			return []netip.AddrPort{ap(epA), ap(epB)}
		}},
		{Frontend: fixed, Keep: []netip.AddrPort{ap(epA)}},
	}, false)
	var b batch
	for _, f := range [][2]string{{"10.96.0.10:53", epB}, {"10.96.0.10:53", epC}, {"10.96.0.11:53", epB}, {"10.96.0.10:53", epB}} {
		var e entry
		if err := e.decode(bodyOf(told{"10.244.9.9:4000", f[0], f[1], unix.IPPROTO_UDP, 0, 1, 0, -1})); err != nil {
			t.Fatal(err)
		}
		if !p.stale(&e) {
			t.Errorf("%v is not stale", f)
		}
		b.add(&e)
	}
	p.spare(&b)
	var got []string
	for i := range b.n {
		got = append(got, fmt.Sprint(b.doomed[i].dst, " ", b.doomed[i].endpoint))
	}
	if diff := gocmp.Diff([]string{"10.96.0.10:53 " + epC, "10.96.0.11:53 " + epB}, got); diff != "" {
		t.Errorf("doomed (-want +got)\n%s", diff)
	}
	if asked != 1 {
		t.Errorf("asked %d times for one batch", asked)
	}
}

func TestKeepMany(t *testing.T) {
	list := many(1000)
	shared := slices.Clone(list)
	f := frontend("10.96.0.10:53", protoUDP)
	g := frontend("10.96.0.11:53", protoUDP)
	p := newPlan([]Job{{Frontend: f, Keep: shared}, {Frontend: g, Keep: shared}}, false)
	if len(p.keeps) != 1 {
		t.Errorf("one list of endpoints is held %d times", len(p.keeps))
	}
	k := &p.keeps[0]
	for _, ep := range list {
		if !k.has(ep) {
			t.Fatalf("%s is not kept", ep)
		}
	}
	if k.has(ap("10.244.255.1:5353")) || k.has(ap("10.244.0.1:5354")) {
		t.Error("something is kept that is not in the list")
	}
	if !slices.Equal(shared, list) {
		t.Error("the caller's list was changed")
	}
}

func TestScans(t *testing.T) {
	udp := func(f string) Job { return Job{Frontend: frontend(f, protoUDP)} }
	appeared := func(j Job) Job { j.Appeared = true; return j }
	var ips, nodePorts, spread, spread6 []Job
	for i := range 10 {
		ips = append(ips, udp(fmt.Sprintf("10.96.0.10:%d", 53+i)))
		nodePorts = append(nodePorts, udp(fmt.Sprintf("172.31.0.%d:30053", i)))
		spread = append(spread, udp(fmt.Sprintf("10.96.0.%d:%d", i, 53+i)))
		spread6 = append(spread6, udp(fmt.Sprintf("[fd00::%d]:%d", i, 53+i)))
	}
	tests := []struct {
		name    string
		jobs    []Job
		entries int
		want    []string
	}{
		{"one", []Job{udp("10.96.0.10:53")}, 0, []string{"udp flows to 10.96.0.10 port 53, translated"}},
		{"one appeared", []Job{appeared(udp("10.96.0.10:53"))}, 0, []string{"udp flows to 10.96.0.10 port 53"}},
		{"IPv6 never by address", []Job{udp("[fd00::10]:53")}, 0, []string{"udp flows port 53, translated"}},
		{"both families", []Job{udp("10.96.0.10:53"), udp("[fd00::10]:53")}, 0, []string{"udp flows port 53, translated", "udp flows to 10.96.0.10 port 53, translated"}},
		{"many ports of an address", ips, 0, []string{"udp flows to 10.96.0.10, translated"}},
		{"many addresses of a port", nodePorts, 0, []string{"udp flows port 30053, translated"}},
		{"many of both", spread, 0, []string{"udp flows, translated"}},
		{"many of both, IPv6", spread6, 0, []string{"udp flows, translated"}},
		{"a large table", []Job{udp("10.96.0.10:53"), udp("[fd00::10]:53")}, maxFiltered + 1, []string{"all flows"}},
		{"nothing", nil, maxFiltered + 1, nil},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			p := newPlan(test.jobs, true)
			var got []string
			for _, s := range p.scans(test.entries) {
				text := s.String()
				if s.translated {
					text += ", translated"
				}
				got = append(got, text)
			}
			slices.SortFunc(got, cmp.Compare)
			if diff := gocmp.Diff(test.want, got); diff != "" {
				t.Errorf("(-want +got)\n%s", diff)
			}
		})
	}
}

// stream is what the kernel says of n flows to 256 frontends.
func stream(n int) []byte {
	var m messages
	m.b = make([]byte, 0, n*256)
	for i := range n {
		m.told(told{fmt.Sprintf("11.0.%d.%d:%d", i>>8, i&255, 1024+i%60000), fmt.Sprintf("10.96.0.%d:53", i%256), "10.244.0.1:5353", unix.IPPROTO_UDP, 0, 1, 0, -1})
		m.seq = 0
	}
	return m.b
}

// reader returns a function that reads a stream of flows as a dump is read, with jobs for half of
// the frontends.
func reader(n int) (read func() (stale int)) {
	b := stream(n)
	keep := many(100)
	var jobs []Job
	for i := range 128 {
		jobs = append(jobs, Job{Frontend: frontend(fmt.Sprintf("10.96.0.%d:53", i), protoUDP), Keep: keep})
	}
	p := newPlan(jobs, false)
	var e entry
	var doom batch
	var total int
	d := dump{seq: 1, each: func(body []byte) {
		if e.decode(body) == nil && p.stale(&e) {
			total++
			if doom.add(&e); doom.full() {
				doom.n = 0
			}
		}
	}}
	return func() int {
		total = 0
		if err := d.take(b); err != nil {
			panic(err)
		}
		return total
	}
}

func TestReadingAllocatesNothing(t *testing.T) {
	for _, n := range []int{1, 100, 10_000} {
		read := reader(n)
		read() // the first flow of a frontend sorts the endpoints
		if got := testing.AllocsPerRun(5, func() { read() }); got > 0 {
			t.Errorf("%d entries: %v allocations, want none", n, got)
		}
	}
}

func BenchmarkRead(b *testing.B) {
	for _, n := range []int{100, 10_000} {
		b.Run(fmt.Sprintf("entries=%d", n), func(b *testing.B) {
			read := reader(n)
			b.ReportAllocs()
			for b.Loop() {
				read()
			}
			b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N*n), "ns/entry")
		})
	}
}
