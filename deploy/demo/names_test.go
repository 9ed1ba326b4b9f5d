package main

import (
	"errors"
	"net/netip"
	"testing"
)

// TestCheckNames tells answers that are claimed from others.
func TestCheckNames(t *testing.T) {
	web, other := netip.MustParseAddr("10.96.0.10"), netip.MustParseAddr("10.96.0.11")
	good := lookup{rcode: "NOERROR", addrs: []netip.Addr{web}}
	for _, test := range []struct {
		name           string
		found          []lookup
		known, unknown bool // what holds
	}{
		{"the address", []lookup{good, good}, true, false},
		{"none", nil, false, false},
		{"one fails", []lookup{good, {err: errors.New("timeout")}}, false, false},
		{"another address", []lookup{good, {rcode: "NOERROR", addrs: []netip.Addr{other}}}, false, false},
		{"two addresses", []lookup{{rcode: "NOERROR", addrs: []netip.Addr{web, other}}}, false, false},
		{"no address", []lookup{{rcode: "NOERROR"}}, false, false},
		{"no such name", []lookup{{rcode: "NXDOMAIN"}, {rcode: "NXDOMAIN"}}, false, true},
		{"refused", []lookup{{rcode: "REFUSED"}}, false, false},
	} {
		t.Run(test.name, func(t *testing.T) {
			if err := checkAnswers(test.found, web); (err == nil) != test.known {
				t.Errorf("checkAnswers: %v", err)
			}
			if err := checkUnknown(test.found); len(test.found) > 0 && (err == nil) != test.unknown {
				t.Errorf("checkUnknown: %v", err)
			}
		})
	}
}
