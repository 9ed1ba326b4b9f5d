package dataplane

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"strconv"
	"strings"
	"time"

	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"
)

// ReadBack reads every element of our tables from the kernel. It is for tests and for the
// inspector: reading 250,000 elements takes the kernel seconds, so nothing on the way from an
// event to the kernel does it. Comments are read too; affinity entries come without timeouts.
func (c *Conn) ReadBack() (map[Set][]Element, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	all := map[Set][]Element{}
	for _, fam := range c.families {
		st := &c.state[fam.number()]
		if st.name == "" {
			continue
		}
		timeouts, err := c.affinityTimeouts(fam, st.name)
		if err != nil {
			return nil, err
		}
		for s := range numSets {
			of := map[time.Duration]bool{0: true}
			if s == AffinityOf {
				of = timeouts
			}
			for timeout := range of {
				elements, err := c.elements(fam, st.name, s, timeout)
				if err != nil {
					return nil, err
				}
				all[s] = append(all[s], elements...)
			}
		}
	}
	return all, nil
}

// readTries is how often a listing starts again because what it lists has changed.
const readTries = 10

// elements lists a set.
func (c *Conn) elements(fam *family, table string, s Set, timeout time.Duration) ([]Element, error) {
	for try := 1; ; try++ {
		elements, err := c.elementsOnce(fam, table, s, timeout)
		if errors.Is(err, errInterrupted) && try < readTries {
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("list %s of table %s %s: %w", setName(s, timeout), fam.name, table, err)
		}
		return elements, nil
	}
}

func (c *Conn) elementsOnce(fam *family, table string, s Set, timeout time.Duration) ([]Element, error) {
	var m messages
	m.listing(fam, table, setName(s, timeout))
	var elements []Element
	var ends []netip.Addr
	err := c.sock.ask(&m, func(body []byte) error {
		return decodeElements(body, fam, s, func(e Element, end bool) {
			if e.Timeout = timeout; end {
				ends = append(ends, e.Source.Addr())
				return
			}
			elements = append(elements, e)
		})
	})
	if err != nil {
		return nil, err
	}
	if s == ServiceCIDRs {
		return prefixes(elements, ends)
	}
	return elements, nil
}

// prefixes puts beginnings and ends of intervals together. Each end is that of the nearest
// beginning below it; a beginning without one reaches to the last address.
func prefixes(begins []Element, ends []netip.Addr) ([]Element, error) {
	for i := range begins {
		first := begins[i].Source.Addr()
		best := netip.Addr{}
		for _, end := range ends {
			if first.Less(end) && (!best.IsValid() || end.Less(best)) {
				best = end
			}
		}
		for bits := 0; ; bits++ {
			if bits > first.BitLen() {
				return nil, fmt.Errorf("interval %s-%s is no prefix", first, best)
			}
			p := netip.PrefixFrom(first, bits)
			if end, ok := afterPrefix(p); p.Masked() == p && (ok && end == best || !ok && !best.IsValid()) {
				begins[i].Source = p
				break
			}
		}
	}
	return begins, nil
}

// decodeElements decodes the body of one NFT_MSG_NEWSETELEM of a listing and calls each with
// every element; end says that it is the end of an interval. Whatever the bytes are, it returns.
func decodeElements(body []byte, fam *family, s Set, each func(e Element, end bool)) error {
	return attributes(body, func(ad *netlink.AttributeDecoder) error {
		if ad.Type() != unix.NFTA_SET_ELEM_LIST_ELEMENTS {
			return nil
		}
		return attributes(ad.Bytes(), func(ad *netlink.AttributeDecoder) error {
			var e Element
			end, err := decodeElement(ad.Bytes(), fam, s, &e)
			if err != nil {
				return fmt.Errorf("element of %s: %w", s, err)
			}
			each(e, end)
			return nil
		})
	})
}

func attributes(b []byte, each func(*netlink.AttributeDecoder) error) error {
	ad, err := netlink.NewAttributeDecoder(b)
	if err != nil {
		return err
	}
	ad.ByteOrder = binary.BigEndian
	for ad.Next() {
		if err := each(ad); err != nil {
			return err
		}
	}
	return ad.Err()
}

func decodeElement(b []byte, fam *family, s Set, e *Element) (end bool, err error) {
	var key, keyEnd, data []byte
	err = attributes(b, func(ad *netlink.AttributeDecoder) (err error) {
		switch ad.Type() {
		case unix.NFTA_SET_ELEM_KEY:
			key, _, err = decodeData(ad.Bytes())
		case nftaSetElemKeyEnd:
			keyEnd, _, err = decodeData(ad.Bytes())
		case unix.NFTA_SET_ELEM_DATA:
			data, e.Verdict, err = decodeData(ad.Bytes())
		case unix.NFTA_SET_ELEM_FLAGS:
			end = ad.Uint32()&unix.NFT_SET_ELEM_INTERVAL_END != 0
		case unix.NFTA_SET_ELEM_USERDATA:
			e.Comment = commentOf(ad.Bytes(), udataElemComment)
		}
		return err
	})
	if err != nil {
		return false, err
	}
	if err := decodeKey(key, keyEnd, fam, s, e); err != nil {
		return false, err
	}
	if schemas[s].data != nil {
		r := reader{b: data, fam: fam}
		e.Endpoint = netip.AddrPortFrom(r.addr(), r.port())
		return end, r.done()
	}
	return end, nil
}

// decodeData decodes NFTA_DATA_VALUE or NFTA_DATA_VERDICT.
func decodeData(b []byte) (value []byte, v Verdict, err error) {
	err = attributes(b, func(ad *netlink.AttributeDecoder) error {
		switch ad.Type() {
		case unix.NFTA_DATA_VALUE:
			value = ad.Bytes()
		case unix.NFTA_DATA_VERDICT:
			var code int32
			var chain string
			err := attributes(ad.Bytes(), func(ad *netlink.AttributeDecoder) error {
				switch ad.Type() {
				case unix.NFTA_VERDICT_CODE:
					code = int32(ad.Uint32())
				case unix.NFTA_VERDICT_CHAIN:
					chain = ad.String()
				}
				return nil
			})
			if err != nil {
				return err
			}
			v, err = verdictOf(code, chain)
			return err
		}
		return nil
	})
	return value, v, err
}

// verdictOf is the reverse of Verdict.Chain.
func verdictOf(code int32, chain string) (Verdict, error) {
	if code == nfDrop {
		return Drop, nil
	}
	if code == unix.NFT_GOTO {
		if chain == Refuse.Chain() {
			return Refuse, nil
		}
		base, digits := lbBase, strings.TrimPrefix(chain, "lb-")
		if local, ok := strings.CutPrefix(digits, "local-"); ok {
			base, digits = lbLocalBase, local
		}
		if n, err := strconv.Atoi(digits); err == nil && n >= 1 && n <= 1<<MaxClass {
			if v := base + Verdict(class(n)); v.Chain() == chain {
				return v, nil
			}
		}
	}
	return 0, fmt.Errorf("verdict %d %q is none of ours", code, chain)
}

func decodeKey(key, keyEnd []byte, fam *family, s Set, e *Element) error {
	r := reader{b: key, fam: fam}
	switch s {
	case ClusterIPs:
		e.Frontend.Addr = r.addr()
		return r.done()
	case Hairpin:
		e.Frontend.Addr = r.addr()
		if r.addr() != e.Frontend.Addr {
			return errors.New("hairpin between two addresses")
		}
		return r.done()
	case ServiceCIDRs:
		a := r.addr()
		if err := r.done(); err != nil {
			return err
		}
		e.Source = netip.PrefixFrom(a, a.BitLen()) // until the end is known
		return nil
	case Affinity:
		e.Client = r.addr()
	}
	e.Frontend.Protocol = Protocol(r.take(4)[0])
	e.Frontend.Addr = r.addr()
	e.Frontend.Port = r.port()
	switch s {
	case Endpoints, LocalEndpoints:
		e.Slot = binary.NativeEndian.Uint32(r.take(4))
	case AllowedSources:
		first := r.addr()
		end := reader{b: keyEnd, fam: fam}
		end.take(8)
		end.addr()
		last := end.addr()
		if err := end.done(); err != nil {
			return err
		}
		for bits := range first.BitLen() + 1 {
			if p := netip.PrefixFrom(first, bits); p.Masked() == p && lastOf(p) == last {
				e.Source = p
				return r.done()
			}
		}
		return fmt.Errorf("sources %s-%s are no prefix", first, last)
	}
	return r.done()
}

// reader takes the parts of a concatenation. After the end it gives zeros, and done tells.
type reader struct {
	b     []byte
	fam   *family
	short bool
}

func (r *reader) take(n int) []byte {
	if len(r.b) < n {
		r.short = true
		return make([]byte, n)
	}
	part := r.b[:n]
	r.b = r.b[n:]
	return part
}

func (r *reader) addr() netip.Addr {
	a, _ := netip.AddrFromSlice(r.take(r.fam.addrLen))
	return a
}

func (r *reader) port() uint16 { return binary.BigEndian.Uint16(r.take(4)) }

func (r *reader) done() error {
	if r.short || len(r.b) != 0 {
		return errors.New("key or data of another length")
	}
	return nil
}
