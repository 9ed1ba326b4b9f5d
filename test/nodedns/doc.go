// Package nodedns tries the cluster DNS address on a node with real packets: who is answered by Weir
// itself, and who answers in its stead when it is killed, hung, not ready, or restarted. It has no code,
// only tests; they need root.
//
// The lab is that of package netlab. Two pods of another node stand for the cluster's other DNS
// endpoints: they answer every name with an address by which they can be told from Weir.
//
// Settings, by environment: WEIR_BINARY is tested in place of a new build.
package nodedns
