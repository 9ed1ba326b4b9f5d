package proxier

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"
	"syscall"
	"testing"
	"time"

	gocmp "github.com/google/go-cmp/cmp"

	"github.com/weir-project/weir/dataplane"
	"github.com/weir-project/weir/dataplane/dataplanetest"
	"github.com/weir-project/weir/endpoints"
	"github.com/weir-project/weir/proxier/proxiertest"
)

// subject is a Proxier without its loop, so that a history goes step by step, with a kernel that
// is watched.
type subject struct {
	t       *testing.T
	engine  *endpoints.Engine
	kernel  *dataplanetest.Kernel
	proxier *Proxier
	history *proxiertest.History
	log     []string
	flushed bool // and nobody has noticed
}

func newSubject(t *testing.T, src rand.Source) *subject {
	s := &subject{t: t, engine: endpoints.New(endpoints.Config{NodeName: proxiertest.NodeName}), kernel: &dataplanetest.Kernel{Chunk: 7}}
	s.kernel.Watch()
	s.history = proxiertest.New(src, s.engine)
	s.history.Start()
	all, nodePort := s.history.NodeAddrs()
	var err error
	if s.proxier, err = New(Config{Source: s.engine, Kernel: s.kernel, NodeAddrs: all, NodePortAddrs: nodePort}); err != nil {
		t.Fatal(err)
	}
	s.history.SetNodeAddrs = s.proxier.SetNodeAddrs
	return s
}

// sync does what the loop does, without its waiting.
func (s *subject) sync() {
	for range 2 { // a Replace leaves affinity entries to be deleted after it
		s.proxier.gather()
		s.proxier.hold = s.proxier.rest
		s.proxier.sync(quiet())
	}
}

// connect makes connections to frontends with affinity: the kernel remembers their endpoints.
func (s *subject) connect(r *rand.Rand) {
	d := s.kernel.Dump()
	for _, f := range d[dataplane.AffinityOf] {
		for _, e := range slices.Concat(d[dataplane.Endpoints], d[dataplane.LocalEndpoints]) {
			if e.Frontend == f.Frontend && r.IntN(3) == 0 {
				s.kernel.Remember(f.Frontend, netip.AddrFrom4([4]byte{100, 64, 0, byte(r.IntN(8))}), e.Endpoint)
			}
		}
	}
}

// checkAffinity says whether a client is sent where its frontend does not lead.
func (s *subject) checkAffinity() {
	s.t.Helper()
	d := s.kernel.Dump()
	for _, a := range d[dataplane.Affinity] {
		leads := slices.ContainsFunc(slices.Concat(d[dataplane.Endpoints], d[dataplane.LocalEndpoints]), func(e dataplane.Element) bool {
			return e.Frontend == a.Frontend && e.Endpoint == a.Endpoint
		})
		affine := slices.ContainsFunc(d[dataplane.AffinityOf], func(e dataplane.Element) bool { return e.Frontend == a.Frontend })
		if !leads || !affine {
			s.fail("remembered though there is no such endpoint (%v) or no affinity (%v): %s", !leads, !affine, dataplanetest.Line(dataplane.Affinity, a))
		}
	}
}

// recover ends all trouble: what was set aside is tried again.
func (s *subject) recover() {
	s.kernel.Refuse(nil)
	s.kernel.Before(nil)
	if s.flushed {
		s.flushed = false
		s.proxier.Invalidate()
	}
	for n := range s.proxier.aside {
		s.proxier.dirty[n] = struct{}{}
		s.proxier.trial([]endpoints.Name{n})
	}
	for i := range s.proxier.forgets {
		s.proxier.forgets[i].due = time.Time{}
	}
	s.sync()
	if aside := s.proxier.SetAside(); len(aside) > 0 || len(s.proxier.dirty) > 0 || !s.proxier.known {
		s.fail("not recovered: known %v, aside %v, dirty %v", s.proxier.known, aside, s.proxier.dirty)
	}
}

func (s *subject) fail(format string, args ...any) {
	s.t.Helper()
	for _, l := range s.log[max(0, len(s.log)-30):] {
		s.t.Log(l)
	}
	s.t.Fatalf(format, args...)
}

// fresh returns what a new process would make of the last state.
func (s *subject) fresh() []string {
	f := newSubject(s.t, rand.NewPCG(0, 0))
	f.history = nil
	s.history.Replay(f.engine)
	f.proxier.SetNodeAddrs(s.history.NodeAddrs())
	f.sync()
	return f.kernel.Dump().Meaning().Lines()
}

func (s *subject) check() {
	s.t.Helper()
	if err := s.kernel.Err(); err != nil {
		s.fail("%v", err)
	}
	if diff := gocmp.Diff(s.fresh(), s.kernel.Dump().Meaning().Lines()); diff != "" {
		s.fail("a fresh start differs (-fresh +got):\n%s", diff)
	}
	s.checkBelief()
	s.checkAffinity()
}

// checkBelief holds what we believe of the kernel, slots included, against the kernel.
func (s *subject) checkBelief() {
	s.t.Helper()
	var k dataplanetest.Kernel
	first, rest, _ := s.proxier.rules.full(s.proxier.isUrgent)
	if err := k.Replace(context.Background(), first, rest); err != nil {
		s.fail("belief is no ruleset: %v", err)
	}
	held := s.kernel.Dump()
	delete(held, dataplane.Affinity)
	if diff := gocmp.Diff(k.Dump().Lines(), held.Lines()); diff != "" {
		s.fail("belief differs (-believed +held):\n%s", diff)
	}
}

// trouble makes the kernel difficult in one of many ways, or easy.
func (s *subject) trouble(r *rand.Rand) string {
	s.kernel.Refuse(nil)
	s.kernel.Before(nil)
	errno := []error{syscall.EINVAL, syscall.ENOSPC, syscall.ENOMEM, syscall.EEXIST}[r.IntN(4)]
	pick := r.Uint64()
	switch r.IntN(9) {
	case 0: // some frontends are refused, by name
		s.kernel.Refuse(func(op dataplane.Op) error {
			if !op.Delete && hash(op.Elem.Frontend)%5 == pick%5 {
				return errno
			}
			return nil
		})
		return fmt.Sprintf("some frontends are refused: %v", errno)
	case 1: // every deletion of some
		s.kernel.Refuse(func(op dataplane.Op) error {
			if op.Delete && op.Set != dataplane.Affinity && hash(op.Elem.Frontend)%5 == pick%5 {
				return errno
			}
			return nil
		})
		return fmt.Sprintf("some deletions are refused: %v", errno)
	case 2: // a frontend spoils the transaction as such
		s.kernel.Before(func(ops []dataplane.Op) error {
			if slices.ContainsFunc(ops, func(op dataplane.Op) bool { return hash(op.Elem.Frontend)%5 == pick%5 }) {
				return &dataplane.RefusedError{Err: errno}
			}
			return nil
		})
		return fmt.Sprintf("some frontends spoil a transaction: %v", errno)
	case 3: // nothing goes, or the outcome is never heard
		s.kernel.Before(func([]dataplane.Op) error { return errors.New("lost") })
		return "no answer"
	case 4:
		s.kernel.Before(func([]dataplane.Op) error { return &dataplane.RefusedError{Err: errno} })
		return fmt.Sprintf("everything is refused: %v", errno)
	case 5: // and the watcher is late, or is not
		s.kernel.Flush()
		s.flushed = r.IntN(2) == 0
		if !s.flushed {
			s.proxier.Invalidate()
		}
		return "flushed by a stranger"
	}
	return "no trouble"
}

func hash(f dataplane.Frontend) uint64 {
	a := f.Addr.As16()
	return binary.LittleEndian.Uint64(a[8:])*31 + uint64(a[15]) + uint64(f.Port) + uint64(f.Protocol)
}

// run follows a history and compares with a fresh start every so often, and at the end.
func (s *subject) run(r *rand.Rand, steps int, troubled bool) {
	for i := range steps {
		for range 1 + r.IntN(3) {
			s.log = append(s.log, s.history.Step())
		}
		if troubled {
			s.log = append(s.log, s.trouble(r))
		}
		s.sync()
		if !troubled {
			s.checkBelief()
			s.checkAffinity()
		}
		s.connect(r)
		if i%10 == 9 {
			s.recover()
			s.check()
		}
	}
	s.recover()
	s.check()
}

func TestHistories(t *testing.T) {
	histories := 1000
	if testing.Short() || raceDetector { // they are of one goroutine, and make test has all of them without it
		histories = 100
	}
	for _, troubled := range []bool{false, true} {
		t.Run(fmt.Sprintf("troubled=%v", troubled), func(t *testing.T) {
			t.Parallel()
			for seed := range uint64(histories) {
				s := newSubject(t, rand.NewPCG(seed, 1))
				s.log = append(s.log, fmt.Sprintf("seed %d", seed))
				s.run(rand.New(rand.NewPCG(seed, 2)), 20, troubled)
			}
		})
	}
}

// tape is a source of random numbers that a fuzzer writes. After its end it repeats itself.
type tape struct {
	data []byte
	at   int
}

func (t *tape) Uint64() uint64 {
	var b [8]byte
	for i := range b {
		b[i] = t.data[t.at%len(t.data)] + byte(t.at/len(t.data))
		t.at++
	}
	return binary.LittleEndian.Uint64(b[:])
}

func FuzzHistory(f *testing.F) {
	f.Add([]byte{0})
	f.Add([]byte("services and slices, adds and changes and removals"))
	f.Add([]byte{255, 254, 1, 2, 3, 128, 64, 32, 16, 8, 4, 2, 1, 0, 99})
	f.Fuzz(func(t *testing.T, data []byte) {
		if len(data) == 0 || len(data) > 1<<12 {
			t.Skip()
		}
		s := newSubject(t, &tape{data: data})
		s.run(rand.New(&tape{data: data, at: 3}), 12, data[0]&1 == 1)
	})
}
