// Package inspect lets people and programs look inside a running Weir: over a socket of the
// machine, for root alone, without an API server.
//
//	weir status ──▶ /run/weir/weir.sock ──▶ Inspector ──▶ endpoints.Engine   what Kubernetes says
//	    Client          Server                       ├──▶ proxier.Proxier    what the kernel is believed to hold
//	                                                 ├──▶ dataplane.Reader   what it does hold
//	                                                 └──▶ conntrack          which connections there are
//
// The answers are the objects of package api. Looking must not slow syncs: everything is read from
// immutable values, or copied service by service under locks that are held for microseconds; the
// kernel is read over sockets of our own, one datagram at a time.
//
// The protocol is HTTP with JSON; the paths are those of Inspector.Handler. Another server mounts the
// part that changes nothing and costs little by itself:
//
//	mux.Handle("/v1/", inspector.ReadOnly())
package inspect
