// Package health answers whether this node's proxy works, to those who ask over HTTP: load
// balancers (the health checks of single Services, and /healthz of the whole), the kubelet
// (/livez), and people.
//
// What is asked and answered is as kube-proxy does it, so that load balancers and probes need not
// be told of a change: paths, status codes, headers and JSON. It differs where kube-proxy is wrong:
//
//   - Before everything has been written once, /healthz says 503: traffic that comes is not served.
//   - /livez says 200 for as long as a sync gets on, however long it takes, and also while the
//     first one has not begun. It says 503 only when the loop is stuck (see Proxy), because a
//     restart is the answer to that alone.
//   - A change that comes while a sync runs still counts as waiting when that sync ends.
//   - The health checks of Services are answered on every address of the node, of both families,
//     unless configured otherwise, and the addresses follow the node's while we run.
//   - A port that is taken is tried again until it is free.
package health
