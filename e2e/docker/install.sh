#!/bin/sh
# Installs Docker from Debian's packages, unless it is there. The tests run a
# daemon of their own (see doc.go). Where packages may start services, Debian
# starts the system's too, which nothing here needs.
set -eu

# there NAME... is true when each program is in a usual place; PATH may have
# others under these names.
there() {
	for name in "$@"; do
		found=
		for dir in /usr/bin /usr/sbin /usr/local/bin /usr/local/sbin /bin /sbin; do
			[ -x "$dir/$name" ] && found=yes
		done
		[ -n "$found" ] || return 1
	done
}

there dockerd containerd runc && exit 0
if ! command -v apt-get >/dev/null || [ "$(id -u)" != 0 ]; then
	echo "The tests of the Docker driver need dockerd, containerd and runc; install them, or run this as root on Debian." >&2
	exit 1
fi
echo "==> Installing Docker from Debian's packages"
apt-get update -qq
DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends docker.io >/dev/null
