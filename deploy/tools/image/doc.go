// Package image builds Weir's image: from scratch, with one static binary, the licence and a bill of
// materials, for several platforms. It takes the go command and no container daemon. The same
// source, version and Go release give the same image, byte for byte, wherever it is built.
package image
