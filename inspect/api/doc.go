// Package api is the JSON form of what Weir tells about itself, version weir.inspect/v1. The
// commands weir status, services, trace, verify, connections and events print these objects with -o
// json, and the control socket and the web page serve them.
//
// Every answer is one object with apiVersion and kind; events that are followed come as one object a
// line. Within a version fields are only added: who reads must ignore those that it does not know.
// Times are RFC 3339, durations are seconds as a number, addresses are text, and what is not there
// is left out.
package api
