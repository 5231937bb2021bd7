#!/bin/sh
# Installs what a release needs besides Go and gcc: the C compiler for the other
# processor, with which the device plugin is built. Does nothing that is done already,
# and nothing on a machine that is not Debian's: there the plugin is left out for a
# processor without a compiler, which the release says.
set -eu
case "$(uname -m)" in
x86_64) compiler=aarch64-linux-gnu-gcc packages="gcc-aarch64-linux-gnu libc6-dev-arm64-cross" ;;
aarch64) compiler=x86_64-linux-gnu-gcc packages="gcc-x86-64-linux-gnu libc6-dev-amd64-cross" ;;
*) exit 0 ;;
esac
if command -v "$compiler" >/dev/null || ! command -v apt-get >/dev/null || [ "$(id -u)" != 0 ]; then exit 0; fi
echo "==> Installing $compiler from Debian's packages"
apt-get update -qq
# shellcheck disable=SC2086 # a list of words
DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends $packages >/dev/null
