package wire

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"time"

	"github.com/miekg/dns"

	"github.com/weir-project/weir/internal/netlab"
)

// Asker asks a server of names on one host, over UDP.
type Asker struct {
	conn net.Conn
	id   uint16
	in   []byte
}

// NewAsker returns an asker of the server at an address of the host, which need not be there yet.
func NewAsker(host *netlab.Host, at netip.AddrPort) (*Asker, error) {
	conn, err := host.Dial(context.Background(), "udp4", at.String())
	if err != nil {
		return nil, err
	}
	return &Asker{conn: conn, in: make([]byte, dns.MaxMsgSize)}, nil
}

// Close closes the asker.
func (a *Asker) Close() error { return a.conn.Close() }

// retryAfter is when a query without an answer is asked again, and pause how long there is between two
// queries for the same.
const (
	retryAfter = 200 * time.Millisecond
	pause      = 50 * time.Microsecond
)

// ask asks for the addresses of a name. It returns when it sent the query that was answered. A server that is
// not there is asked again.
func (a *Asker) ask(ctx context.Context, name string) (*dns.Msg, time.Time, error) {
	for {
		if err := ctx.Err(); err != nil {
			return nil, time.Time{}, fmt.Errorf("ask for %s: %w", name, context.Cause(ctx))
		}
		a.id++
		q := new(dns.Msg).SetQuestion(name, dns.TypeA)
		q.Id = a.id
		b, err := q.Pack()
		if err != nil {
			return nil, time.Time{}, err
		}
		sent := time.Now()
		m, err := a.exchange(b)
		switch {
		case err == nil:
			return m, sent, nil
		case errors.Is(err, net.ErrClosed):
			return nil, sent, err
		case !errors.Is(err, os.ErrDeadlineExceeded): // nobody listens
			time.Sleep(time.Millisecond)
		}
	}
}

func (a *Asker) exchange(query []byte) (*dns.Msg, error) {
	if _, err := a.conn.Write(query); err != nil {
		return nil, err
	}
	_ = a.conn.SetReadDeadline(time.Now().Add(retryAfter))
	for {
		n, err := a.conn.Read(a.in)
		if err != nil {
			return nil, err
		}
		m := new(dns.Msg)
		if err := m.Unpack(a.in[:n]); err != nil {
			return nil, err
		}
		if m.Id == a.id {
			return m, nil
		}
	}
}

// Until asks for a name until the answer is one address, and returns when it sent that query.
func (a *Asker) Until(ctx context.Context, name string, want net.IP) (time.Time, error) {
	for {
		m, sent, err := a.ask(ctx, name)
		if err != nil {
			return sent, err
		}
		if len(m.Answer) == 1 {
			if rr, ok := m.Answer[0].(*dns.A); ok && rr.A.Equal(want) {
				return sent, nil
			}
		}
		time.Sleep(pause)
	}
}

// Missing returns an error unless there is no such name.
func (a *Asker) Missing(ctx context.Context, name string) error {
	m, _, err := a.ask(ctx, name)
	if err == nil && m.Rcode != dns.RcodeNameError {
		err = fmt.Errorf("%s: %s, want NXDOMAIN", name, dns.RcodeToString[m.Rcode])
	}
	return err
}

// Count waits until a name has addresses, and returns how many are in one answer.
func (a *Asker) Count(ctx context.Context, name string) (int, error) {
	for {
		m, _, err := a.ask(ctx, name)
		if err != nil || len(m.Answer) > 0 {
			return len(m.Answer), err
		}
		time.Sleep(time.Millisecond)
	}
}
