package dnstest

import (
	"errors"
	"net"
	"net/netip"

	"github.com/miekg/dns"
)

// Upstream is a server of names elsewhere, over UDP and TCP.
type Upstream struct {
	Addr netip.AddrPort

	servers []*dns.Server
	ended   chan error
}

// Serve starts an upstream on a free port of 127.0.0.1. What it is asked it lets answer fill in: a
// response without records that says NOERROR.
func Serve(answer Answer) (*Upstream, error) {
	tcp, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	udp, err := net.ListenPacket("udp", tcp.Addr().String())
	if err != nil {
		return nil, errors.Join(err, tcp.Close())
	}
	return ServeOn(tcp, udp, answer), nil
}

// Answer fills in a response.
type Answer func(response *dns.Msg, q dns.Question)

// ServeOn is Serve on sockets that are open, which it closes at its end.
func ServeOn(tcp net.Listener, udp net.PacketConn, answer Answer) *Upstream {
	handler := dns.HandlerFunc(func(w dns.ResponseWriter, query *dns.Msg) {
		m := new(dns.Msg).SetReply(query)
		m.RecursionAvailable = true
		if opt := query.IsEdns0(); opt != nil {
			m.SetEdns0(opt.UDPSize(), opt.Do())
		}
		answer(m, query.Question[0])
		if _, isUDP := w.RemoteAddr().(*net.UDPAddr); isUDP {
			size := dns.MinMsgSize
			if opt := query.IsEdns0(); opt != nil {
				size = max(size, int(opt.UDPSize()))
			}
			m.Truncate(size)
		}
		_ = w.WriteMsg(m) // who asked may be gone
	})
	u := &Upstream{Addr: tcp.Addr().(*net.TCPAddr).AddrPort(), ended: make(chan error, 2)}
	for _, s := range []*dns.Server{{Listener: tcp}, {PacketConn: udp}} {
		s.Handler = handler
		started := make(chan struct{})
		s.NotifyStartedFunc = func() { close(started) }
		go func() { u.ended <- s.ActivateAndServe() }()
		<-started
		u.servers = append(u.servers, s)
	}
	return u
}

// Close ends the upstream, and waits for its end.
func (u *Upstream) Close() error {
	var errs []error
	for _, s := range u.servers {
		errs = append(errs, s.Shutdown(), <-u.ended)
	}
	return errors.Join(errs...)
}

// Elsewhere answers every name with the address 192.0.2.99, and every address with the name elsewhere.
// Nobody may keep what it says.
func Elsewhere(response *dns.Msg, q dns.Question) {
	h := dns.RR_Header{Name: q.Name, Rrtype: q.Qtype, Class: dns.ClassINET}
	switch q.Qtype {
	case dns.TypeA:
		response.Answer = append(response.Answer, &dns.A{Hdr: h, A: net.IPv4(192, 0, 2, 99)})
	case dns.TypePTR:
		response.Answer = append(response.Answer, &dns.PTR{Hdr: h, Ptr: "elsewhere."})
	}
}
