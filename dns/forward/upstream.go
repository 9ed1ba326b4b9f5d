package forward

import (
	"context"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"sync"
	"time"
)

const (
	// maxFails is how many exchanges in a row fail before an upstream is down.
	maxFails = 2
	// An upstream that is down is tried after probeFirst, then after twice as long, at most
	// probeLast apart.
	probeFirst, probeLast = 500 * time.Millisecond, 5 * time.Second
	probeTimeout          = time.Second
	// habitTime is how long it is remembered that an upstream does not keep the case of a question,
	// or does not take EDNS.
	habitTime = time.Hour
)

// upstream is a server that is asked.
type upstream struct {
	addr netip.AddrPort

	mu         sync.Mutex // guards what follows
	fails      int
	down       bool
	retired    bool          // no route leads to it any more
	foldsUntil time.Duration // it is asked in lower case until then
	plainUntil time.Duration // it is asked without EDNS until then
}

func (u *upstream) isDown() bool {
	u.mu.Lock()
	defer u.mu.Unlock()
	return u.down
}

// works notes an answer, and reports whether it is the first one since u was down.
func (u *upstream) works() (news bool) {
	u.mu.Lock()
	defer u.mu.Unlock()
	news = u.down
	u.fails, u.down = 0, false
	return news
}

// failed notes that u did not answer, and reports whether it is down from now on.
func (u *upstream) failed() (news bool) {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.fails++
	news = !u.down && u.fails >= maxFails
	u.down = u.down || news
	return news
}

func (u *upstream) retire() {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.retired = true
}

func (u *upstream) habits(now time.Duration) (folds, plain bool) {
	u.mu.Lock()
	defer u.mu.Unlock()
	return now < u.foldsUntil, now < u.plainUntil
}

func (u *upstream) learn(until *time.Duration, now time.Duration) {
	u.mu.Lock()
	defer u.mu.Unlock()
	*until = now + habitTime
}

// style is how a question is written.
type style struct{ mixed, edns bool }

// buildQuery writes q as a question of ours: with a random ID, and if the upstream is known to keep
// it, the case of its letters random (0x20).
func buildQuery(q *question, how style) []byte {
	var random [2 + maxName/8 + 1]byte
	rand.Read(random[:])
	ar := byte(0)
	if how.edns {
		ar = 1
	}
	msg := make([]byte, 0, headerLen+q.name+4+optLen)
	msg = append(msg, random[0], random[1], flagRD, flagAD, 0, 1, 0, 0, 0, 0, 0, ar)
	if q.flags()&keyCD != 0 {
		msg[3] |= flagCD
	}
	msg = append(msg, q.key[:q.name+4]...)
	if how.mixed {
		for i, c := range q.lower() {
			if 'a' <= c && c <= 'z' && random[2+i/8]>>(i%8)&1 != 0 {
				msg[headerLen+i] = c - ('a' - 'A')
			}
		}
	}
	if how.edns {
		msg = appendOPT(msg, q.flags()&keyDO != 0)
	}
	return msg
}

var (
	errCase     = errors.New("the question's case was not kept")
	errNoEDNS   = errors.New("the upstream does not take EDNS")
	errCut      = errors.New("truncated")
	errNotQuery = errors.New("not the answer to a query")
)

// accept compares a packet with the question.
func accept(msg, query []byte, q *question, how style) error {
	if len(msg) < headerLen || msg[0] != query[0] || msg[1] != query[1] || msg[2]&flagQR == 0 || msg[2]&0x78 != 0 {
		return errNotOurs
	}
	rcode := msg[3] & 0x0f
	if how.edns && msg[4] == 0 && msg[5] == 0 && (rcode == rcodeFormErr || rcode == rcodeNotImp) {
		return errNoEDNS // some give no question back; nothing else is believed without one
	}
	same, folded := asked(msg, query, q)
	switch {
	case !folded:
		return errNotOurs
	case !same:
		return errCase
	case how.edns && (rcode == rcodeFormErr || rcode == rcodeNotImp):
		return errNoEDNS
	case msg[2]&flagTC != 0:
		return errCut
	}
	return nil
}

// ask asks u and returns its answer, from wherever it can be had.
func (f *Forwarder) ask(ctx context.Context, u *upstream, q *question) (*entry, error) {
	folds, plain := u.habits(f.now())
	how := style{mixed: !folds, edns: !plain || q.do}
	e, err := f.askUDP(ctx, u, q, how)
	if errors.Is(err, errNoEDNS) {
		how.edns = false
		if e, err = f.askUDP(ctx, u, q, how); err == nil && e.kind != failure {
			u.learn(&u.plainUntil, f.now())
		}
	}
	switch {
	case errors.Is(err, errCase):
		return f.askFolding(ctx, u, q, how)
	case errors.Is(err, errSpoofed), errors.Is(err, errTooLong):
		return f.askTCP(ctx, u, q, how)
	case errors.Is(err, errCut):
		if whole, err := f.askTCP(ctx, u, q, how); err == nil {
			return whole, nil
		}
		return cut(q, rcodeSuccess), nil
	}
	return e, err
}

// askFolding asks again after an answer whose question had another case: it was forged, or u does
// not keep the case. TCP cannot be forged so, and tells which it is.
func (f *Forwarder) askFolding(ctx context.Context, u *upstream, q *question, how style) (*entry, error) {
	how.mixed = true
	e, kept, err := f.exchangeTCP(ctx, u, q, how)
	if err == nil {
		if !kept {
			u.learn(&u.foldsUntil, f.now())
		}
		return e, nil
	}
	how.mixed = false
	if e, err = f.askUDP(ctx, u, q, how); err == nil {
		u.learn(&u.foldsUntil, f.now())
	}
	return e, err
}

func (f *Forwarder) askUDP(ctx context.Context, u *upstream, q *question, how style) (*entry, error) {
	query := buildQuery(q, how)
	begin := f.now()
	msg, err := f.net.udp(ctx, u.addr, query, func(msg []byte) error {
		err := accept(msg, query, q, how)
		if errors.Is(err, errNotOurs) || errors.Is(err, errCase) {
			f.mismatched.Add(1)
		}
		return err
	})
	return f.read(u, false, begin, msg, err, q)
}

func (f *Forwarder) askTCP(ctx context.Context, u *upstream, q *question, how style) (*entry, error) {
	e, _, err := f.exchangeTCP(ctx, u, q, how)
	return e, err
}

// exchangeTCP also reports whether u kept the case of the question.
func (f *Forwarder) exchangeTCP(ctx context.Context, u *upstream, q *question, how style) (e *entry, kept bool, err error) {
	query := buildQuery(q, how)
	begin := f.now()
	msg, err := f.net.tcp(ctx, u.addr, query)
	kept = true
	if err == nil {
		err = accept(msg, query, q, how)
		if errors.Is(err, errCase) {
			kept, err = false, nil
		}
		if errors.Is(err, errCut) {
			err = fmt.Errorf("over TCP: %w", errNotQuery)
		}
	}
	e, err = f.read(u, true, begin, msg, err, q)
	return e, kept, err
}

// read makes an entry of what came, and tells the observer.
func (f *Forwarder) read(u *upstream, tcp bool, begin time.Duration, msg []byte, err error, q *question) (*entry, error) {
	var e *entry
	if err == nil {
		e, err = newEntry(msg, q, f.limits)
	}
	rcode := -1
	heard := err
	if err == nil {
		rcode = int(e.rcode)
	} else if errors.Is(err, errCut) {
		rcode, heard = rcodeSuccess, nil // an answer all the same
	}
	f.opts.Observer.UpstreamDone(u.addr, tcp, f.now()-begin, rcode, heard)
	if err != nil {
		return nil, fmt.Errorf("ask %s: %w", u.addr, err)
	}
	return e, nil
}

// probe asks u until it answers, or nobody wants to know any more.
func (f *Forwarder) probe(u *upstream) {
	wait := probeFirst
	for f.sleep(wait) {
		if !u.isDown() || u.isRetired() {
			return
		}
		if f.probeOnce(u) {
			f.worked(u)
			return
		}
		f.probesFailed.Add(1)
		wait = min(2*wait, probeLast)
	}
}

// rootNS is what a probe asks for: everybody has it at hand.
var rootNS = func() *question {
	var q question
	query := []byte{0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, typeNS, 0, classIN}
	q.parse(query)
	return &q
}()

// probeOnce reports whether u answers at all.
func (f *Forwarder) probeOnce(u *upstream) bool {
	ctx, cancel := context.WithTimeout(f.ctx, probeTimeout)
	defer cancel()
	query := buildQuery(rootNS, style{})
	_, err := f.net.udp(ctx, u.addr, query, func(msg []byte) error {
		if len(msg) < headerLen || binary.BigEndian.Uint16(msg) != binary.BigEndian.Uint16(query) || msg[2]&flagQR == 0 {
			return errNotOurs
		}
		return nil
	})
	return err == nil || errors.Is(err, errTooLong)
}

func (u *upstream) isRetired() bool {
	u.mu.Lock()
	defer u.mu.Unlock()
	return u.retired
}

// worked and failed keep u's health and tell of its changes.
func (f *Forwarder) worked(u *upstream) {
	if u.works() {
		f.opts.Logger.Info("An upstream answers again", "upstream", u.addr)
		f.opts.Observer.UpstreamDown(u.addr, false)
	}
}

func (f *Forwarder) failed(u *upstream, err error) {
	if u.failed() {
		f.opts.Logger.Info("An upstream does not answer", "upstream", u.addr, "err", err)
		f.opts.Observer.UpstreamDown(u.addr, true)
		f.goRun(func() { f.probe(u) })
	}
}
