// Package endpoints knows what Kubernetes says of services: their ports and addresses, the
// endpoints behind them, and which of those traffic may reach. It knows neither where this was read
// nor what becomes of it.
//
// A source (an API server by package kube, a directory by package manifests) delivers immutable
// values to a [Sink]: a [Service], a [Slice] for each EndpointSlice, this machine's [Node], and the
// ranges of cluster IPs. The [Engine] is that sink. It keeps the last value of each object,
// compares what comes with what it has, and so knows which services were touched by something that
// is really new:
//
//	<-engine.Wake()
//	changes := engine.Take()
//	for _, name := range changes.Services {
//		engine.Resolve(name, &resolved)
//		...
//	}
//
// DNS wants to know more than traffic does: of headless services, of those that another proxy
// serves, of ExternalName, of Namespaces. A source delivers those if it is told to, to the same
// Engine, and a [Subscription] hears of them. Take and Resolve do as if they were not there.
//
// Resolve merges the slices of a service and chooses, for each of its ports and families, the
// endpoints that traffic policy, readiness and topology hints leave. It is the only place where
// that is decided. Its cost is that of the one service, 20 ns for each endpoint, and it allocates
// nothing when it is given the same [Resolved] again.
//
// The choice is kube-proxy's, by the same inputs:
//
//   - An endpoint is known by address and port number. Of several slices that have it, the one in
//     which it does not terminate counts, then the one in which it is ready, then serving, then
//     the first by name.
//   - Under the policy Cluster, traffic may reach the ready endpoints. If all of them have hints
//     for nodes and some is for this node, only those that are; otherwise, if all have hints for
//     zones and some is for this node's zone, only those that are.
//   - Under the policy Local, the ready endpoints on this node.
//   - If a policy leaves no ready endpoint, those that still serve while they terminate.
package endpoints
