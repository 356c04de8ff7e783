#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# Build for arm64 with zig, and run the tests under qemu-user, for each CPU.
#
# usage: tools/arm/test.sh FOLDER PYTHON [PYTEST ARGUMENT...]
#
#   FOLDER    what tools/arm/root.sh has made; the build goes there, too
#   PYTHON    an interpreter of this machine, with ziglang and what setup.py needs
#   CPUS      qemu's names of CPUs [cortex-a72 neoverse-n1 max]
#   PYTHON_CPUS    those of them that the Python tests run on [all]
#   CTESTS    C tests, by name; all of them where it is empty, none where it is "none"
#   ALONE     a file of Python tests that runs after the others, in one process
#   VITPOOL_TEST_SMALL=1    some C tests take fewer shapes
#
# An instruction that a CPU lacks ends a program, so this tests the choice of a target, too.
# Without pytest's arguments no Python test runs; a relative path is from FOLDER.
set -eu
cd "$(dirname "$0")/../.."

folder=$(cd "$1" && pwd)
python=$2
shift 2
root=$folder/root
version=$(basename "$(echo "$root"/usr/lib/python3.*)")

echo "== build for arm64, by $("$python" -m ziglang cc --version | head -n 1)"
tools/arm/setup.sh "$folder" "$python" build_ctests
if [ $# != 0 ]; then
    rm -rf "$folder/lib"
    tools/arm/setup.sh "$folder" "$python" build --build-base "$folder/setuptools" \
        --build-lib "$folder/lib" dist_info --output-dir "$folder/lib"
fi

# An environment whose Python is a script that starts qemu. qemu-user does not emulate
# execve(): what a test starts as sys.executable is this script again, by argv[0].
make_environment() { # CPU
    environment=$folder/$1
    packages=$environment/lib/$version/site-packages
    mkdir -p "$environment/bin" "$packages"
    {
        echo "#!/bin/sh"
        echo "exec qemu-aarch64-static -cpu $1 -L '$root' -0 '$environment/bin/python'" \
            "'$root/usr/bin/$version' \"\$@\""
    } >"$environment/bin/python"
    printf 'home = %s\ninclude-system-site-packages = false\n' "$root/usr/bin" \
        >"$environment/pyvenv.cfg"
    # What is imported lies in these folders, for every CPU.
    printf '%s\n' "$folder/lib" "$folder/site" >"$packages/arm.pth"
    {
        echo "#!$environment/bin/python"
        echo "import sys; from vitpool.cli import main; sys.exit(main())"
    } >"$environment/bin/vitpool"
    chmod +x "$environment/bin/python" "$environment/bin/vitpool"
}

# Not from the sources, where ./vitpool would be found first.
run_python_tests() { # CPU ARGUMENT...
    environment=$folder/$1
    shift
    (cd "$folder" && PATH="$environment/bin:$PATH" \
        "$environment/bin/python" -m pytest -q -p no:cacheprovider "$@")
}

cpus=${CPUS:-cortex-a72 neoverse-n1 max}
failed=
for cpu in $cpus; do
    if [ "${CTESTS:-}" != none ]; then
        echo "== C tests on $cpu"
        ONLY=${CTESTS:-} tools/run_ctests.sh "$folder/ctests" \
            qemu-aarch64-static -cpu "$cpu" -L "$root" || failed="$failed C:$cpu"
    fi
    case " ${PYTHON_CPUS:-$cpus} " in
    *" $cpu "*) python_tests=$# ;;
    *) python_tests=0 ;;
    esac
    if [ "$python_tests" != 0 ]; then
        echo "== python tests on $cpu"
        make_environment "$cpu"
        run_python_tests "$cpu" "$@" || failed="$failed python:$cpu"
        test -z "${ALONE:-}" || run_python_tests "$cpu" "$ALONE" ||
            failed="$failed python:$cpu:$ALONE"
    fi
done
test -z "$failed" || {
    echo "failed:$failed"
    exit 1
}
