// Package lookups tests weir dns as pods and a cluster have it: the binary, real resolvers in pods,
// a real API server, and upstreams that fail in every way. It has no code, only tests.
//
// What needs network namespaces needs root, nft and unshare; what needs an API server needs its binaries (package
// kubelab builds them once). WEIR_BINARY is tested in place of a new build.
package lookups
