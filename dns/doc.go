// Package dns answers the names of a cluster's services from the state that the ruleset is made
// of, and hands every other question to a Forwarder.
//
//	endpoints.Subscription ──what changed──▶ Zone.Update ──immutable values──▶ tables
//	                                                                             │ no lock
//	UDP: recvmmsg ──▶ query.parse ──▶ Zone.find ──▶ reply ──▶ sendmmsg ◀─────────┘
//	                                      └─ not in the zone ─▶ Forwarder ─▶ whenever it comes
//
// A [Zone] has a value for each service with all that its own name says, and one for each endpoint
// that has a name. An update replaces a value; whoever reads has the one before or the one after.
// Lists of endpoints share their chunks of 64 with their successors, so that one endpoint more or
// less in a service of thousands costs little.
//
// A [Server] has a socket for each core, and on each a loop that reads a batch of packets, answers
// each into memory of its own, and sends the batch. Nothing is allocated and nobody is waited for;
// what has to wait is copied and leaves the loop, of which there may only be so many.
//
// Names are compared in lower case and answered as they were asked. testdata/answers.txt has what is
// answered to what, and docs/dns.md the reasons.
package dns
