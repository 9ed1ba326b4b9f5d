// Package kernel holds the whole way from what Kubernetes says to what nftables holds against the
// real kernel. It has no code, only tests; they need network namespaces, and no other privilege.
//
// A history is told to an Engine, whose Proxier writes to a Conn in a network namespace. Some transactions
// are refused on the way, by the kernel itself or before it sees them; a stranger
// takes elements away; the process dies and another takes over, with the same rules or others. At
// the end the maps are read back. They must equal
//
//   - what was written, element by element: the model is a dataplanetest.Kernel that was told every
//     transaction that the kernel took;
//   - what a fresh start in another namespace makes of the last state. Which endpoint is in which slot
//     depends on history, so slots are compared without their numbers, and must be 0 to n-1.
//
// Settings, by environment: WEIR_KERNEL_SEED repeats one history, WEIR_KERNEL_HISTORIES says how many.
package kernel
