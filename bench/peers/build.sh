#!/bin/bash
# Build the peers that tests and benchmarks run beside Weir, from their Go modules, into a cache:
#
#   bench/peers/build.sh [command ...]      all of them, or only the ones named
#
# The cache is ${WEIR_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/weir}/peers/<Kubernetes version>/. What
# is there already is left alone. Two runs at once wait for each other. The directory is printed
# last, alone on standard output; progress goes to standard error.
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
say() { printf 'peers: %s\n' "$*" >&2; }
die() { say "$*"; exit 1; }

command -v go >/dev/null || die "no go command in PATH"
cd "$here/kubernetes"
version=$(sed -n 's/^require k8s.io\/kubernetes //p' go.mod)
[ -n "$version" ] || die "$here/kubernetes/go.mod does not require k8s.io/kubernetes"
cache=${WEIR_CACHE:-${XDG_CACHE_HOME:-${HOME:?neither WEIR_CACHE, XDG_CACHE_HOME nor HOME is set}/.cache}/weir}
out=$cache/peers/$version
mkdir -p "$out" || die "cannot make $out"

minor=${version#v1.} minor=${minor%%.*}
stamp="-X k8s.io/component-base/version.gitVersion=$version"
stamp+=" -X k8s.io/component-base/version.gitMajor=1 -X k8s.io/component-base/version.gitMinor=$minor"

package() { # COMMAND: its import path
  case $1 in
  etcd) echo go.etcd.io/etcd/server/v3 ;;
  kube-apiserver | kube-controller-manager | kube-proxy | kubectl) echo "k8s.io/kubernetes/cmd/$1" ;;
  *) die "unknown peer $1: want etcd, kube-apiserver, kube-controller-manager, kube-proxy or kubectl" ;;
  esac
}

build() { # COMMAND
  local pkg tmp log
  pkg=$(package "$1")
  tmp=$out/.$1.$$ log=$out/$1.build.log
  say "build $1 $version (minutes when the Go build cache is cold)"
  # A rename is atomic: nobody ever sees half a binary, even if this run is killed.
  if ! CGO_ENABLED=0 GOWORK=off GOFLAGS=-mod=readonly nice -n 10 \
    go build -buildvcs=false -ldflags "-s -w $stamp" -o "$tmp" "$pkg" >"$log" 2>&1; then
    rm -f "$tmp"
    tail -n 40 "$log" >&2
    die "go build $pkg failed, the whole output is in $log"
  fi
  mv -f "$tmp" "$out/$1"
  rm -f "$log"
}

[ $# -gt 0 ] || set -- etcd kube-apiserver kube-controller-manager kube-proxy kubectl
missing=()
for c in "$@"; do
  package "$c" >/dev/null || exit 1
  [ -x "$out/$c" ] || missing+=("$c")
done
if [ ${#missing[@]} -gt 0 ]; then
  exec 9>"$out/.lock"
  flock -n 9 || { say "waiting for another build in $out"; flock 9; }
  for c in "${missing[@]}"; do
    [ -x "$out/$c" ] || build "$c"
  done
fi
echo "$out"
