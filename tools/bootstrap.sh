#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# Make a virtual environment with vitpool built into it, and get what the system lacks.
#
# usage: tools/bootstrap.sh VENV EXTRAS [PIP ARGUMENT...]
#
#   VENV     folder of the environment, made where it is missing or unusable
#   EXTRAS   vitpool's extras, with commas ("test,lint"); may be empty
#   the rest goes to pip as it is ("-r tests/timm/requirements.txt")
#
# PYTHON names the interpreter (python3). Missing system packages come through apt when
# we are root or have sudo; elsewhere one line says what to install. The output of apt
# and pip goes to build/bootstrap.log, and is shown when a step fails.
set -eu
cd "$(dirname "$0")/.."

venv=$1
extras=$2
shift 2
log=build/bootstrap.log
mkdir -p build

. tools/packages.sh

usable() { "$1" -c 'import sys; sys.exit(sys.version_info < (3, 10))' 2>/dev/null; }

find_python() {
    for name in ${PYTHON:-python3 python3.13 python3.12 python3.11 python3.10}; do
        if usable "$name"; then
            "$name" -c 'import sys; print(sys.executable)'
            return
        fi
    done
    die "${PYTHON:-python3} is not Python 3.10 or later; install one, or set PYTHON"
}

# missing_packages PYTHON: Debian's names of what is not there.
missing_packages() {
    # Only Debian's own Python leaves out venv and the headers.
    case $1 in
    /usr/bin/*) debian=$("$1" -c 'import sys; print("python%d.%d" % sys.version_info[:2])') ;;
    *) debian= ;;
    esac
    if ! "$1" -c 'import ensurepip, venv' 2>/dev/null; then
        test -n "$debian" || die "$1 has no venv and ensurepip: use a complete Python"
        echo "$debian-venv"
    fi
    if ! "$1" -c 'import os, sysconfig as s
open(os.path.join(s.get_path("include"), "Python.h"))' 2>/dev/null; then
        test -n "$debian" || die "$1 has no Python.h: use a Python with its headers"
        echo "$debian-dev"
    fi
    if ! echo '#include <stdio.h>' | ${CC:-cc} -E - >/dev/null 2>&1; then
        echo gcc libc6-dev
    fi
    "$1" tools/find_blis.py >/dev/null 2>&1 || echo libblis-serial-dev
}

python=$(find_python)
packages=$(missing_packages "$python")
# shellcheck disable=SC2086  # a list of words
test -z "$packages" || install_packages $packages

if ! usable "$venv/bin/python" || ! "$venv/bin/python" -m pip --version >/dev/null 2>&1; then
    step "make $venv with $("$python" --version)" "$python" -m venv --clear "$venv"
fi
pip="$venv/bin/python -m pip install -q --disable-pip-version-check"
# shellcheck disable=SC2086
step "$venv: what the build needs" $pip 'setuptools>=77' 'numpy>=2.0'
# shellcheck disable=SC2086
step "$venv: build vitpool, install ${extras:-its needs}${*:+ and $*}" \
    $pip --no-build-isolation -e ".${extras:+[$extras]}" "$@"
