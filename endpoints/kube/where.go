package kube

import (
	"encoding/binary"
	"runtime"
	"sync"
	"weak"

	discoveryv1 "k8s.io/api/discovery/v1"

	"github.com/weir-project/weir/endpoints"
)

// wheres has every Where that some endpoint still points to, so that those with the same content
// are one.
var wheres = interner{known: map[string]weak.Pointer[endpoints.Where]{}}

type interner struct {
	mu    sync.Mutex
	known map[string]weak.Pointer[endpoints.Where] // by whereKey
	key   []byte                                   // working memory
}

// whereOf returns where an endpoint is and for whom it is meant, as a shared value.
func whereOf(ep *discoveryv1.Endpoint) *endpoints.Where { return wheres.get(ep) }

func (n *interner) get(ep *discoveryv1.Endpoint) *endpoints.Where {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.key = appendKey(n.key[:0], ep)
	if w := n.known[string(n.key)].Value(); w != nil {
		return w
	}
	w := newWhere(ep)
	key := string(n.key)
	n.known[key] = weak.Make(w)
	runtime.AddCleanup(w, n.forget, key)
	return w
}

// forget removes what nobody points to any more, unless it has been made anew.
func (n *interner) forget(key string) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.known[key].Value() == nil {
		delete(n.known, key)
	}
}

// appendKey writes everything that is in a Where, each string after its length.
func appendKey(b []byte, ep *discoveryv1.Endpoint) []byte {
	b = appendString(b, deref(ep.NodeName))
	b = appendString(b, deref(ep.Zone))
	if ep.Hints == nil {
		return b
	}
	b = binary.AppendUvarint(b, uint64(len(ep.Hints.ForZones)))
	for _, h := range ep.Hints.ForZones {
		b = appendString(b, h.Name)
	}
	for _, h := range ep.Hints.ForNodes {
		b = appendString(b, h.Name)
	}
	return b
}

func appendString(b []byte, s string) []byte {
	return append(binary.AppendUvarint(b, uint64(len(s))), s...)
}

func newWhere(ep *discoveryv1.Endpoint) *endpoints.Where {
	w := &endpoints.Where{Node: deref(ep.NodeName), Zone: deref(ep.Zone)}
	if ep.Hints == nil {
		return w
	}
	for _, h := range ep.Hints.ForZones {
		w.ZoneHints = append(w.ZoneHints, h.Name)
	}
	for _, h := range ep.Hints.ForNodes {
		w.NodeHints = append(w.NodeHints, h.Name)
	}
	return w
}

func deref(s *string) string {
	if s == nil {
		return ""
	}
	return *s
}
