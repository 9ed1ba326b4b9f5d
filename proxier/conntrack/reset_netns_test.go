package conntrack

import (
	"os"
	"testing"
	"time"

	"github.com/weir-project/weir/internal/netlab"
)

// Clients of every kind wait for data, or send, when the endpoint of their connection goes.
func TestNetnsTCPIsReset(t *testing.T) {
	l := newLab(t, Config{ResetTCP: true})
	for _, host := range []string{"podA", "client"} { // a client checks where a packet comes from
		for _, link := range []string{"all", "eth0"} {
			if err := l.Host(host).Sysctl("net/ipv4/conf/"+link+"/rp_filter", "1"); err != nil {
				t.Fatal(err)
			}
		}
	}
	vips := map[bool]map[string]string{
		false: {"podA": "10.96.0.20:80", "node": "10.96.0.20:80", "remote": "10.96.0.20:80", "client": "203.0.113.9:80"},
		true:  {"podA": "[fd00:10:96::20]:80", "node": "[fd00:10:96::20]:80", "remote": "[fd00:10:96::20]:80", "client": "[2001:db8:113::9]:80"},
	}
	for _, fam := range families {
		gone := l.serve("podB", netlab.TCP, l.addr("podB", fam.v6), 8080)
		stays := l.serve("podC", netlab.TCP, l.addr("podC", fam.v6), 8080)
		for _, from := range []string{"podA", "node", "remote", "client"} {
			for _, left := range []string{"another", "none"} {
				t.Run(fam.name+" from "+from+", endpoints left: "+left, func(t *testing.T) {
					l := *l
					l.t = t
					f := frontend(vips[fam.v6][from], protoTCP)
					l.set(f, gone)
					waits, sends := l.dial(from, f), l.dial(from, f)
					waits.want("podB")
					sends.want("podB")
					l.set(f, gone, stays)
					var kept flow // finds its way to the other endpoint
					for kept = l.dial(from, f); kept.ask() != "podC"; kept = l.dial(from, f) {
						kept.Close()
					}
					job := Job{Frontend: f}
					if left == "another" {
						job.Keep = addrPorts(stays)
					}
					l.set(f, job.Keep...)
					start := time.Now()
					r := l.clean(job)
					if _, err := waits.reset(time.Second); err != nil {
						t.Errorf("a client that waits: %v\n%s", err, l.flows())
					}
					t.Logf("%+v, reset after %s", r, time.Since(start))
					if got := sends.ask(); !isReset(got) {
						t.Errorf("a client that sends: %s", got)
					}
					if left == "another" {
						kept.want("podC")
					}
					l.forget(f)
				})
			}
		}
	}
}

// An idle client is told nothing by the removal alone; that is what the poke is for.
func TestNetnsTCPRemovalAloneDoesNotReset(t *testing.T) {
	l := newLab(t, Config{ResetTCP: true})
	if err := l.conn.poke.close(); err != nil {
		t.Fatal(err)
	}
	gone := l.serve("podB", netlab.TCP, l.addr("podB", false), 8080)
	stays := l.serve("podC", netlab.TCP, l.addr("podC", false), 8080)
	f := frontend("10.96.0.20:80", protoTCP)
	l.set(f, gone)
	c := l.dial("podA", f)
	c.want("podB")
	l.set(f, stays)
	if r := l.clean(Job{Frontend: f, Keep: addrPorts(stays)}); r.Deleted.IPv4 != 1 || r.Reset.IPv4 != 0 {
		t.Errorf("%+v", r)
	}
	if _, err := c.reset(300 * time.Millisecond); !os.IsTimeout(err) {
		t.Errorf("a client that waits: %v", err)
	}
	if got := c.ask(); !isReset(got) {
		t.Errorf("a client that sends: %s", got)
	}
}
