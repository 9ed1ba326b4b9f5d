// Package docs holds the documents to their word. It has no code, only tests: blocks that are marked as
// runnable (```sh run) are run, in a network namespace of their own and in the order in which they stand; all others
// are parsed; links lead somewhere. Command lines of weir are checked beside the commands (cmd/weir), and
// tables that are made from the program by package internal/docs.
//
// A runnable block finds weir in its PATH and a directory of its own in DIR. What it leaves running ends
// with it.
package docs
