#!/bin/sh
# Installs what shot.mjs needs: Chromium from Debian's packages, and the pinned
# playwright-core and axe-core from the npm registry. Does nothing that is done already.
set -eu
cd "$(dirname "$0")"

chromium=${CHROMIUM_BIN:-/usr/bin/chromium}
if [ ! -x "$chromium" ] || ! command -v node >/dev/null || ! command -v npm >/dev/null; then
	if ! command -v apt-get >/dev/null || [ "$(id -u)" != 0 ]; then
		echo "The browser test needs chromium, node (20 or later) and npm; install them, or run this as root on Debian." >&2
		exit 1
	fi
	echo "==> Installing Chromium from Debian's packages"
	missing=
	[ -x "$chromium" ] || missing="chromium fonts-dejavu-core"
	command -v node >/dev/null || missing="$missing nodejs"
	command -v npm >/dev/null || missing="$missing npm"
	apt-get update -qq
	# shellcheck disable=SC2086 # a list of words
	DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends $missing >/dev/null
fi

# node_modules/.package-lock.json is what npm last installed.
if [ ! -e node_modules/.package-lock.json ] || [ package-lock.json -nt node_modules/.package-lock.json ]; then
	echo "==> Installing playwright-core and axe-core"
	npm ci --no-audit --no-fund --loglevel=error
	touch node_modules/.package-lock.json
fi
