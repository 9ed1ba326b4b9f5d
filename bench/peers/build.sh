#!/bin/bash
# Build the peers that tests and benchmarks run beside Weir, from their Go modules, into a cache:
#
#   bench/peers/build.sh [command ...]      all of them, or only the ones named
#
# The cache is ${WEIR_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/weir}/peers/<Kubernetes version>/. What
# is there already is left alone; a coredns of another version is built anew. Two runs at once wait
# for each other. The directory is printed last, alone on standard output; progress goes to standard
# error.
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
say() { printf 'peers: %s\n' "$*" >&2; }
die() { say "$*"; exit 1; }

command -v go >/dev/null || die "no go command in PATH"
required() { # DIRECTORY MODULE: the version that its go.mod requires
  local v
  v=$(sed -n "s,^require $2 ,,p" "$here/$1/go.mod")
  [ -n "$v" ] || die "$here/$1/go.mod does not require $2"
  echo "$v"
}
version=$(required kubernetes k8s.io/kubernetes)
coredns=$(required coredns github.com/coredns/coredns)
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
  coredns) echo . ;;
  *) die "unknown peer $1: want coredns, etcd, kube-apiserver, kube-controller-manager, kube-proxy or kubectl" ;;
  esac
}

module() { # COMMAND: the directory of the module that has it
  [ "$1" = coredns ] && echo "$here/coredns" || echo "$here/kubernetes"
}

build() { # COMMAND
  local pkg tmp log
  pkg=$(package "$1")
  tmp=$out/.$1.$$ log=$out/$1.build.log
  [ "$1" = coredns ] && say "build $1 $coredns (a minute or two)" || say "build $1 $version (minutes when the Go build cache is cold)"
  # A rename is atomic: nobody ever sees half a binary, even if this run is killed.
  if ! CGO_ENABLED=0 GOWORK=off GOFLAGS=-mod=readonly nice -n 10 \
    go build -C "$(module "$1")" -buildvcs=false -ldflags "-s -w $stamp" -o "$tmp" "$pkg" >"$log" 2>&1; then
    rm -f "$tmp"
    tail -n 40 "$log" >&2
    die "go build $pkg failed, the whole output is in $log"
  fi
  mv -f "$tmp" "$out/$1"
  rm -f "$log"
}

present() { # COMMAND: in the version wanted; that of the others is the directory's
  [ -x "$out/$1" ] || return 1
  [ "$1" != coredns ] || go version -m "$out/$1" | grep -F "github.com/coredns/coredns	$coredns" >/dev/null
}

[ $# -gt 0 ] || set -- etcd kube-apiserver kube-controller-manager kube-proxy kubectl coredns
missing=()
for c in "$@"; do
  package "$c" >/dev/null || exit 1
  present "$c" || missing+=("$c")
done
if [ ${#missing[@]} -gt 0 ]; then
  exec 9>"$out/.lock"
  flock -n 9 || { say "waiting for another build in $out"; flock 9; }
  for c in "${missing[@]}"; do
    present "$c" || build "$c"
  done
fi
echo "$out"
