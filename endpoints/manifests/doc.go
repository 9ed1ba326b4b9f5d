// Package manifests feeds an engine with the Services, EndpointSlices, Node and ServiceCIDRs in a
// directory of YAML and JSON files, and with what is edited there, as [kube.Source] does from an
// API server.
//
// Files are taken in the order of their names; of an object that is in several the first counts. A
// file that cannot be read or parsed leaves what it said before in force, and so does a directory
// that is gone; a file that is gone takes its objects along. What has just been written is read
// when it has been quiet for a moment, because a program that writes in place first empties the
// file; what is renamed into place is read at once if it has been left alone for that long before.
package manifests
