package dataplane

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"
	"k8s.io/klog/v2"
)

func uint32At(b []byte) uint32 { return binary.NativeEndian.Uint32(b) }

// table is what the kernel says of a table.
type table struct {
	name    string
	comment string
	flags   uint32
	use     uint32
	handle  uint64
	owner   uint32 // netlink port; 0: nobody
}

// tableNames are the names that our table may have.
var tableNames = [...]string{Table, otherTable}

// getTable returns nil if there is no such table.
func (c *Conn) getTable(fam *family, name string) (*table, error) {
	var m messages
	m.begin(fam.nfproto, unix.NFT_MSG_GETTABLE, 0)
	m.string(unix.NFTA_TABLE_NAME, name)
	m.end()
	var t *table
	err := c.sock.ask(&m, func(body []byte) (err error) {
		t, err = decodeTable(body)
		return err
	})
	if errors.Is(err, unix.ENOENT) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("get table %s %s: %w", fam.name, name, err)
	}
	return t, nil
}

func decodeTable(body []byte) (*table, error) {
	ad, err := netlink.NewAttributeDecoder(body)
	if err != nil {
		return nil, err
	}
	ad.ByteOrder = binary.BigEndian
	t := &table{}
	for ad.Next() {
		switch ad.Type() {
		case unix.NFTA_TABLE_NAME:
			t.name = ad.String()
		case unix.NFTA_TABLE_FLAGS:
			t.flags = ad.Uint32()
		case unix.NFTA_TABLE_USE:
			t.use = ad.Uint32()
		case 4: // NFTA_TABLE_HANDLE
			t.handle = ad.Uint64()
		case nftaTableUserdata:
			t.comment = commentOf(ad.Bytes(), udataTableComment)
		case 7: // NFTA_TABLE_OWNER
			t.owner = ad.Uint32()
		}
	}
	return t, ad.Err()
}

// commentOf finds a comment in user data: a list of type, length, value.
func commentOf(b []byte, typ byte) string {
	for len(b) >= 2 {
		end := 2 + int(b[1])
		if end > len(b) {
			break
		}
		if b[0] == typ {
			return strings.TrimRight(string(b[2:end]), "\x00")
		}
		b = b[end:]
	}
	return ""
}

// findTables looks for our tables: the one that has our layout, every rule of it, and those that
// do not.
func (c *Conn) findTables(fam *family) (current *table, old []*table, err error) {
	for _, name := range tableNames {
		t, err := c.getTable(fam, name)
		switch {
		case err != nil:
			return nil, nil, err
		case t == nil:
			continue
		}
		whole := current == nil && t.comment == c.cfg.Layout.comment(fam)
		if whole {
			if whole, err = c.hasEveryRule(fam, t.name); err != nil {
				return nil, nil, err
			}
		}
		if whole {
			current = t
		} else {
			old = append(old, t)
		}
	}
	return current, old, nil
}

// hasEveryRule reports whether nobody took rules out of a table of our layout, or put some in.
func (c *Conn) hasEveryRule(fam *family, name string) (bool, error) {
	more, err := c.addedTo(fam, name)
	if err != nil {
		return false, err
	}
	rules, err := c.countRules(fam, name)
	return rules == c.cfg.Layout.rules(fam, more), err
}

// takeOwnership makes an orphaned table ours, where tables have owners. It must precede every
// other change.
func (c *Conn) takeOwnership(fam *family, t *table) error {
	flags := c.flags
	if flags == 0 && t.flags&nftTableFlagPersist != 0 {
		flags = nftTableFlagOwner | nftTableFlagPersist // of a process that ran with owners
	}
	if flags == 0 || t.flags&nftTableFlagOwner != 0 && t.owner == c.sock.conn.PID() {
		return nil
	}
	b := c.newBatch()
	appendNewTable(&b.messages, fam, t.name, flags, "")
	err := c.commit(b)
	if errors.Is(err, unix.EPERM) {
		return fmt.Errorf("table %s %s belongs to another running process (netlink port %d): stop it first: %w", fam.name, t.name, t.owner, err)
	}
	if err != nil {
		return fmt.Errorf("adopt table %s %s: %w", fam.name, t.name, err)
	}
	return nil
}

// adopt takes over a table of our layout.
func (c *Conn) adopt(fam *family, t *table) error {
	if err := c.takeOwnership(fam, t); err != nil {
		return err
	}
	more, err := c.addedTo(fam, t.name)
	if err != nil {
		return err
	}
	st := &c.state[fam.number()]
	st.name, st.added = t.name, more
	return c.refreshTable(fam)
}

// refreshTable remembers by what we shall know that the table is still ours.
func (c *Conn) refreshTable(fam *family) error {
	st := &c.state[fam.number()]
	t, err := c.getTable(fam, st.name)
	if err != nil {
		return err
	}
	if t == nil {
		return fmt.Errorf("table %s %s vanished: %w", fam.name, st.name, ErrStale)
	}
	st.handle, st.use = t.handle, t.use
	return nil
}

// retire removes a table: first the base chains' rules, so that no packet is inside when the maps
// go; those at postrouting last, for packets that the others have translated.
func (c *Conn) retire(fam *family, t *table) error {
	if err := c.takeOwnership(fam, t); err != nil {
		return err
	}
	chains, err := c.baseChains(fam, t.name)
	if err != nil {
		return err
	}
	for _, last := range []bool{false, true} {
		b := c.newBatch()
		for _, chain := range chains {
			if (chain.hook == "postrouting") == last {
				b.begin(fam.nfproto, unix.NFT_MSG_DELRULE, 0)
				b.string(unix.NFTA_RULE_TABLE, t.name)
				b.string(unix.NFTA_RULE_CHAIN, chain.name)
				b.end()
			}
		}
		if err := c.commit(b); err != nil {
			return fmt.Errorf("empty the base chains of table %s %s: %w", fam.name, t.name, err)
		}
	}
	b := c.newBatch()
	appendDelTable(&b.messages, fam, t.name)
	if err := c.commit(b); err != nil {
		return fmt.Errorf("delete table %s %s: %w", fam.name, t.name, err)
	}
	return nil
}

// baseChains lists the base chains of a table, whatever layout it has.
func (c *Conn) baseChains(fam *family, table string) ([]chain, error) {
	chains, err := c.chains(fam, table)
	return slices.DeleteFunc(chains, func(ch chain) bool { return ch.hook == "" }), err
}

// chains lists the chains of a table, without their rules.
func (c *Conn) chains(fam *family, table string) ([]chain, error) {
	var m messages
	m.begin(fam.nfproto, unix.NFT_MSG_GETCHAIN, unix.NLM_F_DUMP)
	m.end()
	var chains []chain
	err := c.sock.ask(&m, func(body []byte) error {
		found, of, err := decodeChain(body)
		if of == table {
			chains = append(chains, found)
		}
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("list the chains of table %s %s: %w", fam.name, table, err)
	}
	return chains, nil
}

// decodeChain decodes the name and the hook of a chain, and the name of its table.
func decodeChain(body []byte) (ch chain, table string, err error) {
	err = attributes(body, func(ad *netlink.AttributeDecoder) error {
		switch ad.Type() {
		case unix.NFTA_CHAIN_TABLE:
			table = ad.String()
		case unix.NFTA_CHAIN_NAME:
			ch.name = ad.String()
		case unix.NFTA_CHAIN_HOOK:
			return attributes(ad.Bytes(), func(ad *netlink.AttributeDecoder) error {
				if ad.Type() == unix.NFTA_HOOK_HOOKNUM {
					number := ad.Uint32()
					for name, n := range hooks {
						if n == number {
							ch.hook = name
						}
					}
				}
				return nil
			})
		}
		return nil
	})
	return ch, table, err
}

// addedTo finds out what a table has besides what it was made with.
func (c *Conn) addedTo(fam *family, name string) (added, error) {
	timeouts, err := c.affinityTimeouts(fam, name)
	if err != nil {
		return added{}, err
	}
	chains, err := c.chains(fam, name)
	if err != nil {
		return added{}, err
	}
	more := added{timeouts, map[Verdict]bool{}}
	for _, ch := range chains {
		if v, err := verdictOf(unix.NFT_GOTO, ch.name); err == nil && v.Class() > 1 {
			more.classes[v] = true
		}
	}
	return more, nil
}

// affinityTimeouts lists the timeouts for which a table has a set.
func (c *Conn) affinityTimeouts(fam *family, name string) (map[time.Duration]bool, error) {
	var m messages
	m.begin(fam.nfproto, unix.NFT_MSG_GETSET, unix.NLM_F_DUMP)
	m.string(unix.NFTA_SET_TABLE, name)
	m.end()
	timeouts := map[time.Duration]bool{}
	err := c.sock.ask(&m, func(body []byte) error {
		ad, err := netlink.NewAttributeDecoder(body)
		if err != nil {
			return err
		}
		for ad.Next() {
			if ad.Type() == unix.NFTA_SET_NAME {
				if timeout, ok := affinityTimeout(ad.String()); ok {
					timeouts[timeout] = true
				}
			}
		}
		return ad.Err()
	})
	if err != nil {
		return nil, fmt.Errorf("list the sets of table %s %s: %w", fam.name, name, err)
	}
	return timeouts, nil
}

// generation returns the number of the network namespace's ruleset, which every transaction of
// anybody raises by one.
func (c *Conn) generation() (uint32, error) {
	var m messages
	m.begin(unix.AF_UNSPEC, unix.NFT_MSG_GETGEN, 0)
	m.end()
	var gen uint32
	err := c.sock.ask(&m, func(body []byte) error {
		ad, err := netlink.NewAttributeDecoder(body)
		if err != nil {
			return err
		}
		ad.ByteOrder = binary.BigEndian
		for ad.Next() {
			if ad.Type() == unix.NFTA_GEN_ID {
				gen = ad.Uint32()
			}
		}
		return ad.Err()
	})
	if err != nil {
		return 0, fmt.Errorf("get the ruleset's generation: %w", err)
	}
	return gen, nil
}

// nextGeneration is the generation after gen; 0 is left out.
func nextGeneration(gen uint32) uint32 {
	if gen++; gen == 0 {
		return 1
	}
	return gen
}

// watchInterval is how often Watch looks at the generation: half of the second within which a
// foreign change is to be repaired.
const watchInterval = 250 * time.Millisecond

// Watch calls stale whenever somebody else has changed our tables, until ctx ends. It costs one
// request of 20 bytes per look as long as nobody writes to nf_tables but we.
func (c *Conn) Watch(ctx context.Context, stale func(reason string)) error {
	tick := time.NewTicker(watchInterval)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
		reason, err := c.Look()
		if err != nil {
			klog.FromContext(ctx).Error(err, "Looking for foreign changes of the ruleset")
			continue
		}
		if reason != "" {
			stale(reason)
		}
	}
}

// Look reports how our tables differ from what was written, "" if they do not. After a change by
// somebody else it looks at the tables, the number of their rules and one element of each map.
func (c *Conn) Look() (reason string, err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	gen, err := c.generation()
	if err != nil || gen == c.gen {
		return "", err
	}
	for _, f := range c.families {
		st := &c.state[f.number()]
		if st.name == "" {
			continue // nothing written yet, or a Replace is due anyway
		}
		if reason, err = c.differs(f, st); err != nil {
			return "", err
		}
		if reason != "" {
			return fmt.Sprintf("table %s %s: %s", f.name, st.name, reason), nil
		}
	}
	c.gen = gen
	return "", nil
}

// differs compares a table with what we know of it.
func (c *Conn) differs(fam *family, st *tableState) (string, error) {
	t, err := c.getTable(fam, st.name)
	switch {
	case err != nil:
		return "", err
	case t == nil:
		return "removed", nil
	case t.handle != st.handle:
		return "removed and made anew", nil
	case t.use != st.use:
		return fmt.Sprintf("holds %d objects instead of %d", t.use, st.use), nil
	case c.flags != 0:
		return "", nil // nobody else can write to it
	}
	rules, err := c.countRules(fam, st.name)
	if err != nil {
		return "", err
	}
	if want := c.cfg.Layout.rules(fam, st.added); rules != want {
		return fmt.Sprintf("has %d rules instead of %d", rules, want), nil
	}
	return "", nil
}

func (c *Conn) countRules(fam *family, name string) (int, error) {
	var m messages
	m.begin(fam.nfproto, unix.NFT_MSG_GETRULE, unix.NLM_F_DUMP)
	m.string(unix.NFTA_RULE_TABLE, name)
	m.end()
	n := 0
	err := c.sock.ask(&m, func([]byte) error { n++; return nil })
	return n, err
}

// Cleanup removes our tables from the network namespace with that file descriptor (0: the
// caller's), and nothing else. It returns the names of what it removed. A table that belongs to a
// running process stays, and is an error.
func Cleanup(netns int) (removed []string, err error) {
	sock, err := dial(netns)
	if err != nil {
		return nil, err
	}
	c := &Conn{sock: sock, lock: -1}
	defer func() { err = errors.Join(err, c.Close()) }()
	if c.lock, err = lockNamespace(netns); err != nil {
		return nil, err
	}
	for _, fam := range []*family{ipv4, ipv6} {
		for _, name := range tableNames {
			t, err := c.getTable(fam, name)
			if err != nil && errors.Is(err, unix.EOPNOTSUPP) {
				continue // no such family in this kernel
			}
			if err != nil {
				return removed, explain(err)
			}
			if t == nil || !strings.HasPrefix(t.comment, "weir layout ") {
				continue // not there, or somebody else's of the same name
			}
			if err := c.retire(fam, t); err != nil {
				return removed, err
			}
			removed = append(removed, fam.name+" "+name)
		}
	}
	return removed, nil
}

// ErrRunning says that another process keeps the tables of this network namespace.
var ErrRunning = errors.New("weir already runs in this network namespace: stop that process first")

// lockNamespace makes sure that one process only writes to a network namespace. The lock is an
// abstract socket: its name belongs to the namespace, and it goes with the process.
func lockNamespace(netns int) (fd int, err error) {
	err = inNamespace(netns, func() error {
		if fd, err = unix.Socket(unix.AF_UNIX, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0); err != nil {
			return err
		}
		return unix.Bind(fd, &unix.SockaddrUnix{Name: "@weir-dataplane"})
	})
	if err == nil {
		return fd, nil
	}
	if fd > 0 {
		_ = unix.Close(fd)
	}
	if errors.Is(err, unix.EADDRINUSE) {
		err = ErrRunning
	}
	return -1, err
}

// inNamespace runs f with the thread in the network namespace with that file descriptor.
func inNamespace(netns int, f func() error) error {
	if netns == 0 {
		return f()
	}
	done := make(chan error)
	go func() {
		// The thread is not unlocked, so that it ends with the goroutine instead of coming back
		// to the pool in a foreign namespace.
		lockThread()
		if err := unix.Setns(netns, unix.CLONE_NEWNET); err != nil {
			done <- os.NewSyscallError("setns", err)
			return
		}
		done <- f()
	}()
	return <-done
}
