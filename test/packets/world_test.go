//go:build linux

package packets

import (
	"bytes"
	"fmt"
	"maps"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/yaml"

	"github.com/weir-project/weir/internal/netlab"
)

// world is a directory of manifests with what holds in it.
type world struct {
	name  string
	dir   string   // below testdata; default: the name
	flags []string // of weir run, besides the usual ones
	logs  []string // what weir must have logged by the end of all steps
	steps []step
}

// step is a state of a world.
type step struct {
	over    string // the subdirectory whose files are laid over the world's; "": none
	addrs   string // addresses that the node has besides its own
	packets []packet
	// untraced says that weir cannot foretell what becomes of the packets: others' rules decide, or no
	// weir runs.
	untraced bool
}

// directory returns where a world's manifests are.
func (w *world) directory() string {
	return filepath.Join("testdata", cmpOr(w.dir, w.name))
}

// files returns the manifests of a step by name.
func (w *world) files(s step) (map[string]string, error) {
	dirs := []string{"testdata/common", w.directory()}
	if s.over != "" {
		dirs = append(dirs, filepath.Join(w.directory(), s.over))
	}
	files := map[string]string{}
	for _, dir := range dirs {
		entries, err := os.ReadDir(dir)
		if err != nil {
			return nil, err
		}
		for _, entry := range entries {
			if entry.IsDir() {
				continue
			}
			text, err := os.ReadFile(filepath.Join(dir, entry.Name()))
			if err != nil {
				return nil, err
			}
			files[entry.Name()] = string(text)
		}
	}
	maps.DeleteFunc(files, func(_, text string) bool { return empty(text) })
	return files, nil
}

// empty reports whether a manifest has no object in it.
func empty(text string) bool {
	for line := range strings.Lines(text) {
		if line = strings.TrimSpace(line); line != "" && line[0] != '#' {
			return false
		}
	}
	return true
}

// objects are those of a step that cases name.
type objects struct {
	services map[string]*v1.Service
}

// read reads manifests, strictly.
func read(files map[string]string) (*objects, error) {
	o := &objects{services: map[string]*v1.Service{}}
	for name, text := range files {
		for _, doc := range bytes.Split([]byte(text), []byte("\n---\n")) {
			var head metav1.TypeMeta
			if err := yaml.Unmarshal(doc, &head); err != nil {
				return nil, fmt.Errorf("%s: %w", name, err)
			}
			if head.Kind != "Service" {
				continue
			}
			var s v1.Service
			if err := yaml.UnmarshalStrict(doc, &s); err != nil {
				return nil, fmt.Errorf("%s: %w", name, err)
			}
			o.services[s.Name] = &s
		}
	}
	return o, nil
}

// frontend returns an address of a service and the protocols that it has at a port; all of them
// if it has none there. Port 0 is the service's first.
func (o *objects) frontend(s *v1.Service, what string, port uint16, h hosts) (*target, error) {
	var addrs []netip.Addr
	add := func(text string) {
		if a, err := netip.ParseAddr(text); err == nil && h.family.has(a) {
			addrs = append(addrs, a)
		}
	}
	kind := strings.TrimRight(what, "0123456789")
	switch kind {
	case "":
		for _, a := range append(s.Spec.ClusterIPs, s.Spec.ClusterIP) {
			add(a)
		}
	case "external":
		for _, a := range s.Spec.ExternalIPs {
			add(a)
		}
	case "lb":
		for _, in := range s.Status.LoadBalancer.Ingress {
			add(in.IP)
		}
	case "node":
		a, err := h.addr("node")
		if err != nil {
			return nil, err
		}
		addrs = append(addrs, a)
	default:
		return nil, fmt.Errorf("what is the %q of a service?", what)
	}
	n, err := strconv.Atoi(cmpOr(what[len(kind):], "1"))
	if err != nil || n < 1 || n > len(addrs) {
		return nil, fmt.Errorf("service %s has %d addresses of kind %q in IPv%d", s.Name, len(addrs), kind, h.family)
	}
	t := &target{}
	for _, p := range s.Spec.Ports {
		number := uint16(p.Port)
		if kind == "node" {
			number = uint16(p.NodePort)
		}
		if port == 0 {
			port = number
		}
		if number == port {
			t.protos = append(t.protos, protocolOf(p.Protocol))
		}
	}
	if port == 0 {
		return nil, fmt.Errorf("service %s has no port for %q", s.Name, what)
	}
	if len(t.protos) == 0 {
		t.protos = protocols
	}
	t.dst = netip.AddrPortFrom(addrs[n-1], port)
	return t, nil
}

func protocolOf(p v1.Protocol) netlab.Protocol {
	i := slices.IndexFunc(protocols, func(o netlab.Protocol) bool { return strings.EqualFold(o.String(), string(p)) })
	return protocols[max(i, 0)] // no protocol is TCP
}
