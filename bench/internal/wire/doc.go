// Package wire measures with packets: which endpoint answers a new connection and since when, how many
// connections a second can be made and how long each takes, and what an established one carries.
// Its loops are raw system calls on threads of their own inside a netlab host, so that the Go
// scheduler's share in what is measured is small.
package wire
