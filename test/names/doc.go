// Package names tests weir dns as a cluster has it: the binary, over UDP and TCP, IPv4 and IPv6, beside a
// real API server and beside a folder of manifests. It has no code, only tests; they need no root, but the
// API server's binaries and CoreDNS (package kubelab builds them once).
//
// The checklist is dns/testdata/answers.txt: queries and answers, for the objects beside it. Then
// objects come, change and go, and each time the names follow.
//
// CoreDNS is asked the same as weir, over the same API server: thousands of questions, drawn
// from the names that there are, those that are nearly there, and others. Answers are the same but for
// what differences_test.go lists, each with its reason. A difference that is not in the list
// fails, and so does one in the list that did not come up.
//
// weir runs as a ServiceAccount that may do what docs/dns.md says, and nothing more. WEIR_BINARY is
// tested in place of a new build; WEIR_KEEP=1 keeps the logs of the API server; WEIR_SEED repeats the
// questions of an earlier run.
package names
