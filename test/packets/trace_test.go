//go:build linux

package packets

import (
	"context"
	"fmt"
	"net/netip"
	"net/url"

	"github.com/weir-project/weir/inspect"
	"github.com/weir-project/weir/inspect/api"
	"github.com/weir-project/weir/internal/netlab"
)

// What weir trace says is held against every real packet.

// from is the sender of a check as weir trace wants it.
func (c check) from() string {
	switch {
	case c.source.IsValid():
		return c.source.String()
	case c.host.Name == "node":
		return "node"
	}
	return c.own.String()
}

// traced asks weir what would become of a check's connection, and returns how that differs from what
// has become of real ones, and from what is specified.
func (d *daemon) traced(c check, got *seen) (fault string) {
	client := inspect.NewClient(d.socket)
	defer client.Close()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	var t api.Trace
	query := url.Values{"from": {c.from()}, "protocol": {c.proto.String()}, "to": {c.dst.String()}}
	if err := client.Get(ctx, "/v1/trace", query, &t); err != nil {
		return fmt.Sprintf("%s: weir trace: %v", c, err)
	}
	if why := c.compare(&t, got); why != "" {
		return fmt.Sprintf("%s: weir trace says %s, %s: %s", c, t.Outcome, sightings(&t), why)
	}
	return ""
}

// sightings are the endpoints of a trace, as addr:port, and whom each sees.
func sightings(t *api.Trace) map[string]netip.Addr {
	m := map[string]netip.Addr{}
	for _, e := range t.Endpoints {
		m[netip.AddrPortFrom(e.Address, e.Port).String()] = e.Source
	}
	return m
}

// compare says how a trace differs from real packets; "": it does not.
func (c check) compare(t *api.Trace, got *seen) string {
	if _, direct := c.want.sources[c.dst.String()]; direct {
		return differ("an endpoint dialled itself", t.Outcome, "unserved")
	}
	switch c.want.verdict {
	case refused:
		return differ(fmt.Sprintf("%d of %d packets were refused", got.results[netlab.Refused], got.probes), t.Outcome, "refused")
	case dropped:
		return differ(fmt.Sprintf("%d of %d packets were dropped", got.results[netlab.Dropped], got.probes), t.Outcome, "dropped")
	case unserved:
		return differ("nobody translates", t.Outcome, "unserved")
	}
	if why := differ(got.String(), t.Outcome, "translated"); why != "" {
		return why
	}
	may := sightings(t)
	for by, sources := range got.sources {
		for source := range sources {
			if may[by] != source {
				return fmt.Sprintf("but %s answered and saw %s", by, source)
			}
		}
	}
	if t.Affinity != (c.want.verdict == sticky && got.results[netlab.Answered] > 0) {
		return fmt.Sprintf("affinity %t", t.Affinity)
	}
	if !t.Affinity && len(may) != len(c.want.sources) {
		return fmt.Sprintf("want all of %s", c.want)
	}
	return ""
}

func differ(real, outcome, want string) string {
	if outcome == want {
		return ""
	}
	return real
}
