// Package cluster tries what is in deploy against a real API server: its strict validation takes the
// manifests, RBAC gives Weir what it asks for and nothing else, and the image runs as a kubelet would
// run it, in a network namespace with packets.
package cluster
