#!/bin/sh
# Stops the service when the package goes, not when another version comes: rpm says
# 0 then, dpkg "remove". The history in /var/lib/governor stays.
set -e
case "$1" in
0 | remove)
	if [ -z "$DPKG_ROOT" ] && [ -d /run/systemd/system ]; then
		systemctl disable --now governor.service
	fi
	;;
esac
