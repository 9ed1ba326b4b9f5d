package main

import (
	"net/http"

	"github.com/weir-project/weir/dns"
	"github.com/weir-project/weir/web"
)

// page returns what shows in a browser what we do.
func (d *daemon) page() http.Handler {
	c := web.Config{Inspector: d.inspector, Services: d.engine.Services, Loopback: d.cfg.Load().WebAddress.Addr().IsLoopback()}
	if d.dns != nil {
		server := d.dns.names.server
		c.DNS = func() *dns.Stats { s := server.Stats(); return &s }
	}
	return web.Handler(c)
}
