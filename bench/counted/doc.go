// Package counted holds what one change costs in things that can be counted: transactions, elements and
// bytes sent to the kernel, and allocations on the way there. Its test compares them with
// counted.json, exactly: they are the same on every machine, where times are not. Allocations are
// those of this Go version without the race detector.
package counted
