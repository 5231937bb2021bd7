#!/bin/sh
# Puts Prometheus' promtool into the tools cache, unless there is one: it is taken out
# of Debian's package, of which nothing is installed. PROMTOOL_BIN, or a promtool in
# PATH, is used instead.
set -eu

cache=${GOVERNOR_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/governor-tools}
[ -n "${PROMTOOL_BIN:-}" ] && exit 0
command -v promtool >/dev/null && exit 0
[ -x "$cache/promtool" ] && exit 0
if ! command -v apt-get >/dev/null || ! command -v dpkg-deb >/dev/null; then
	echo "The tests of the metrics need promtool of Prometheus 2.42 or newer; install it, or set PROMTOOL_BIN." >&2
	exit 1
fi
echo "==> Taking promtool out of Debian's package of Prometheus"
mkdir -p "$cache"
work=$(mktemp -d "$cache/promtool.XXXXXX")
trap 'rm -rf "$work"' EXIT
chmod 0755 "$work" # apt's own user writes the package
cd "$work"
apt-get download -qq prometheus >/dev/null 2>&1 || {
	apt-get update -qq
	apt-get download -qq prometheus >/dev/null
}
dpkg-deb -x prometheus_*.deb unpacked
mv unpacked/usr/bin/promtool "$cache/promtool"
