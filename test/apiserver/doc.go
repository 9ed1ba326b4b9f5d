// Package apiserver tests weir as a cluster has it: the binary, a real API server with its etcd, real
// packets. It has no code, only tests; they need root, nft, and the API server's binaries (package
// kubelab builds them once).
//
// weir runs in the node of a lab as the user system:kube-proxy, with the role that every cluster binds to
// it and nothing more. The tests write Services and EndpointSlices and look at what becomes of
// packets; they stop, kill and start weir and the API server under a load of new connections, of which
// none may fail, reach an endpoint that it should not, or show it a wrong source.
//
// A table of the tests' own stands behind the nat chains and counts the new packets to service
// addresses that pass untranslated. There may be none.
//
// The tests share one lab and one API server, and leave nothing in them. WEIR_BINARY is tested in place of a
// new build; WEIR_KEEP=1 keeps the logs of the API server.
package apiserver
