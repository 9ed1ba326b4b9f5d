// Package kubelab runs a real Kubernetes API server with its etcd, for tests and benchmarks: on the loopback
// address of a netlab host, or of this machine. Nothing else of Kubernetes runs, so what a
// test does not write does not change; there are no nodes, no controllers, and EndpointSlices are what the test says.
//
// The binaries are built from their Go modules by bench/peers/build.sh, into a cache; the first
// time this takes minutes. WEIR_PEERS names a directory that has them already.
//
// Authorization is RBAC with the roles that every cluster has. The admin is in system:masters; the
// proxy is system:kube-proxy, which the API server itself binds to system:node-proxier.
package kubelab
