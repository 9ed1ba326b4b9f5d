// Command bench measures Weir beside other proxies: on the same machine, in the same cluster, one after the
// other and in turn. It runs on Linux as root, in network namespaces of its own.
//
//	go run . --quick                        everything, small, in under three minutes
//	go run . --section control,packets      parts of it, at full size
//	go run . --proxy mine='my-proxy --kubeconfig $KUBECONFIG'
//	go run . --report                       tables and pictures from what earlier runs found
//
// Every section writes a file of its own, results/<section>.json, so that each can be run by itself. Tables in
// results/README.md and the pictures beside it are made from all that are there. Runs that leave
// proxies or parts out are in files of their own, and in no table.
//
// # What is measured, and how
//
// Whether something is programmed is told by packets: a client pod begins a connection every half
// millisecond, and what counts is when the first was begun that the right endpoint answered. An
// endpoint says which address it was reached at. Times begin when the request to the API server is sent.
// The proxies share the machine with the API server, etcd and these connections; a proxy's own
// processor time and memory are told apart.
//
// A section that compares proxies runs them in turn, A B A B, each on a clean kernel, and each as its
// users start it: kube-proxy with its defaults, of which a second between two syncs is one; it is
// left alone for that second between changes, so that no wait for it is counted.
package main
