// Package kube turns Kubernetes API objects into the values of package endpoints, and feeds an
// engine with what an API server says.
//
// [ServiceFrom], [SliceFrom], [NodeFrom] and [ServiceCIDRsFrom] convert one object each. They keep
// the fields in use and drop the rest, and they do not trust an object: validation has become
// stricter over the years, and what was stored before stays. A field that makes no sense is set
// aside with an [endpoints.Problem], the others are served. Of several alike fields of an object
// the first is named and the others are counted.
//
// [Source] lists and watches with client-go's reflectors, but keeps no copy of what they bring:
// every object is converted as it is received, and the sink has the only one. An object that cannot
// be served at all is absent for the sink, also if an earlier version could be: what it says now is
// what its owner wants, and to go on with what it said before would hide that from them.
package kube
