package proxier

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/go-logr/logr"
	gocmp "github.com/google/go-cmp/cmp"
	"k8s.io/klog/v2"

	"github.com/weir-project/weir/dataplane"
	"github.com/weir-project/weir/dataplane/dataplanetest"
	"github.com/weir-project/weir/endpoints"
)

// loop is a Proxier that runs in a bubble of fake time.
type loop struct {
	*Proxier
	t      *testing.T
	engine *endpoints.Engine
	kernel *dataplanetest.Kernel
	start  time.Time

	mu       sync.Mutex
	problems []endpoints.Problem
	reports  []SyncReport
	logs     []string
}

// Report, SyncDone and NodeChanged note what they are told.
func (l *loop) Report(p endpoints.Problem) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.problems = append(l.problems, p)
}

func (l *loop) SyncDone(r SyncReport) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.reports = append(l.reports, r)
}

func (l *loop) NodeChanged(*endpoints.Node) {}
func (l *loop) Queued()                     {}
func (l *loop) SyncStarted()                {}
func (l *loop) Progress()                   {}

// logged counts the lines that the loop has logged, errors included, with a word in them.
func (l *loop) logged(word string) (n int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, line := range l.logs {
		if strings.Contains(line, word) {
			n++
		}
	}
	return n
}

// quiet is a context whose logs go nowhere.
func quiet() context.Context { return klog.NewContext(context.Background(), logr.Discard()) }

// sink notes what is logged at V(0).
type sink struct{ l *loop }

func (s sink) Init(logr.RuntimeInfo)             {}
func (s sink) Enabled(level int) bool            { return level == 0 }
func (s sink) WithValues(...any) logr.LogSink    { return s }
func (s sink) WithName(string) logr.LogSink      { return s }
func (s sink) Info(_ int, msg string, kv ...any) { s.Error(nil, msg, kv...) }
func (s sink) Error(err error, msg string, kv ...any) {
	s.l.mu.Lock()
	defer s.l.mu.Unlock()
	s.l.logs = append(s.l.logs, fmt.Sprint(msg, " ", err, " ", kv))
}

// inBubble runs a test with a running loop. prepare may change the configuration and the kernel;
// the engine has not synced when Run begins.
func inBubble(t *testing.T, prepare func(*Config, *dataplanetest.Kernel), test func(*loop)) {
	synctest.Test(t, func(t *testing.T) {
		l := &loop{t: t, engine: endpoints.New(endpoints.Config{NodeName: "node"}), kernel: &dataplanetest.Kernel{}, start: time.Now()}
		l.kernel.Watch()
		cfg := Config{Source: l.engine, Kernel: l.kernel, Reporter: l, Observer: l, NodePortAddrs: addrs("192.168.1.1"), NodeAddrs: addrs("192.168.1.1")}
		if prepare != nil {
			prepare(&cfg, l.kernel)
		}
		var err error
		if l.Proxier, err = New(cfg); err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(klog.NewContext(t.Context(), logr.New(sink{l})))
		done := make(chan error, 1)
		go func() { done <- l.Run(ctx) }()
		synctest.Wait()
		test(l)
		cancel()
		if err := <-done; err != nil {
			t.Errorf("Run: %v", err)
		}
		if err := l.kernel.Err(); err != nil {
			t.Error(err)
		}
	})
}

// syncSource delivers everything the source has at first.
func (l *loop) syncSource(services ...*endpoints.Service) {
	l.engine.ReplaceServices(services)
	var list []*endpoints.Slice
	for _, s := range services {
		list = append(list, slice(s.Name, 3))
	}
	l.engine.ReplaceSlices(list)
	l.engine.SetNode(&endpoints.Node{Name: "node"})
	l.engine.SetServiceCIDRs(prefixes("10.96.0.0/16"))
}

// service returns service i, whose cluster IP is 10.96.0.i.
func service(i int) *endpoints.Service {
	return &endpoints.Service{Name: name(fmt.Sprintf("svc-%d", i)), UID: fmt.Sprint("uid-", i), ClusterIPs: addrs(fmt.Sprintf("10.96.0.%d", i)),
		Ports: []endpoints.Port{{Protocol: endpoints.TCP, Port: 80}}}
}

// slice returns the slice of a service with n endpoints.
func slice(service endpoints.Name, n int) *endpoints.Slice {
	s := &endpoints.Slice{Name: service, Service: service, Family: endpoints.IPv4,
		Ports: []endpoints.SlicePort{{Protocol: endpoints.TCP, Port: 8080}}}
	for _, ap := range manyEps(n) {
		s.Endpoints = append(s.Endpoints, endpoints.Endpoint{Addr: ap.Addr(), Where: &endpoints.Where{Node: "elsewhere"}, Conditions: endpoints.Ready | endpoints.Serving})
	}
	return s
}

// batches returns what the kernel was asked since the last time, as "+offset kind count error".
func (l *loop) batches() (out []string) {
	for _, b := range l.kernel.Batches() {
		kind := "apply"
		if b.Replace {
			kind = "replace"
		}
		line := fmt.Sprintf("%v %s %d", b.At.Sub(l.start), kind, b.Count)
		if b.Err != nil {
			line += " failed"
		}
		out = append(out, line)
	}
	return out
}

// want compares what the kernel was asked since the last time.
func (l *loop) want(lines ...string) {
	l.t.Helper()
	synctest.Wait()
	if diff := gocmp.Diff(lines, l.batches()); diff != "" {
		l.t.Errorf("what the kernel was asked (-want +got):\n%s", diff)
	}
}

// at goes to a moment after the start.
func (l *loop) at(d time.Duration) {
	time.Sleep(d - time.Since(l.start))
	synctest.Wait()
}

// refuse lets the kernel refuse what concerns service i with EINVAL.
func refuse(k *dataplanetest.Kernel, i int) {
	bad := addrs(fmt.Sprintf("10.96.0.%d", i))[0]
	k.Refuse(func(op dataplane.Op) error {
		if op.Elem.Frontend.Addr == bad && !op.Delete {
			return syscall.EINVAL
		}
		return nil
	})
}

func TestNothingBeforeSynced(t *testing.T) {
	inBubble(t, nil, func(l *loop) {
		l.engine.ReplaceServices([]*endpoints.Service{service(1)})
		l.engine.ReplaceSlices([]*endpoints.Slice{slice(service(1).Name, 3)})
		l.engine.SetNode(nil)
		l.at(time.Hour)
		l.want()
		if l.Synced() {
			t.Error("synced before the source")
		}
		l.engine.SetServiceCIDRs(nil)
		l.want("1h0m0s replace 5")
		if err := l.WaitSynced(context.Background()); err != nil || !l.Synced() {
			t.Errorf("not synced: %v", err)
		}
	})
}

func TestEmptySourceSyncs(t *testing.T) {
	inBubble(t, nil, func(l *loop) {
		l.engine.ReplaceServices(nil)
		l.engine.ReplaceSlices(nil)
		l.engine.SetNode(nil)
		l.engine.SetServiceCIDRs(nil)
		l.want("0s replace 0")
	})
}

func TestIdleSyncsAtOnce(t *testing.T) {
	inBubble(t, nil, func(l *loop) {
		l.syncSource(service(1), service(2))
		l.want("0s replace 11")
		l.at(time.Second)
		l.engine.SetSlice(slice(service(1).Name, 4))
		l.want("1s apply 1")
		l.engine.SetSlice(slice(service(1).Name, 2))
		l.want("1s apply 4")
		l.engine.DeleteService(service(2).Name)
		l.want("1s apply 5")
		l.at(time.Hour)
		l.want()
		last := l.reports[len(l.reports)-1]
		if last.Full || last.Err != nil || last.Ops != 5 || last.OpsIPv4 != 5 || last.Services != 1 || last.ServiceEvents != 1 ||
			!last.Since.Equal(l.start.Add(time.Second)) || last.Frontends != 1 {
			t.Errorf("report %+v", last)
		}
		if first := l.reports[0]; !first.Full || first.Ops != 11 || first.Frontends != 2 {
			t.Errorf("first report %+v", first)
		}
	})
}

func TestGathersWhileApplying(t *testing.T) {
	slow := func(c *Config, k *dataplanetest.Kernel) {
		k.Before(func([]dataplane.Op) error { time.Sleep(10 * time.Millisecond); return nil })
	}
	inBubble(t, slow, func(l *loop) {
		l.syncSource(service(1), service(2))
		l.at(time.Second)
		l.want("10ms replace 11")
		for i := range 9 {
			l.engine.SetSlice(slice(service(1+i%2).Name, 4+i/2))
			time.Sleep(time.Millisecond)
		}
		l.at(2 * time.Second)
		l.want("1.01s apply 1", "1.02s apply 12")
	})
}

func TestMinSyncPeriod(t *testing.T) {
	inBubble(t, func(c *Config, k *dataplanetest.Kernel) { c.MinSyncPeriod = time.Second }, func(l *loop) {
		l.syncSource(service(1))
		l.at(time.Minute)
		l.want("0s replace 6")
		for i := range 25 {
			l.engine.SetSlice(slice(service(1).Name, 4+i))
			time.Sleep(140 * time.Millisecond)
		}
		l.at(2 * time.Minute)
		l.want("1m0s apply 1", "1m1s apply 9", "1m2s apply 9", "1m3s apply 7", "1m4s apply 3")
	})
}

func TestBackOff(t *testing.T) {
	lost := func([]dataplane.Op) error { return errors.New("no buffer space") }
	setup := func(c *Config, k *dataplanetest.Kernel) {
		c.RetryMax = 400 * time.Millisecond
		k.Before(lost)
	}
	inBubble(t, setup, func(l *loop) {
		l.syncSource(service(1))
		go func() {
			for i := range 100 {
				l.engine.SetSlice(slice(service(1).Name, 4+i%2))
				time.Sleep(10 * time.Millisecond)
			}
		}()
		l.at(800 * time.Millisecond)
		l.want("0s replace 0 failed", "50ms replace 0 failed", "150ms replace 0 failed", "350ms replace 0 failed", "750ms replace 0 failed")
		if l.Synced() {
			t.Error("synced")
		}
		l.kernel.Before(nil)
		l.at(1150 * time.Millisecond)
		l.want("1.15s replace 8")
		if !l.Synced() || l.logged("Sync failed") != 5 {
			t.Errorf("synced %v, %d failures logged", l.Synced(), l.logged("Sync failed"))
		}
		l.kernel.Before(lost)
		l.engine.SetSlice(slice(service(1).Name, 6))
		l.at(1210 * time.Millisecond)
		l.want("1.15s apply 1 failed", "1.15s replace 0 failed", "1.2s replace 0 failed")
		if r := l.reports[len(l.reports)-1]; r.Err == nil || r.SliceEvents != 1 {
			t.Errorf("report %+v", r)
		}
	})
}

func TestRefusedServiceIsSetAside(t *testing.T) {
	inBubble(t, func(c *Config, k *dataplanetest.Kernel) { refuse(k, 2) }, func(l *loop) {
		l.syncSource(service(1), service(3))
		l.want("0s replace 11")
		l.at(time.Second)
		l.engine.SetService(service(2))
		l.engine.SetSlice(slice(service(1).Name, 4))
		l.engine.SetSlice(slice(service(2).Name, 4))
		synctest.Wait()
		if got := l.SetAside(); len(got) != 1 || got[0].Service != service(2).Name || !errors.Is(got[0].Err, syscall.EINVAL) {
			t.Errorf("set aside %v", got)
		}
		if d := l.kernel.Dump(); len(d[dataplane.Endpoints]) != 7 {
			t.Errorf("the other services were held up:\n%s", d)
		}
		for _, b := range l.kernel.Batches() {
			if b.At.Sub(l.start) != time.Second {
				t.Errorf("transaction at %v", b.At.Sub(l.start))
			}
		}
		l.at(61*time.Second - 1)
		l.want()
		l.at(time.Hour)
		l.want("1m1s apply 6 failed", "3m1s apply 6 failed", "7m1s apply 6 failed", "15m1s apply 6 failed", "31m1s apply 6 failed")
		// One line in the log is the reporter's to write.
		if len(l.problems) != 1 || l.logged("refused") != 0 {
			t.Errorf("reported %v, logged besides %d", l.problems, l.logged("refused"))
		}
		// A change of the service is tried at once.
		l.kernel.Refuse(nil)
		l.engine.SetSlice(slice(service(2).Name, 5))
		l.want("1h0m0s apply 7")
		if got := l.SetAside(); len(got) != 0 {
			t.Errorf("set aside %v", got)
		}
	})
}

func TestRefusedServiceLeavesTheKernel(t *testing.T) {
	inBubble(t, nil, func(l *loop) {
		l.syncSource(service(1), service(2))
		l.want("0s replace 11")
		refuse(l.kernel, 2)
		l.engine.SetSlice(slice(service(2).Name, 4))
		l.want("0s apply 1 failed", "0s apply 5")
		l.kernel.Refuse(nil)
		l.at(time.Minute)
		l.want("1m0s apply 6")
	})
}

func TestRefusedRemovalWritesEverything(t *testing.T) {
	inBubble(t, nil, func(l *loop) {
		l.syncSource(service(1), service(2))
		l.want("0s replace 11")
		bad := addrs("10.96.0.2")[0]
		l.kernel.Refuse(func(op dataplane.Op) error {
			if op.Elem.Frontend.Addr == bad {
				return syscall.EINVAL
			}
			return nil
		})
		l.engine.SetSlice(slice(service(2).Name, 4))
		l.want("0s apply 1 failed", "0s apply 5 failed", "0s replace 6")
	})
}

func TestRefusedInReplace(t *testing.T) {
	inBubble(t, func(c *Config, k *dataplanetest.Kernel) { refuse(k, 2) }, func(l *loop) {
		l.syncSource(service(1), service(2), service(3))
		l.want("0s replace 16 failed", "0s replace 11")
		if got := l.SetAside(); len(got) != 1 || !l.Synced() {
			t.Errorf("set aside %v, synced %v", got, l.Synced())
		}
		l.kernel.Refuse(nil)
		l.at(time.Minute)
		l.want("1m0s apply 5")
	})
}

func TestRefusedServiceCIDRs(t *testing.T) {
	setup := func(c *Config, k *dataplanetest.Kernel) {
		k.Refuse(func(op dataplane.Op) error {
			if op.Set == dataplane.ServiceCIDRs {
				return syscall.EINVAL
			}
			return nil
		})
	}
	inBubble(t, setup, func(l *loop) {
		l.syncSource(service(1))
		l.want("0s replace 6 failed", "0s replace 5")
		l.engine.SetServiceCIDRs(prefixes("10.97.0.0/16"))
		l.want("0s apply 1 failed")
		l.kernel.Refuse(nil)
		l.engine.SetServiceCIDRs(prefixes("10.98.0.0/16", "10.98.0.0/20"))
		l.want("0s apply 1")
	})
}

func TestRefusalWithoutOwnerIsBisected(t *testing.T) {
	const services = 64
	inBubble(t, nil, func(l *loop) {
		var all []*endpoints.Service
		for i := range services {
			all = append(all, service(i+1))
		}
		l.syncSource(all...)
		l.want("0s replace 321")
		bad := addrs("10.96.0.23")[0]
		l.kernel.Before(func(ops []dataplane.Op) error {
			if slices.ContainsFunc(ops, func(op dataplane.Op) bool { return op.Elem.Frontend.Addr == bad && !op.Delete }) {
				return &dataplane.RefusedError{Err: syscall.E2BIG}
			}
			time.Sleep(time.Second) // so that everything below is gathered
			return nil
		})
		l.engine.SetSlice(slice(service(1).Name, 4))
		synctest.Wait()
		for i := range services {
			l.engine.SetSlice(slice(service(i+1).Name, 5))
		}
		l.at(time.Minute)
		batches := l.kernel.Batches()
		if n := len(batches); n > 2+7+2 {
			t.Errorf("%d transactions to find one of %d services", n, services)
		}
		if got := l.SetAside(); len(got) != 1 || got[0].Service != service(23).Name {
			t.Errorf("set aside %v", got)
		}
		if n := len(l.kernel.Dump()[dataplane.Endpoints]); n != (services-1)*5 {
			t.Errorf("%d endpoints in the kernel", n)
		}
	})
}

func TestNobodysFaultIsRetried(t *testing.T) {
	for _, services := range []int{1, 2, 9} {
		inBubble(t, nil, func(l *loop) {
			var all []*endpoints.Service
			for i := range services {
				all = append(all, service(i+1))
			}
			l.syncSource(all...)
			synctest.Wait()
			l.batches()
			l.kernel.Before(func(ops []dataplane.Op) error { return &dataplane.RefusedError{Err: syscall.ENOMEM} })
			for i := range services {
				l.engine.SetSlice(slice(service(i+1).Name, 4))
			}
			l.at(time.Minute)
			if got := l.SetAside(); len(got) > 0 {
				t.Errorf("set aside %v", got)
			}
			l.batches()
			l.kernel.Before(nil)
			l.at(time.Hour)
			if n := len(l.kernel.Dump()[dataplane.Endpoints]); n != services*4 || l.kernel.Replaces() != 1 {
				t.Errorf("%d endpoints after %d replaces", n, l.kernel.Replaces())
			}
		})
	}
}

func TestStrangers(t *testing.T) {
	inBubble(t, func(c *Config, k *dataplanetest.Kernel) { c.MinSyncPeriod = time.Minute }, func(l *loop) {
		l.syncSource(service(1))
		l.want("0s replace 6")
		l.at(time.Second)
		l.kernel.Flush()
		l.Invalidate()
		l.want("1s replace 6") // at once, whatever the minimum
		l.at(time.Hour)
		l.kernel.Flush() // and nobody tells
		l.engine.SetSlice(slice(service(1).Name, 4))
		l.want("1h0m0s apply 1 failed", "1h0m0s replace 7")
	})
}

func TestNodeAddrsChange(t *testing.T) {
	inBubble(t, nil, func(l *loop) {
		s := service(1)
		s.Ports[0].NodePort = 30080
		l.syncSource(s, service(2))
		l.want("0s replace 16")
		l.SetNodeAddrs(addrs("192.168.1.1", "192.168.1.2"), addrs("192.168.1.1", "192.168.1.2"))
		l.want("0s apply 5")
		l.SetNodeAddrs(addrs("192.168.1.2"), addrs("192.168.1.2"))
		l.want("0s apply 5")
		l.SetNodeAddrs(addrs("192.168.1.2"), addrs("192.168.1.2"))
		l.want()
	})
}

func TestAffinityIsForgottenTwice(t *testing.T) {
	inBubble(t, nil, func(l *loop) {
		s := service(1)
		s.Affinity = time.Hour
		l.syncSource(s)
		l.want("0s replace 7")
		f := dataplane.Frontend{Addr: s.ClusterIPs[0], Port: 80, Protocol: 6}
		stays, goes := manyEps(3)[0], manyEps(3)[2]
		l.kernel.Remember(f, addrs("10.244.0.1")[0], stays)
		l.kernel.Remember(f, addrs("10.244.0.2")[0], goes)
		l.at(time.Second)
		l.engine.SetSlice(slice(s.Name, 2))
		l.want("1s apply 4")                               // slot, verdict twice, affinity
		l.kernel.Remember(f, addrs("10.244.0.3")[0], goes) // a packet in flight
		l.at(time.Minute)
		l.want("2s apply 1")
		if got := l.kernel.Dump()[dataplane.Affinity]; len(got) != 1 || got[0].Endpoint != stays {
			t.Errorf("remembered: %v", got)
		}
		// What changes while nothing is known of the kernel is forgotten after it is written.
		l.kernel.Before(func([]dataplane.Op) error { return errors.New("lost") })
		l.engine.SetSlice(slice(s.Name, 1))
		synctest.Wait()
		l.kernel.Remember(f, addrs("10.244.0.3")[0], manyEps(2)[1])
		l.kernel.Before(nil)
		l.at(2 * time.Minute)
		if got := l.kernel.Dump()[dataplane.Affinity]; len(got) != 1 || got[0].Endpoint != stays {
			t.Errorf("remembered: %v", got)
		}
	})
}

func TestConfigIsChecked(t *testing.T) {
	if _, err := New(Config{}); err == nil {
		t.Error("a Proxier without source and kernel")
	}
}

func TestNothingIsWrittenForAFamilyThatIsNotThere(t *testing.T) {
	for _, noIPv6 := range []bool{false, true} {
		inBubble(t, func(c *Config, _ *dataplanetest.Kernel) { c.NoIPv6 = noIPv6 }, func(l *loop) {
			dual := service(1)
			dual.ClusterIPs = append(dual.ClusterIPs, netip.MustParseAddr("fd00:10:96::1"))
			l.syncSource(dual)
			synctest.Wait()
			l.engine.SetSlice(slice(dual.Name, 1))
			synctest.Wait()
			six := 0
			for _, elements := range l.kernel.Dump() {
				for _, e := range elements {
					if e.Frontend.Addr.IsValid() && !e.Frontend.Addr.Is4() {
						six++
					}
				}
			}
			if r := l.reports[0]; (six == 0) != noIPv6 || (r.OpsIPv6 == 0) != noIPv6 || r.OpsIPv4 == 0 {
				t.Errorf("NoIPv6 %v: %d elements of IPv6 in the kernel, report %+v", noIPv6, six, r)
			}
		})
	}
}
