package web

import (
	"net"
	"net/http"
	"net/netip"
	"strings"
)

// policy lets the page load its own files and ask its own server, and nothing more.
const policy = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; " +
	"base-uri 'none'; form-action 'none'; frame-ancestors 'none'"

// guard lets requests through that only read and that the page itself can have made.
type guard struct {
	next http.Handler
	// loopback says that we listen for this machine alone. Then the name that a request is for must be
	// one of this machine's: another one is somebody's whose DNS leads browsers here.
	loopback bool
}

// ServeHTTP implements http.Handler.
func (g guard) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	h := w.Header()
	h.Set("Content-Security-Policy", policy)
	h.Set("X-Content-Type-Options", "nosniff")
	h.Set("Referrer-Policy", "no-referrer")
	h.Set("Cross-Origin-Opener-Policy", "same-origin")
	h.Set("Cross-Origin-Resource-Policy", "same-origin")
	h.Set("Cache-Control", "no-store")
	switch site := r.Header.Get("Sec-Fetch-Site"); {
	case r.Method != http.MethodGet && r.Method != http.MethodHead:
		h.Set("Allow", "GET, HEAD")
		http.Error(w, "this page only reads", http.StatusMethodNotAllowed)
	case g.loopback && !ofThisMachine(r.Host):
		http.Error(w, "asked for under a name that is not this machine's: use localhost or 127.0.0.1", http.StatusMisdirectedRequest)
	case strings.HasPrefix(r.URL.Path, "/data/") && site != "" && site != "same-origin" && site != "none":
		http.Error(w, "asked for by another site", http.StatusForbidden)
	default:
		g.next.ServeHTTP(w, r)
	}
}

// ofThisMachine reports whether a Host header names loopback, at any port: it may have been forwarded.
func ofThisMachine(host string) bool {
	if name, _, err := net.SplitHostPort(host); err == nil {
		host = name
	}
	host = strings.TrimSuffix(strings.TrimPrefix(host, "["), "]")
	if strings.EqualFold(host, "localhost") {
		return true
	}
	a, err := netip.ParseAddr(host)
	return err == nil && a.IsLoopback()
}
