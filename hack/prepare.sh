#!/bin/bash
# Installs what the tests need from Debian when it is missing and we may, and says what is missing
# otherwise: nft to hold our encoding against, conntrack to look at and flush flows, ip for
# namespaces, a C compiler for the race detector, iptables for kube-proxy and what it leaves, runc to run the
# image, curl for what the documents say, a browser for the page. Arguments are further commands, each called as
# its package is.
set -euo pipefail
declare -A package=([nft]=nftables [conntrack]=conntrack [ip]=iproute2 [gcc]=gcc [nsenter]=util-linux [iptables]=iptables [runc]=runc
  [curl]=curl [chromium]=chromium)
for command in "$@"; do package[$command]=$command; done
missing=()
for command in "${!package[@]}"; do
  command -v "$command" >/dev/null || missing+=("${package[$command]}")
done
[ ${#missing[@]} -eq 0 ] && exit 0
if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
  echo "installing: ${missing[*]}"
  apt-get update -qq
  DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "${missing[@]}" libc6-dev >/dev/null
  exit 0
fi
echo "The tests need these Debian packages: ${missing[*]}" >&2
echo "Install them, or run as root so that this script can." >&2
exit 1
