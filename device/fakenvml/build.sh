#!/bin/sh
# Builds the fake NVML library and compiles the fixtures into <outdir>:
#   <outdir>/libnvidia-ml.so.1
#   <outdir>/fakenvml-compile            the fixture compiler
#   <outdir>/fixtures/<name>.flat        each fixture, for the node name ""
# With --library only the library. CC may name another C compiler.
set -eu
library_only=no
if [ "${1:-}" = "--library" ]; then library_only=yes; shift; fi
if [ $# -ne 1 ]; then echo "usage: $0 [--library] <outdir>" >&2; exit 2; fi
here=$(CDPATH='' cd -- "$(dirname -- "$0")" && pwd)
mkdir -p "$1"
out=$(CDPATH='' cd -- "$1" && pwd)
${CC:-gcc} -std=gnu11 -shared -fPIC -O2 -Wall -Wextra -Werror -fvisibility=hidden -pthread \
  -Wl,-soname,libnvidia-ml.so.1 -Wl,-z,defs \
  -o "$out/libnvidia-ml.so.1.new" "$here"/src/*.c
mv "$out/libnvidia-ml.so.1.new" "$out/libnvidia-ml.so.1"
if [ "$library_only" = yes ]; then exit 0; fi
mkdir -p "$out/fixtures"
(cd "$here" && CGO_ENABLED=0 go build -o "$out/fakenvml-compile" ./cmd/fakenvml-compile)
for f in "$here"/fixtures/*.hcl; do
  "$out/fakenvml-compile" -fixture "$f" -o "$out/fixtures/$(basename "$f" .hcl).flat"
done
