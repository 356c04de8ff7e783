#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# Get what runs the tests of an arm64 build on this machine.
#
# usage: tools/arm/root.sh FOLDER PYTHON
#
#   FOLDER/root    Debian's arm64 packages, unpacked: libc, BLIS, Python
#   FOLDER/site    PyPI's aarch64 wheels: what vitpool and its tests require
#   PYTHON         an interpreter of this machine, with pip
#
# Nothing is installed but qemu. apt reads its own sources, for another architecture and into
# a folder of its own; where these have no arm64 (Ubuntu keeps it elsewhere), it says so.
set -eu
cd "$(dirname "$0")/../.."

mkdir -p "$1"
folder=$(cd "$1" && pwd)
python=$2
log=$folder/root.log
. tools/packages.sh

command -v qemu-aarch64-static >/dev/null || install_packages qemu-user-static
command -v apt-get >/dev/null || die "the arm64 root is made of Debian's packages, by apt-get"

apt=$folder/apt
if [ ! -s "$folder/root/glibc" ]; then
    rm -rf "$folder/root"
    mkdir -p "$apt/lists/partial" "$apt/cache/archives/partial" "$folder/root"
    : >"$apt/status" # nothing is installed: so apt takes all that a package needs
    cat >"$apt/conf" <<END
Dir::State "$apt";
Dir::State::status "$apt/status";
Dir::Cache "$apt/cache";
APT::Architecture "arm64";
APT::Architectures {"arm64";};
APT::Install-Recommends "false";
APT::Sandbox::User "";
END
    export APT_CONFIG="$apt/conf"
    step "apt-get update, for arm64" apt-get update
    step "apt-get download of libc, BLIS, Python for arm64" apt-get install -y --download-only \
        libblis-serial-dev libpython3-dev python3-minimal python3 libgomp1 libstdc++6
    for package in "$apt"/cache/archives/*.deb; do
        dpkg-deb -x "$package" "$folder/root"
    done
    ls "$apt/cache/archives" | sed -n 's/^libc6_\([0-9.]*\).*/\1/p' >"$folder/root/glibc"
    rm -rf "$apt"
fi

# The root's Python, and the newest glibc that it may ask of a wheel.
version=$(basename "$(ls -d "$folder"/root/usr/lib/python3.*)")
version=${version#python}
glibc=$(cat "$folder/root/glibc")
platforms=$(for minor in $(seq 17 "${glibc#*.}"); do
    echo "--platform=manylinux_2_${minor}_aarch64"
done)

# The requirements of vitpool and of its extra `test` that hold for that Python, one a line.
requirements=$("$python" - "$version" <<'END'
import sys
from pip._vendor.packaging.requirements import Requirement
try:
    import tomllib
except ImportError:
    from pip._vendor import tomli as tomllib

with open("pyproject.toml", "rb") as file:
    project = tomllib.load(file)["project"]
for line in project["dependencies"] + project["optional-dependencies"]["test"]:
    asked = Requirement(line)
    if asked.marker is None or asked.marker.evaluate({"python_version": sys.argv[1]}):
        print(f"{asked.name}{asked.specifier}")
END
)
rm -rf "$folder/site"
# shellcheck disable=SC2086  # lists of words
step "wheels for arm64: $(echo $requirements)" "$python" -m pip install \
    --disable-pip-version-check --target "$folder/site" --only-binary :all: \
    --python-version "$version" --implementation cp $platforms --platform=manylinux2014_aarch64 \
    $requirements
