// Package dns answers the names of a cluster's services from the state that the ruleset is made
// of, and hands every other question to a Forwarder.
package dns
