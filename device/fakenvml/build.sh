#!/bin/sh
# Builds the fake NVML libraries and compiles the fixtures into <outdir>:
#   <outdir>/libnvidia-ml.so.1           of the newest driver
#   <outdir>/r535/libnvidia-ml.so.1      as of driver R535: without what came later
#   <outdir>/r470/libnvidia-ml.so.1      as of driver R470
#   <outdir>/fakenvml-compile            the fixture compiler
#   <outdir>/fixtures/<name>.flat        each fixture, for the node name ""
#   <outdir>/fixtures/<name>.sys         what its sysfs says of GPUs and NICs
# With --library only the newest library, with --libraries all three. CC may name
# another C compiler, CFLAGS more of its flags.
set -eu
only=
case "${1:-}" in --library | --libraries) only=$1; shift ;; esac
if [ $# -ne 1 ]; then echo "usage: $0 [--library | --libraries] <outdir>" >&2; exit 2; fi
here=$(CDPATH='' cd -- "$(dirname -- "$0")" && pwd)
mkdir -p "$1"
out=$(CDPATH='' cd -- "$1" && pwd)

# library <directory> <flag>...
library() {
  mkdir -p "$1"
  target=$1/libnvidia-ml.so.1
  shift
  # shellcheck disable=SC2086 # CFLAGS is a list
  ${CC:-gcc} -std=gnu11 -shared -fPIC -O2 -Wall -Wextra -Werror -fvisibility=hidden -pthread \
    -Wl,-soname,libnvidia-ml.so.1 -Wl,-z,defs ${CFLAGS:-} "$@" \
    -o "$target.new" "$here"/src/*.c
  mv "$target.new" "$target"
}

library "$out"
if [ "$only" = --library ]; then exit 0; fi
library "$out/r535" -DFAKENVML_DRIVER=535
library "$out/r470" -DFAKENVML_DRIVER=470
if [ "$only" = --libraries ]; then exit 0; fi
mkdir -p "$out/fixtures"
(cd "$here" && CGO_ENABLED=0 go build -o "$out/fakenvml-compile" ./cmd/fakenvml-compile)
for f in "$here"/fixtures/*.hcl; do
  target=$out/fixtures/$(basename "$f" .hcl)
  rm -rf "$target.sys"
  "$out/fakenvml-compile" -fixture "$f" -o "$target.flat" -sysfs "$target.sys"
done
