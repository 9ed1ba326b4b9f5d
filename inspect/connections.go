package inspect

import (
	"cmp"
	"context"
	"net/netip"
	"slices"

	"github.com/weir-project/weir/dataplane"
	"github.com/weir-project/weir/endpoints"
	"github.com/weir-project/weir/inspect/api"
	"github.com/weir-project/weir/proxier/conntrack"
)

// Connections counts the connections that conntrack knows, by frontend and endpoint: of the Services
// that are named, nil is all.
func (i *Inspector) Connections(ctx context.Context, of []endpoints.Name) (api.ConnectionList, error) {
	conn, err := conntrack.Open(conntrack.Config{}) // a socket of its own: the cleaner's is busy at times
	if err != nil {
		return api.ConnectionList{}, err
	}
	defer conn.Close()
	c := counting{owner: i.cfg.Proxy.Owner, of: of, frontends: map[dataplane.Frontend]*counted{}}
	if err := conn.Flows(ctx, c.add); err != nil {
		return api.ConnectionList{}, err
	}
	return api.ConnectionList{Meta: meta("ConnectionList"), Items: c.list(i.leadsTo)}, nil
}

// counting counts flows.
type counting struct {
	owner     func(dataplane.Frontend) (endpoints.Name, bool)
	of        []endpoints.Name
	frontends map[dataplane.Frontend]*counted // nil: nothing to count there
}

type counted struct {
	service   endpoints.Name
	endpoints map[netip.AddrPort]*api.EndpointConnections
}

func (c *counting) add(f conntrack.Flow) {
	at, known := c.frontends[f.Frontend]
	if !known {
		if name, ok := c.owner(f.Frontend); ok && (c.of == nil || slices.Contains(c.of, name)) {
			at = &counted{name, map[netip.AddrPort]*api.EndpointConnections{}}
			c.frontends[f.Frontend] = at
		}
	}
	if at == nil || f.Endpoint == (netip.AddrPortFrom(f.Frontend.Addr, f.Frontend.Port)) {
		return // nobody translated it: refused, or older than the Service
	}
	e := at.endpoints[f.Endpoint]
	if e == nil {
		e = &api.EndpointConnections{Address: f.Endpoint.Addr(), Port: f.Endpoint.Port()}
		at.endpoints[f.Endpoint] = e
	}
	if f.Closing {
		e.Closing++
	} else {
		e.Live++
	}
}

// list puts the counts in order. leadsTo reports whether a frontend sends new connections to an endpoint.
func (c *counting) list(leadsTo func(endpoints.Name, dataplane.Frontend, netip.AddrPort) bool) []api.FrontendConnections {
	out := []api.FrontendConnections{}
	for key, at := range c.frontends {
		f := api.FrontendConnections{Service: at.service.String(), Frontend: frontendOf(key)}
		for ap, e := range at.endpoints {
			e.Gone = !leadsTo(at.service, key, ap)
			f.Live, f.Closing = f.Live+e.Live, f.Closing+e.Closing
			f.Endpoints = append(f.Endpoints, *e)
		}
		slices.SortFunc(f.Endpoints, func(a, b api.EndpointConnections) int {
			return cmp.Or(a.Address.Compare(b.Address), cmp.Compare(a.Port, b.Port))
		})
		if len(f.Endpoints) > 0 {
			out = append(out, f)
		}
	}
	slices.SortFunc(out, func(a, b api.FrontendConnections) int {
		return cmp.Or(cmp.Compare(a.Service, b.Service), a.Frontend.Address.Compare(b.Frontend.Address),
			cmp.Compare(a.Frontend.Port, b.Frontend.Port), cmp.Compare(a.Frontend.Protocol, b.Frontend.Protocol))
	})
	return out
}

func (i *Inspector) leadsTo(name endpoints.Name, key dataplane.Frontend, endpoint netip.AddrPort) bool {
	held, _ := i.cfg.Proxy.Held(name)
	port, _ := frontendIn(&held, key)
	return port != nil && (slices.Contains(port.Cluster, endpoint) || slices.Contains(port.Local, endpoint))
}
