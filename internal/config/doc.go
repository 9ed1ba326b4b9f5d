// Package config says what `weir run` is to do: from flags, or from a file written for kube-proxy.
//
// There is one road. Flags fill a KubeProxyConfiguration, or a file is one; defaults are put where
// it says nothing; and it becomes a [Config], in which every value is parsed and every choice made:
//
//	flags ─┐
//	       ├─> v1alpha1.KubeProxyConfiguration ─> defaults ─> resolve ─> Config
//	file ──┘
//
// Our own flags, which kube-proxy's format has no words for, are laid over it last. All faults are
// reported at once, each with the field or flag it was read from. What was asked for and has no
// meaning here is no fault, but a [Warning].
package config
