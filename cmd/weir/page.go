package main

import (
	"net/http"

	"github.com/weir-project/weir/web"
)

// page returns what shows in a browser what we do.
func (d *daemon) page() http.Handler {
	return web.Handler(web.Config{Inspector: d.inspector, Services: d.engine.Services,
		Loopback: d.cfg.Load().WebAddress.Addr().IsLoopback()})
}
