// Package dataplanetest is a kernel to test against: a [Kernel] takes what a dataplane.Conn
// takes, and is as strict as nftables. A [Dump] is what either of them holds, to be printed,
// compared and checked.
package dataplanetest
