package dns

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// BenchmarkRespond is what an answer costs, the kernel left aside.
func BenchmarkRespond(b *testing.B) {
	c := newCluster(b)
	c.services(5_000)
	c.headless(1_000)
	for _, bench := range []struct {
		what, name, qtype string
		tcp               bool
	}{
		{"service", "service-7.namespace-7.svc.cluster.local", "A", false},
		{"nodata", "service-7.namespace-7.svc.cluster.local", "AAAA", false},
		{"nxdomain", "example.org.namespace-7.svc.cluster.local", "A", false},
		{"srv", "_http._tcp.service-7.namespace-7.svc.cluster.local", "SRV", false},
		{"ptr", "7.0.96.10.in-addr.arpa", "PTR", false},
		{"pod", "10-1-2-3.default.pod.cluster.local", "A", false},
		{"headless", "big.default.svc.cluster.local", "A", false},
		{"headless-tcp", "big.default.svc.cluster.local", "A", true},
	} {
		b.Run("query="+bench.what, func(b *testing.B) {
			query := withOPT(newQuery(b, bench.name, bench.qtype, false), 1232, 0, false)
			r := &reply{zone: c.zone}
			buf := make([]byte, 0, maxTCP)
			b.ReportAllocs()
			for b.Loop() {
				r.respond(buf, query, bench.tcp)
			}
		})
	}
}

// BenchmarkUpdate is what it costs the zone that one endpoint comes and goes.
func BenchmarkUpdate(b *testing.B) {
	for _, n := range []int{100, 1_000, 10_000} {
		b.Run(fmt.Sprintf("endpoints=%d", n), func(b *testing.B) {
			c := newCluster(b)
			c.headless(n)
			with, without := bigSlice(0, 100, 0), bigSlice(0, 99, 0)
			b.ReportAllocs()
			for b.Loop() {
				c.engine.SetSlice(without)
				c.zone.Update(c.names)
				c.engine.SetSlice(with)
				c.zone.Update(c.names)
			}
		})
	}
	for _, n := range []int{100, 10_000} {
		b.Run(fmt.Sprintf("services=%d", n), func(b *testing.B) {
			c := newCluster(b)
			c.services(n)
			s := c.engine.Service(c.engine.Services()[0])
			b.ReportAllocs()
			for b.Loop() {
				c.engine.DeleteService(s.Name)
				c.zone.Update(c.names)
				c.engine.SetService(s)
				c.zone.Update(c.names)
			}
		})
	}
}

// BenchmarkUDP is the whole path over loopback, driven by dnsperf: ns/op is wall time, and cpu-µs/op
// the time that this process spent for each query.
func BenchmarkUDP(b *testing.B) {
	if _, err := exec.LookPath("dnsperf"); err != nil {
		b.Skip(err)
	}
	c := newCluster(b)
	c.services(5_000)
	c.headless(1_000)
	addr := c.serve(b, ServerConfig{Sockets: 1})
	for _, bench := range []struct {
		what string
		line func(i int) string
	}{
		{"service", func(i int) string { return fmt.Sprintf("service-%d.namespace-%d.svc.cluster.local A", i, i%50) }},
		{"nxdomain", func(i int) string { return fmt.Sprintf("name-%d.org.namespace-%d.svc.cluster.local A", i, i%50) }},
		{"headless", func(int) string { return "big.default.svc.cluster.local A" }},
	} {
		b.Run("query="+bench.what, func(b *testing.B) {
			var lines []string
			for i := range 5_000 {
				lines = append(lines, bench.line(i))
			}
			file := filepath.Join(b.TempDir(), "queries")
			if err := os.WriteFile(file, []byte(strings.Join(lines, "\n")+"\n"), 0o600); err != nil {
				b.Fatal(err)
			}
			for b.Loop() {
				before := cpuTime(b)
				out, err := exec.Command("dnsperf", "-s", addr.Addr().String(), "-p", fmt.Sprint(addr.Port()), "-d", file, "-l", "3", "-q", "200", "-T", "1", "-c", "1").CombinedOutput()
				if err != nil {
					b.Fatalf("%v\n%s", err, out)
				}
				var done, lost int
				for line := range strings.Lines(string(out)) {
					_, _ = fmt.Sscanf(strings.TrimSpace(line), "Queries completed: %d", &done)
					_, _ = fmt.Sscanf(strings.TrimSpace(line), "Queries lost: %d", &lost)
				}
				b.ReportMetric(float64((cpuTime(b)-before).Microseconds())/float64(max(1, done)), "cpu-µs/query")
				b.ReportMetric(float64(done)/3, "queries/s")
				b.ReportMetric(float64(lost), "lost")
			}
		})
	}
}

func cpuTime(b *testing.B) time.Duration {
	var u unix.Rusage
	if err := unix.Getrusage(unix.RUSAGE_SELF, &u); err != nil {
		b.Fatal(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}
