// Package proxier turns service ports into frontends and slots, and those into transactions.
//
//	endpoints.Engine ──dirty names──▶ gather ──▶ plan ──ops──▶ kernel ──yes──▶ commit
//	                                    ▲          │              │
//	                                    │          └── pure       └──no──▶ set aside, or Replace
//	                                    └──────── while a transaction is under way
//
// A service port becomes one frontend for each address that leads to it: cluster IP, external IP,
// load-balancer IP, and each node address with the node port (frontend.go). All frontends of a
// service port and family share one assignment of endpoints to slots for each list of endpoints
// (slots.go). Two services may claim the same frontend: the older has it, and what is planned
// includes whoever gains or loses by a change (claims.go).
//
// The ruleset is what we believe the kernel holds (ruleset.go). A plan is computed from it and from
// the services that changed, and from nothing else, so its cost follows the change. The belief
// changes only by committing a plan that the kernel has accepted. After a foreign change, or when
// an outcome was never heard, there is no belief to protect: what is wanted is committed, and a
// Replace makes the kernel hold it.
//
// The loop (sync.go) writes nothing before the source has synced, and then at once when there is
// something to write. What the kernel refuses is traced to a service, which is set aside and
// taken out of the kernel, and tried again when it changes or after a while (aside.go). The
// others go on.
package proxier
