#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# The tests on a Python without the GIL, with the GIL off whatever is imported.
#
# usage: tools/test_free_threaded.sh VENV TEST...
#
#   VENV     folder of the environment, made where it is missing
#   PYTHON   names to try, in this order ("python3.14t python3.13t"); also pyenv's
#
# A requirement that has no wheel for that Python is taken in another version, else left
# out, with the tests that import it; both are said. Nothing is run, and that is said,
# where none of PYTHON is there.
set -eu
cd "$(dirname "$0")/.."

venv=$1
shift

PYENV_VERSION=$(pyenv versions --bare 2>/dev/null | paste -sd: - || true)
test -z "$PYENV_VERSION" || export PYENV_VERSION
no_gil='import sysconfig as s; raise SystemExit(not s.get_config_var("Py_GIL_DISABLED"))'

python=
for name in ${PYTHON:-python3.14t python3.13t}; do
    if "$name" -c "$no_gil" 2>/dev/null; then
        python=$("$name" -c 'import sys; print(sys.executable)')
        break
    fi
done
if [ -z "$python" ]; then
    echo "== no Python without the GIL here (${PYTHON:-python3.14t, python3.13t}): not run"
    test -z "${PYTHON:-}" # who asks for one wants that one
    exit
fi
echo "== the tests without the GIL: $("$python" -VV)"

test -x "$venv/bin/python" && "$venv/bin/python" -c "$no_gil" 2>/dev/null ||
    "$python" -m venv --clear "$venv"
pip="$venv/bin/python -m pip install -q --disable-pip-version-check"
$pip 'setuptools>=77' 'numpy>=2.0'

# The requirements of vitpool and of its extra `test` that hold for this Python, one a line.
requirements=$("$venv/bin/python" - <<'END'
import tomllib
from pip._vendor.packaging.requirements import Requirement

with open("pyproject.toml", "rb") as file:
    project = tomllib.load(file)["project"]
for line in project["dependencies"] + project["optional-dependencies"]["test"]:
    asked = Requirement(line)
    if asked.marker is None or asked.marker.evaluate():
        print(f"{asked.name}{asked.specifier}")
END
)
left_out=
for asked in $requirements; do
    name=${asked%%[=<>]*}
    if $pip --only-binary :all: "$asked" 2>/dev/null; then
        :
    elif $pip --only-binary :all: "$name" 2>/dev/null; then
        echo "== no wheel of $asked for this Python: another version"
    else
        echo "== no wheel of $name for this Python"
        for file in $(grep -lE "^ *(import|from) $name\b" tests/*.py); do
            echo "== not run: $file, which needs $name"
            left_out="$left_out --ignore=$file"
        done
    fi
done

"$venv/bin/python" setup.py -q build_ext --inplace
# shellcheck disable=SC2086  # a list of words
PYTHON_GIL=0 PYTHONPATH=. "$venv/bin/python" -m pytest -q -p no:cacheprovider "$@" $left_out
