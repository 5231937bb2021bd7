#!/bin/sh
# Makes the user of the service. Starts and restarts nothing: an agent needs its
# configuration first, and agents are updated one after the other (docs/upgrade.md).
# DPKG_ROOT is another system that dpkg installs into.
set -e
if command -v systemd-sysusers >/dev/null; then
	systemd-sysusers --root="${DPKG_ROOT:-/}" governor.conf
fi
if [ -z "$DPKG_ROOT" ] && [ -d /run/systemd/system ]; then
	systemctl daemon-reload
fi
