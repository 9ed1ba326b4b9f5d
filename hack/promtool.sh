#!/bin/bash
# Prints the path of promtool: the one in PATH, or Debian's, which is taken out of its package into the cache
# (${WEIR_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/weir}), so that no Prometheus is installed or started.
set -euo pipefail
command -v promtool && exit
cache=${WEIR_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/weir}
if [ ! -x "$cache/promtool" ]; then
  mkdir -p "$cache"
  tmp=$(mktemp -d "$cache/promtool.XXXXXX")
  trap 'rm -rf "$tmp"' EXIT
  cd "$tmp"
  { apt-get download -qq prometheus || { apt-get update -qq && apt-get download -qq prometheus; }; } >log 2>&1 || { cat log >&2; exit 1; }
  dpkg-deb --fsys-tarfile prometheus_*.deb | tar x ./usr/bin/promtool
  mv usr/bin/promtool "$cache/promtool" # at once, whoever else does the same
fi
echo "$cache/promtool"
