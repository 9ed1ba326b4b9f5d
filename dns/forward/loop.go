package forward

import (
	"context"
	"os"
	"time"
)

// watchResolvConf reads ResolvConf again and again.
func (f *Forwarder) watchResolvConf(ctx context.Context) {
	if f.opts.ResolvConf == "" {
		return
	}
	tick := time.NewTicker(f.opts.ReloadInterval)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
			f.reload()
		case <-ctx.Done():
			return
		}
	}
}

// reload reads ResolvConf and reports whether it said something new. A file that cannot be read, or
// names nobody, as while it is being written, changes nothing.
func (f *Forwarder) reload() bool {
	if f.opts.ResolvConf == "" {
		return false
	}
	data, err := os.ReadFile(f.opts.ResolvConf)
	f.setMu.Lock()
	defer f.setMu.Unlock()
	if err != nil {
		f.tellLocked("The resolver's file cannot be read", "err", err.Error())
		return false
	}
	if string(data) == f.said {
		return false
	}
	f.said = string(data)
	servers, bad := parseResolvConf(data)
	for _, b := range bad {
		f.tellLocked("A nameserver is left out: not an address", "file", f.opts.ResolvConf, "nameserver", b)
	}
	if len(servers) == 0 {
		f.tellLocked("The resolver's file names no nameserver", "file", f.opts.ResolvConf)
		return false
	}
	f.resolv = servers
	f.applyLocked()
	if f.opts.Search != nil {
		f.opts.Search(parseSearch(data))
	}
	return true
}

// Loops are looked for when the routes have changed, twice soon after, as our own sockets may not
// have been there, and then every loopInterval.
const (
	loopSoon     = 2 * time.Second
	loopLater    = 10 * time.Second
	loopInterval = time.Minute
	loopTimeout  = 2 * time.Second
)

func (f *Forwarder) watchLoops(ctx context.Context) {
	wait := time.NewTimer(0)
	defer wait.Stop()
	next := loopSoon
	for {
		select {
		case <-f.wake:
			next = loopSoon
		case <-wait.C:
		case <-ctx.Done():
			return
		}
		f.lookForLoops(ctx)
		wait.Reset(next)
		next = nextLoopCheck(next)
	}
}

func nextLoopCheck(d time.Duration) time.Duration {
	if d == loopSoon {
		return loopLater
	}
	return loopInterval
}

// lookForLoops asks every upstream for a name that only we know: who is asked for it was asked by
// itself.
func (f *Forwarder) lookForLoops(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, loopTimeout)
	defer cancel()
	nonces := f.routes.Load().nonces
	done := make(chan struct{}, len(nonces))
	for _, m := range nonces {
		go func() {
			f.lookForLoop(ctx, m)
			done <- struct{}{}
		}()
	}
	for range nonces {
		<-done
	}
}

func (f *Forwarder) lookForLoop(ctx context.Context, m *member) {
	q := m.question()
	if q == nil {
		return
	}
	seen := m.seen.Load()
	query := buildQuery(q, style{edns: true})
	_, err := f.net.udp(ctx, m.addr, query, func(msg []byte) error {
		return accept(msg, query, q, style{})
	})
	if err == nil && m.seen.Load() == seen && m.loops.CompareAndSwap(true, false) {
		f.opts.Logger.Info("An upstream no longer leads back to us", "upstream", m.addr)
	}
}

// question is for a name below m's domain; nil if there is no room for it.
func (m *member) question() *question {
	query := append(make([]byte, 0, 300), 0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, byte(len(m.nonce)))
	query = append(query, m.nonce...)
	if m.domain == "\x00" {
		query = append(query, "\x04weir"...) // some do not pass on a name of one label
	}
	query = append(query, m.domain...)
	query = append(query, 0, typeTXT, 0, classIN)
	q := new(question)
	if !q.parse(query) {
		return nil
	}
	return q
}

// loops notes that m's upstream asks us what it is asked.
func (f *Forwarder) loops(m *member) {
	m.seen.Add(1)
	if m.loops.CompareAndSwap(false, true) {
		f.opts.Logger.Info("An upstream is left out: it asks us in its turn", "upstream", m.addr, "domain", printable(m.domain))
	}
}

// printable is a domain as people write it.
func printable(domain string) string {
	if domain == "\x00" {
		return "."
	}
	var b []byte
	for i := 0; i < len(domain) && domain[i] != 0; i += int(domain[i]) + 1 {
		b = append(append(b, domain[i+1:i+1+int(domain[i])]...), '.')
	}
	return string(b)
}
