// Package forward answers the names that are not the cluster's: from a cache, or by asking
// upstreams.
//
//	f := forward.New(forward.Options{ResolvConf: "/etc/resolv.conf", Listen: ours}, config)
//	go f.Run(ctx)
//	if answer, ok := f.AppendCached(buf[:0], query); ok { ... }   // no allocation, no waiting
//	f.Forward(ctx, query, client, tcp, reply)                     // always, and never waits
//	f.Set(config.Override(fromConfigMap))
//
// # Who is asked
//
// The upstreams of the longest stub domain that holds the name, or else Config.Upstreams, or else
// those of resolv.conf, begun at random. An upstream that does not answer within TryTimeout is not
// given up while the next is asked too: the first good answer counts. One that says SERVFAIL,
// REFUSED or another failure, or truncates and cannot be asked over TCP, is passed over for the next. Two failures in a row make an upstream
// down: it is asked last, and probed until it answers. If all are down they are asked nevertheless.
//
// An upstream at an address of ours is left out. So is one that asks us in its turn, which shows
// when a name that only we know, asked of every upstream now and then, comes back. Both are told in
// the log; nothing exits. A loop that goes unnoticed costs one question at a time, because the
// question that returns waits for itself.
//
// # What is believed
//
// Every question goes out from a socket of its own, connected, its port drawn by the kernel, with a
// random ID and with the letters of the name in random case. An answer must repeat all of it. If
// only the case differs, TCP is asked, which settles whether the upstream does not keep it (then it
// is asked in lower case for an hour) or somebody was guessing. After eight foreign packets TCP is
// asked, too. A message is taken only if its records can be walked to the end and names in the
// common types are sound; nothing but the answer to the very question is kept.
//
// # What is kept
//
// An answer is kept by name, type, class, DO and CD, for the least TTL in it within MinTTL and
// MaxTTL; a negative one as RFC 2308 says, for at most MaxDenialTTL, and not without an SOA; a
// failure for FailureTTL. A zero TTL is not kept. TTLs count down. The addresses of a name are
// given in random order, aliases first. The cache holds CacheBytes, and gives up what is least
// asked for. Popular answers are fetched anew in the last tenth of their time. If no upstream helps,
// an answer serves for MaxStale longer (RFC 8767), with StaleTTL. A failure never replaces it.
//
// The same question of any number of clients is asked once. At most MaxOutstanding questions are
// under way, and MaxWaiting clients wait for them: beyond that, the answer is what is stale, or
// SERVFAIL, which every resolver library takes for a reason to try elsewhere at once. (After
// REFUSED, musl waits for its timeout.)
//
// RD is always set upstream. EDNS is always spoken there, with 1232 bytes; options of the client,
// such as cookies and client subnets, are not passed on, nor are those of the upstream. AD is
// given to clients that show, by AD or DO, that they want it. Zone transfers are refused.
package forward
