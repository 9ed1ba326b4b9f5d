package dataplane

import (
	"errors"
	"fmt"
)

// ErrStale says that the kernel does not hold what we wrote: someone else changed the table, or
// the outcome of a transaction was never heard. Only a Replace puts that right.
var ErrStale = errors.New("the ruleset is not what was written")

// RefusedError says that the kernel refused a transaction whole and what it blamed. Nothing has
// changed in the kernel.
type RefusedError struct {
	// Refusals holds one entry for each blamed owner, in the order of the batch. Empty: the kernel
	// refused the transaction as such.
	Refusals []Refusal
	// Err is the first reason that the kernel gave.
	Err error

	expired bool // nothing was refused but the deletion of affinity entries that are gone
}

// Refusal is one owner's part of a refused transaction.
type Refusal struct {
	Owner uint32
	Op    string // the first operation of the refused message, in nft's words
	Err   error
}

// Error gives the first refusal and the number of the others.
func (e *RefusedError) Error() string {
	if len(e.Refusals) == 0 {
		return fmt.Sprintf("kernel refused the transaction: %v", e.Err)
	}
	first := e.Refusals[0]
	more := ""
	if n := len(e.Refusals) - 1; n > 0 {
		more = fmt.Sprintf(" (and %d more)", n)
	}
	return fmt.Sprintf("%s: %v%s", first.Op, first.Err, more)
}

// Unwrap returns the kernel's first reason, an errno.
func (e *RefusedError) Unwrap() error { return e.Err }
