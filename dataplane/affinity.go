package dataplane

import (
	"errors"
	"fmt"

	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"
)

// MaxAffinity is how many clients of frontends are remembered per family. When as many are, the next
// ones go to any endpoint each time.
const MaxAffinity = 1 << 18

// AffinityEntries counts the clients of frontends that are remembered, by the name of the family. A
// family without a table, or on whose frontends nobody has asked for affinity, has none. While others
// come and go the count is about right.
func (r *Reader) AffinityEntries() (map[string]int, error) {
	counts := map[string]int{}
	for _, fam := range r.of.families {
		n, err := r.affinityEntries(fam)
		if err != nil {
			return nil, fmt.Errorf("count the elements of %s of family %s: %w", Affinity, fam.name, err)
		}
		counts[fam.name] = n
	}
	return counts, nil
}

func (r *Reader) affinityEntries(fam *family) (n int, err error) {
	table := r.affine(fam)
	if table == "" {
		return 0, nil
	}
	var m messages
	m.listing(fam, table, Affinity.String())
	err = r.c.sock.ask(&m, func(body []byte) error { return countElements(body, &n) })
	if errors.Is(err, errInterrupted) { // an entry told of twice or not at all does not matter
		return n, nil
	}
	if errors.Is(err, unix.ENOENT) { // somebody removed the table
		return 0, nil
	}
	return n, err
}

// affine returns what the table of a family is called, "" if none of its frontends has had affinity.
func (r *Reader) affine(fam *family) string {
	r.of.mu.Lock()
	defer r.of.mu.Unlock()
	st := &r.of.state[fam.number()]
	if len(st.added.timeouts) == 0 {
		return ""
	}
	return st.name
}

// countElements adds to n how many elements the body of one NFT_MSG_NEWSETELEM of a listing has.
func countElements(body []byte, n *int) error {
	return attributes(body, func(ad *netlink.AttributeDecoder) error {
		if ad.Type() != unix.NFTA_SET_ELEM_LIST_ELEMENTS {
			return nil
		}
		return attributes(ad.Bytes(), func(*netlink.AttributeDecoder) error { *n++; return nil })
	})
}
