#!/bin/sh
# Installs systemd-analyze, which checks the unit, from Debian's packages, unless it is
# there. Nothing of systemd is started.
set -eu

command -v systemd-analyze >/dev/null && exit 0
if ! command -v apt-get >/dev/null || [ "$(id -u)" != 0 ]; then
	echo "The test of the systemd unit needs systemd-analyze; install it, or run this as root on Debian." >&2
	exit 1
fi
echo "==> Installing systemd from Debian's packages"
apt-get update -qq
DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends systemd >/dev/null
