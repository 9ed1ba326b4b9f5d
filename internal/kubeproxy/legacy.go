package kubeproxy

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"os/exec"
	"slices"
	"strings"
	"unsafe"

	"golang.org/x/sys/unix"
)

// iptables-legacy keeps its tables beside nf_tables, each as one block of memory that is replaced as a
// whole. Finding kube-proxy's chains in it takes no tool; changing it is left to iptables-legacy,
// where that is installed.

// errNoLegacyTool says that there are rules that we cannot remove ourselves.
type errNoLegacyTool struct {
	tool  string
	plans map[string]removal
}

func (e errNoLegacyTool) Error() string {
	return fmt.Sprintf("%d chains of kube-proxy are left in iptables-legacy (tables %s), and %s is not installed here: "+
		"run 'kube-proxy --cleanup' from kube-proxy's image on this node, or reboot it",
		countChains(e.plans), strings.Join(slices.Sorted(maps.Keys(e.plans)), ", "), e.tool)
}

func countChains(plans map[string]removal) (n int) {
	for _, r := range plans {
		n += len(r.chains)
	}
	return n
}

// legacyTables lists the tables of iptables-legacy that are in use in this network namespace.
func legacyTables(fam nftFamily) ([]string, error) {
	file := "ip_tables_names"
	if fam.number == unix.NFPROTO_IPV6 {
		file = "ip6_tables_names"
	}
	b, err := os.ReadFile("/proc/thread-self/net/" + file)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil // not in this kernel
	}
	return strings.Fields(string(b)), err
}

// readLegacy plans what to remove from the tables of iptables-legacy, by table.
func readLegacy(fam nftFamily) (map[string]removal, error) {
	names, err := legacyTables(fam)
	if err != nil {
		return nil, err
	}
	plans := map[string]removal{}
	for _, table := range names {
		if !slices.Contains(xtables, table) {
			continue
		}
		hooks, blob, err := readBlob(fam, table)
		if err != nil {
			return nil, fmt.Errorf("read table %s of %s-legacy: %w", table, fam.binary, err)
		}
		if r := plan(parseBlob(fam, table, hooks, blob)); !r.empty() {
			plans[table] = r
		}
	}
	return plans, nil
}

// The kernel's interface of iptables-legacy (linux/netfilter_ipv4/ip_tables.h): socket options, and sizes in bytes.
const (
	soGetInfo    = 64 // IPT_SO_GET_INFO
	soGetEntries = 65
	tableNameLen = 32
	getInfoLen   = tableNameLen + 4 + 5*4 + 5*4 + 4 + 4 // struct ipt_getinfo, ends in the number of entries and their size
	entriesAt    = 40                                   // in struct ipt_get_entries: name, size, aligned to 8

	targetNameAt  = 2 // in struct xt_entry_target, behind its size
	targetNameLen = 29
	targetLen     = 32
	errorNameLen  = 30
)

// readBlob reads the rules of a table as the kernel keeps them, and where each hook begins.
func readBlob(fam nftFamily, table string) (hooks map[int]string, blob []byte, err error) {
	domain, level := unix.AF_INET, unix.SOL_IP
	if fam.number == unix.NFPROTO_IPV6 {
		domain, level = unix.AF_INET6, unix.SOL_IPV6
	}
	fd, err := unix.Socket(domain, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, nil, err
	}
	defer unix.Close(fd)
	const tries = 10 // between the two calls the table may grow
	for range tries {
		info := make([]byte, getInfoLen)
		copy(info, table)
		if err := getsockopt(fd, level, soGetInfo, info); err != nil {
			return nil, nil, err
		}
		size := binary.NativeEndian.Uint32(info[getInfoLen-4:])
		entries := make([]byte, entriesAt+int(size))
		copy(entries, table)
		binary.NativeEndian.PutUint32(entries[tableNameLen:], size)
		if err = getsockopt(fd, level, soGetEntries, entries); err == nil {
			return hookEntries(info), entries[entriesAt:], nil
		}
		if !errors.Is(err, unix.EAGAIN) {
			break
		}
	}
	return nil, nil, err
}

// hookEntries returns the built-in chains of a table, by where they begin.
func hookEntries(info []byte) map[int]string {
	valid := binary.NativeEndian.Uint32(info[tableNameLen:])
	hooks := map[int]string{}
	for i, chain := range []string{"PREROUTING", "INPUT", "FORWARD", "OUTPUT", "POSTROUTING"} {
		if valid&(1<<i) != 0 {
			hooks[int(binary.NativeEndian.Uint32(info[tableNameLen+4+4*i:]))] = chain
		}
	}
	return hooks
}

// getsockopt calls getsockopt(2) with a buffer that is both question and answer.
func getsockopt(fd, level, option int, buf []byte) error {
	size := uint32(len(buf))
	_, _, errno := unix.Syscall6(unix.SYS_GETSOCKOPT, uintptr(fd), uintptr(level), uintptr(option),
		uintptr(unsafe.Pointer(&buf[0])), uintptr(unsafe.Pointer(&size)), 0)
	if errno != 0 {
		return errno
	}
	return nil
}

// parseBlob reads a table as the kernel keeps it: one rule after the other. A chain of the user begins with an
// entry whose target is called ERROR and carries the chain's name, and the last entry of all is such a
// one too. A target without a name is a verdict: negative, or the place of the first rule of the chain to
// jump to. Whatever the bytes are, it returns.
func parseBlob(fam nftFamily, table string, hooks map[int]string, blob []byte) xtable {
	offsets := 84 + 4 // behind struct ipt_ip and nfcache: where the target is, and the next entry
	if fam.number == unix.NFPROTO_IPV6 {
		offsets = 136 + 4 // struct ip6t_ip6
	}
	t := xtable{name: table, base: map[string]bool{}}
	begins := map[int]string{} // where chains begin
	var jumps []int            // of each rule
	chain := ""
	for at := 0; at+offsets+4 <= len(blob); {
		target := at + int(binary.NativeEndian.Uint16(blob[at+offsets:]))
		next := at + int(binary.NativeEndian.Uint16(blob[at+offsets+2:]))
		if next <= at || next > len(blob) {
			break
		}
		if hook, ok := hooks[at]; ok {
			chain, begins[at], t.base[hook] = hook, hook, true
		}
		name, data := "", []byte(nil)
		if target+targetLen <= next {
			name, data = cString(blob[target+targetNameAt:target+targetNameAt+targetNameLen]), blob[target+targetLen:next]
		}
		switch {
		case name == "ERROR" && len(data) >= errorNameLen:
			if chain = cString(data[:errorNameLen]); next < len(blob) {
				begins[next] = chain
				t.user = append(t.user, chain)
			}
		case name == "" && len(data) >= 4:
			to := int(int32(binary.NativeEndian.Uint32(data)))
			if to >= 0 && to != next { // a rule without a target goes to the next one
				t.rules, jumps = append(t.rules, rule{chain: chain}), append(jumps, to)
			}
		}
		at = next
	}
	for i, to := range jumps {
		t.rules[i].target = begins[to]
	}
	return t
}

// removeLegacy takes kube-proxy out of iptables-legacy, and returns what it did in each table.
func removeLegacy(ctx context.Context, fam nftFamily, plans map[string]removal) (done []removal, err error) {
	save, restore := fam.binary+"-legacy-save", fam.binary+"-legacy-restore"
	for _, tool := range []string{save, restore} {
		if _, err := exec.LookPath(tool); err != nil {
			return nil, errNoLegacyTool{tool, plans}
		}
	}
	for _, name := range slices.Sorted(maps.Keys(plans)) {
		out, err := run(ctx, nil, save, "-t", name)
		if err != nil {
			return done, err
		}
		t, err := parseSave(out)
		if err != nil {
			return done, fmt.Errorf("%s -t %s: %w", save, name, err)
		}
		r := plan(t)
		for _, script := range restoreScripts(name, r) {
			if _, err := run(ctx, []byte(script), restore, "--noflush", "--wait", "5"); err != nil {
				return done, err
			}
			pause(ctx)
		}
		done = append(done, r)
	}
	return done, nil
}

// restoreScripts returns what to tell iptables-restore: first to unhook the chains, then to delete them.
func restoreScripts(table string, r removal) (scripts []string) {
	if len(r.jumps) > 0 {
		var b strings.Builder
		fmt.Fprintf(&b, "*%s\n", table)
		for _, jump := range r.jumps {
			fmt.Fprintf(&b, "-D %s %s\n", jump.chain, strings.Join(jump.args, " "))
		}
		scripts = append(scripts, b.String()+"COMMIT\n")
	}
	if len(r.chains) > 0 {
		var b strings.Builder
		fmt.Fprintf(&b, "*%s\n", table)
		for _, chain := range r.chains {
			fmt.Fprintf(&b, ":%s - [0:0]\n", chain) // empties it
		}
		for _, chain := range r.chains {
			fmt.Fprintf(&b, "-X %s\n", chain)
		}
		scripts = append(scripts, b.String()+"COMMIT\n")
	}
	return scripts
}

// parseSave reads what iptables-save prints of one table.
func parseSave(out []byte) (xtable, error) {
	t := xtable{base: map[string]bool{}}
	for line := range strings.Lines(string(out)) {
		words := splitWords(strings.TrimSpace(line))
		switch {
		case len(words) == 0 || strings.HasPrefix(words[0], "#"):
		case strings.HasPrefix(words[0], "*"):
			t.name = words[0][1:]
		case strings.HasPrefix(words[0], ":") && len(words) >= 2:
			if chain := words[0][1:]; words[1] == "-" {
				t.user = append(t.user, chain)
			} else {
				t.base[chain] = true
				t.drop = t.drop || chain == "FORWARD" && words[1] == "DROP"
			}
		case words[0] == "-A" && len(words) >= 2:
			r := rule{chain: words[1], args: words[2:]}
			for i, w := range words[:len(words)-1] {
				if w == "-j" || w == "-g" {
					r.target = words[i+1]
				}
			}
			t.rules = append(t.rules, r)
		}
	}
	if t.name == "" {
		return t, errors.New("names no table")
	}
	return t, nil
}

// splitWords splits at blanks outside of double quotes. Quotes stay, for the words to be given back as
// they are.
func splitWords(line string) (words []string) {
	quoted, escaped, begin := false, false, -1
	for i, c := range line {
		switch {
		case escaped:
			escaped = false
		case c == '\\':
			escaped = true
		case c == '"':
			quoted = !quoted
		}
		if c == ' ' && !quoted {
			if begin >= 0 {
				words = append(words, line[begin:i])
			}
			begin = -1
		} else if begin < 0 {
			begin = i
		}
	}
	if begin >= 0 {
		words = append(words, line[begin:])
	}
	return words
}

// run runs a command and returns its output. The error quotes what it complained of.
func run(ctx context.Context, stdin []byte, name string, args ...string) ([]byte, error) {
	cmd := exec.CommandContext(ctx, name, args...)
	var out, errOut bytes.Buffer
	cmd.Stdin, cmd.Stdout, cmd.Stderr = bytes.NewReader(stdin), &out, &errOut
	if err := cmd.Run(); err != nil {
		return nil, fmt.Errorf("%s %s: %w: %s", name, strings.Join(args, " "), err, strings.TrimSpace(errOut.String()))
	}
	return out.Bytes(), nil
}
