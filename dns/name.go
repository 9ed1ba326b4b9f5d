package dns

import (
	"fmt"
	"net/netip"
	"strings"
)

// The limits of names in wire form, in bytes (RFC 1035, section 2.3.4).
const (
	maxLabel = 63
	maxName  = 255
)

// name is a name in wire form and lower case, with its labels counted.
type name struct {
	wire   [maxName]byte
	length int                // in wire, with the root
	labels [maxName / 2]uint8 // where each label begins
	count  int
}

// label returns a label without its length.
func (n *name) label(i int) []byte {
	at := int(n.labels[i])
	return n.wire[at+1 : at+1+int(n.wire[at])]
}

// from returns the name from a label on.
func (n *name) from(i int) []byte {
	if i == n.count {
		return n.wire[n.length-1 : n.length]
	}
	return n.wire[n.labels[i]:n.length]
}

// read takes a name without compression from the start of b, and returns its length; 0 if it is
// none.
func (n *name) read(b []byte) int {
	n.count = 0
	for at := 0; at < len(b) && at < maxName; {
		l := int(b[at])
		n.wire[at] = b[at]
		if l == 0 {
			n.length = at + 1
			return n.length
		}
		if l > maxLabel || at+l >= len(b) || at+l >= maxName-1 {
			return 0
		}
		n.labels[n.count] = uint8(at)
		n.count++
		for i := at + 1; i <= at+l; i++ {
			n.wire[i] = lower[b[i]]
		}
		at += l + 1
	}
	return 0
}

// lower maps a byte to its lower case in ASCII.
var lower = func() (t [256]byte) {
	for i := range t {
		t[i] = byte(i)
		if 'A' <= i && i <= 'Z' {
			t[i] += 'a' - 'A'
		}
	}
	return t
}()

// appendLabel writes a label; it must be valid.
func appendLabel(b []byte, label string) []byte {
	return append(append(b, byte(len(label))), label...)
}

// validLabel reports whether something can be a label of a name: what is in it, we do not judge.
func validLabel(s string) bool {
	return len(s) > 0 && len(s) <= maxLabel && strings.IndexByte(s, '.') < 0
}

// parseName returns a name in lower-case wire form, from its presentation form without escapes. A
// dot at the end is allowed.
func parseName(s string) ([]byte, error) {
	var b []byte
	for label := range strings.SplitSeq(strings.TrimSuffix(s, "."), ".") {
		if !validLabel(label) {
			return nil, fmt.Errorf("%q is not a domain name", s)
		}
		b = appendLabel(b, strings.ToLower(label))
	}
	if len(b) >= maxName {
		return nil, fmt.Errorf("%q is too long for a domain name", s)
	}
	return append(b, 0), nil
}

// dashed returns the label that stands for an endpoint without a hostname: its address with dashes,
// and a zero at the end where a label would end in a dash.
func dashed(a netip.Addr) string {
	s := strings.Map(func(r rune) rune {
		if r == '.' || r == ':' {
			return '-'
		}
		return r
	}, a.String())
	if strings.HasSuffix(s, "-") {
		s += "0"
	}
	return s
}

// undash reads the address of a pod's name: 10-1-2-3, or fd00--5. One of IPv4 written in IPv6 is IPv4. It
// allocates nothing.
func undash(label []byte) (netip.Addr, bool) {
	if a, ok := undash4(label); ok {
		return netip.AddrFrom4(a), true
	}
	a, ok := undash6(label)
	return netip.AddrFrom16(a).Unmap(), ok
}

func undash4(label []byte) (a [4]byte, ok bool) {
	part, value, digits := 0, 0, 0
	for _, c := range label {
		switch {
		case c == '-':
			if digits == 0 || part == 3 {
				return a, false
			}
			a[part] = byte(value)
			part, value, digits = part+1, 0, 0
		case '0' <= c && c <= '9':
			if value == 0 && digits > 0 { // a zero in front
				return a, false
			}
			value, digits = value*10+int(c-'0'), digits+1
			if value > 255 {
				return a, false
			}
		default:
			return a, false
		}
	}
	if part != 3 || digits == 0 {
		return a, false
	}
	a[3] = byte(value)
	return a, true
}

func undash6(label []byte) (a [16]byte, ok bool) {
	n, gap := 0, -1 // bytes so far, and where zeros were left out
	for at := 0; at < len(label); {
		if label[at] == '-' && at+1 < len(label) && label[at+1] == '-' {
			if gap >= 0 {
				return a, false
			}
			gap = n
			if at += 2; at == len(label) {
				break
			}
		} else if at > 0 {
			if label[at] != '-' || gap == n {
				return a, false
			}
			at++
		}
		value, digits := 0, 0
		for ; at < len(label) && label[at] != '-'; at++ {
			d, ok := hexDigit(label[at])
			if digits++; !ok || digits > 4 {
				return a, false
			}
			value = value<<4 | d
		}
		if digits == 0 || n == 16 {
			return a, false
		}
		a[n], a[n+1] = byte(value>>8), byte(value)
		n += 2
	}
	if gap < 0 || n == 16 {
		return a, gap < 0 && n == 16
	}
	moved := n - gap
	copy(a[16-moved:], a[gap:n])
	clear(a[gap : 16-moved])
	return a, true
}

func hexDigit(c byte) (int, bool) {
	switch {
	case '0' <= c && c <= '9':
		return int(c - '0'), true
	case 'a' <= c && c <= 'f':
		return int(c-'a') + 10, true
	}
	return 0, false
}

// The zones of names of addresses, in wire form.
var (
	inAddr = []byte("\x07in-addr\x04arpa\x00")
	ip6    = []byte("\x03ip6\x04arpa\x00")
)

// reverse reads the address that a name under in-addr.arpa or ip6.arpa stands for.
func (n *name) reverse() (a netip.Addr, ok bool) {
	switch n.count {
	case 4 + 2:
		var b [4]byte
		if string(n.from(4)) != string(inAddr) {
			return a, false
		}
		for i := range b {
			if b[3-i], ok = octet(n.label(i)); !ok {
				return a, false
			}
		}
		return netip.AddrFrom4(b), true
	case 32 + 2:
		var b [16]byte
		if string(n.from(32)) != string(ip6) {
			return a, false
		}
		for i := range 32 {
			label := n.label(i)
			d, ok := hexDigit(label[0])
			if !ok || len(label) != 1 {
				return a, false
			}
			b[15-i/2] |= byte(d << (i % 2 * 4))
		}
		return netip.AddrFrom16(b), true
	}
	return a, false
}

func octet(label []byte) (byte, bool) {
	if len(label) > 3 || len(label) > 1 && label[0] == '0' {
		return 0, false
	}
	value := 0
	for _, c := range label {
		if c < '0' || c > '9' {
			return 0, false
		}
		value = value*10 + int(c-'0')
	}
	return byte(value), value <= 255
}
