// Package pod runs the containers of a pod with runc, as a kubelet with containerd would: environment,
// volumes, capabilities, no_new_privs, read-only root file system, masked paths and the default
// seccomp profile are those that the pod asks for. What a pod asks for and is not known here is an
// error, not ignored. Left out is the OOM score, which takes a right that not every root has. Tests use it to try manifests where there is no cluster.
package pod
