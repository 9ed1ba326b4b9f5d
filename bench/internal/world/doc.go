// Package world is what proxies are compared in: a lab of network namespaces, a real API server in the
// node, objects in it, pods that answer for every endpoint, and proxies that run one after the
// other on the same objects.
//
// # Every endpoint answers
//
// One pod holds the whole of 100.64.0.0/10, in which the endpoints' addresses lie, and tells a client
// which of them it has reached. So a quarter of a million endpoints are real to packets, whatever
// proxy chose among them.
package world
