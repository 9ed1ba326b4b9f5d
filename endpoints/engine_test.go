package endpoints

import (
	"net/netip"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
)

func synced(e *Engine) {
	e.ReplaceServices(nil)
	e.ReplaceSlices(nil)
	e.SetNode(&Node{Name: "here", Zone: "a"})
	e.SetServiceCIDRs(nil)
}

func TestSynced(t *testing.T) {
	steps := []func(*Engine){
		func(e *Engine) { e.ReplaceServices(nil) },
		func(e *Engine) { e.ReplaceSlices(nil) },
		func(e *Engine) { e.SetNode(nil) },
		func(e *Engine) { e.SetServiceCIDRs(nil) },
	}
	for last := range steps {
		e := New(Config{})
		for i := range steps {
			if e.Synced() {
				t.Fatalf("synced before step %d", (last+1+i)%len(steps))
			}
			select {
			case <-e.Wake():
			default:
			}
			steps[(last+1+i)%len(steps)](e)
		}
		if !e.Synced() {
			t.Errorf("not synced after all four, step %d last", last)
		}
		select {
		case <-e.Wake():
		default:
			t.Errorf("step %d made it synced and woke nobody", last)
		}
	}
}

func TestDirty(t *testing.T) {
	hinted := slice("hinted http/TCP/1", "10.0.0.1 ready for-zones=a")
	before := func(e *Engine) {
		e.SetService(service())
		e.SetService(&Service{Name: Name{"default", "other"}})
		e.SetSlice(slice("one http/TCP/1", "10.0.0.1 ready"))
	}
	for _, tt := range []struct {
		name   string
		change func(e *Engine)
		want   []Name
		events [2]int // of services, of slices
	}{
		{name: "nothing", change: func(*Engine) {}},
		{name: "new service", change: func(e *Engine) { e.SetService(&Service{Name: Name{"a", "new"}}) }, want: []Name{{"a", "new"}}, events: [2]int{1, 0}},
		{name: "changed service", change: func(e *Engine) { e.SetService(service(nodePort)) }, want: []Name{web}, events: [2]int{1, 0}},
		{name: "same service again", change: func(e *Engine) { e.SetService(service()) }},
		{name: "deleted service", change: func(e *Engine) { e.DeleteService(web) }, want: []Name{web}, events: [2]int{1, 0}},
		{name: "deleted and created again", change: func(e *Engine) { e.DeleteService(web); e.SetService(service()) }, want: []Name{web}, events: [2]int{2, 0}},
		{name: "deleted with its slice, and created again", change: func(e *Engine) {
			e.DeleteService(web)
			e.DeleteSlice(Name{"default", "one"})
			e.SetService(service())
		}, want: []Name{web}, events: [2]int{2, 1}},
		{name: "unknown service deleted", change: func(e *Engine) { e.DeleteService(Name{"a", "unknown"}) }},
		{name: "new slice", change: func(e *Engine) { e.SetSlice(slice("two http/TCP/1")) }, want: []Name{web}, events: [2]int{0, 1}},
		{name: "changed slice", change: func(e *Engine) { e.SetSlice(slice("one http/TCP/1", "10.0.0.1")) }, want: []Name{web}, events: [2]int{0, 1}},
		{name: "same slice again", change: func(e *Engine) { e.SetSlice(slice("one http/TCP/1", "10.0.0.1 ready")) }},
		{name: "same slice with another trigger time", change: func(e *Engine) {
			s := slice("one http/TCP/1", "10.0.0.1 ready")
			s.Triggered = time.Now().Add(time.Hour)
			e.SetSlice(s)
		}},
		{name: "deleted slice", change: func(e *Engine) { e.DeleteSlice(Name{"default", "one"}) }, want: []Name{web}, events: [2]int{0, 1}},
		{name: "unknown slice deleted", change: func(e *Engine) { e.DeleteSlice(Name{"default", "unknown"}) }},
		{name: "slice that changes hands", change: func(e *Engine) {
			s := slice("one http/TCP/1", "10.0.0.1 ready")
			s.Service.Name = "other"
			e.SetSlice(s)
		}, want: []Name{web, {"default", "other"}}, events: [2]int{0, 1}},
		{name: "slice of no service", change: func(e *Engine) {
			s := slice("three http/TCP/1", "10.0.0.1 ready")
			s.Service.Name = "missing"
			e.SetSlice(s)
			e.DeleteSlice(s.Name)
		}, events: [2]int{0, 2}},
		{name: "zone changes", change: func(e *Engine) { e.SetNode(&Node{Name: "here", Zone: "b"}) }},
		{name: "zone changes, with hints", change: func(e *Engine) { e.SetSlice(hinted); e.Take(); e.SetNode(&Node{Name: "here", Zone: "b"}) }, want: []Name{web}},
		{name: "zone goes with the node, with hints", change: func(e *Engine) { e.SetSlice(hinted); e.Take(); e.SetNode(nil) }, want: []Name{web}},
		{name: "address changes, with hints", change: func(e *Engine) {
			e.SetSlice(hinted)
			e.Take()
			e.SetNode(&Node{Name: "here", Zone: "a", Addrs: []netip.Addr{netip.MustParseAddr("192.0.2.1")}})
		}},
		{name: "replaced by the same", change: func(e *Engine) {
			e.ReplaceServices([]*Service{{Name: Name{"default", "other"}}, service()})
			e.ReplaceSlices([]*Slice{slice("one http/TCP/1", "10.0.0.1 ready")})
		}},
		{name: "replaced services", change: func(e *Engine) { e.ReplaceServices([]*Service{{Name: Name{"a", "new"}}}) }, want: []Name{{"a", "new"}, {"default", "other"}, web}, events: [2]int{3, 0}},
		{name: "replaced slices", change: func(e *Engine) { e.ReplaceSlices([]*Slice{slice("two http/TCP/1")}) }, want: []Name{web}, events: [2]int{0, 2}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			e := New(Config{NodeName: "here"})
			synced(e)
			before(e)
			e.Take()
			tt.change(e)
			c := e.Take()
			if diff := cmp.Diff(tt.want, c.Services); diff != "" {
				t.Errorf("dirty: -want +got\n%s", diff)
			}
			if got := [2]int{c.ServiceEvents, c.SliceEvents}; got != tt.events {
				t.Errorf("events %v, want %v", got, tt.events)
			}
			if c := e.Take(); len(c.Services) != 0 || !c.Since.IsZero() {
				t.Errorf("a second Take gives %v", c)
			}
		})
	}
}

func TestNodeAndCIDRs(t *testing.T) {
	e := New(Config{NodeName: "here"})
	node := &Node{Name: "here", Addrs: []netip.Addr{netip.MustParseAddr("192.0.2.1")}}
	cidrs := []netip.Prefix{netip.MustParsePrefix("10.96.0.0/12")}
	e.SetNode(node)
	e.SetServiceCIDRs(cidrs)
	c := e.Take()
	if !c.NodeChanged || c.Node != node || !c.CIDRsChanged || len(c.ServiceCIDRs) != 1 {
		t.Errorf("got %+v", c)
	}
	same := *node
	e.SetNode(&same)
	e.SetServiceCIDRs(append([]netip.Prefix(nil), cidrs...))
	c = e.Take()
	if c.NodeChanged || c.CIDRsChanged || c.Node != node || len(c.ServiceCIDRs) != 1 {
		t.Errorf("the same again: got %+v", c)
	}
	e.SetNode(nil)
	e.SetServiceCIDRs(nil)
	c = e.Take()
	if !c.NodeChanged || c.Node != nil || !c.CIDRsChanged || c.ServiceCIDRs != nil {
		t.Errorf("gone: got %+v", c)
	}
}

func TestTimes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := New(Config{})
		e.SetService(service())
		first := time.Now()
		time.Sleep(time.Second)
		now := slice("new http/TCP/1")
		now.Triggered = time.Now()
		e.SetSlice(now)
		old := slice("old http/TCP/1")
		old.Triggered = time.Now().Add(-time.Hour)
		e.SetSlice(old)
		c := e.Take()
		if !c.Since.Equal(first) {
			t.Errorf("since %v, want that of the first event, %v", c.Since, first)
		}
		if len(c.Triggers) != 1 || !c.Triggers[0].Equal(now.Triggered) {
			t.Errorf("triggers %v, want only the one after the start, %v", c.Triggers, now.Triggered)
		}
	})
}

func TestViews(t *testing.T) {
	e := New(Config{})
	svc := service()
	e.SetService(&Service{Name: Name{"b", "x"}})
	e.SetService(&Service{Name: Name{"a", "y"}})
	e.SetService(svc)
	b, a := slice("b http/TCP/1", "10.0.0.1", "10.0.0.2"), slice("a http/TCP/1", "10.0.0.3")
	e.SetSlice(b)
	e.SetSlice(a)
	if diff := cmp.Diff([]Name{{"a", "y"}, {"b", "x"}, web}, e.Services()); diff != "" {
		t.Errorf("Services: -want +got\n%s", diff)
	}
	if e.Service(web) != svc || e.Service(Name{"no", "such"}) != nil {
		t.Error("Service does not give the value that was set")
	}
	if got := e.Slices(web); len(got) != 2 || got[0] != a || got[1] != b {
		t.Errorf("Slices gives %v", got)
	}
	if got, want := e.Sizes(), (Sizes{Services: 3, Slices: 2, Endpoints: 3}); got != want {
		t.Errorf("Sizes = %+v, want %+v", got, want)
	}
	e.ReplaceServices(nil)
	e.ReplaceSlices(nil)
	if got := e.Sizes(); got != (Sizes{}) {
		t.Errorf("empty: Sizes = %+v", got)
	}
	e.Take()
	if len(e.services)+len(e.slices) != 0 {
		t.Errorf("something is kept: %d, %d", len(e.services), len(e.slices))
	}
}
