#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# Run setup.py with a compiler for arm64: zig, and what tools/arm/root.sh has unpacked.
#
# usage: tools/arm/setup.sh FOLDER PYTHON ARGUMENT...
#
#   FOLDER    what tools/arm/root.sh has made; the build goes there, too
#   PYTHON    an interpreter of this machine, with ziglang and what setup.py needs
set -eu
cd "$(dirname "$0")/../.."

folder=$(cd "$1" && pwd)
python=$2
shift 2
root=$folder/root
include=$root/usr/include

export CC="$python -m ziglang cc -target aarch64-linux-gnu.$(cat "$root/glibc")"
# The root's Python.h before this machine's; the C library's headers are zig's.
export CFLAGS="-isystem $(echo "$include"/python3.*) -idirafter $include"
export BLIS_INCLUDEDIR="$include/aarch64-linux-gnu/blis-serial"
export BLIS_LIBDIR="$root/usr/lib/aarch64-linux-gnu/blis-serial"
export VITPOOL_BUILD="${folder#"$PWD"/}"
exec "$python" setup.py -q "$@"
