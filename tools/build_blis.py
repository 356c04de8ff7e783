# SPDX-License-Identifier: Apache-2.0
"""Build BLIS as wheels have it: static, serial, by ``CC`` and ``AR``, for any machine.

    CC="python -m ziglang cc -target aarch64-linux-musl" AR="python -m ziglang ar" \\
        python tools/build_blis.py FOLDER

leaves FOLDER/include/blis.h and FOLDER/lib/libblis.a, which BLIS_DIR=FOLDER then names.
The sources are PyPI's sdist of ``blis`` (tools/blis.txt), which lists the files and
flags for each CPU: of its configurations those alone that are asked for. An object that
is there is not made again: another compiler wants another FOLDER.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
# The sdist's list for an architecture, and the configurations of it that are built:
# those that csrc/ukernels/blis.c asks for.
LISTS = {
    "x86_64": ("linux-x86_64", {"generic", "haswell"}),
    "aarch64": ("linux-cortexa57", {"cortexa57"}),
}
KERNELS: dict[str, set[str]] = {
    "haswell": {"haswell", "zen"},
    "cortexa57": {"armv8a"},
    "generic": set(),
}
# What csrc/ukernels/blis.c calls.
PROBE = """
#include <blis.h>
int probe(void)
{
    bli_init();
    cntx_t *context = (cntx_t *)bli_gks_query_cntx();
    return context == NULL || bli_gks_lookup_nat_cntx(BLIS_ARCH_GENERIC) == context ||
           bli_info_get_version_str() == NULL;
}
"""


def sources(folder: Path) -> Path:
    """Unpack the sdist in folder, unless it is there; return its folder of BLIS."""
    found = list(folder.glob("blis-*/blis/_src"))
    if not found:
        folder.mkdir(parents=True, exist_ok=True)
        pip = [sys.executable, "-m", "pip", "download", "-q"]
        pip += ["--disable-pip-version-check", "--no-deps", "--no-binary", "blis"]
        pip += ["-d", str(folder), "-r", str(ROOT / "tools" / "blis.txt")]
        subprocess.run(pip, check=True)
        (archive,) = folder.glob("blis-*.tar.gz")
        with tempfile.TemporaryDirectory(dir=folder) as unpacked:
            with tarfile.open(archive) as tar:
                tar.extractall(unpacked)
            (content,) = Path(unpacked).iterdir()
            content.rename(folder / content.name)
        found = list(folder.glob("blis-*/blis/_src"))
    return found[0]


def header(text: str, configurations: set[str]) -> str:
    """blis.h without the configurations that are not built, and their kernels."""
    kernels = configurations.union(*(KERNELS[name] for name in configurations))

    def keep(line: re.Match[str]) -> str:
        names = configurations if line[1] == "CONFIG" else kernels
        return line[0] if line[2].lower() in names else ""

    enabled = r"^#define BLIS_(CONFIG|KERNELS)_(?!H\n)([A-Z0-9]+)\n"
    return re.sub(enabled, keep, text, flags=re.M)


def steps(listed: Path, configurations: set[str], arm: bool) -> Iterator[list[str]]:
    """Yield a compiler's arguments for each file, the source last."""
    kernels = {kernel for each in configurations for kernel in KERNELS[each]}
    for line in listed.read_text().splitlines():
        spec = json.loads(line)
        source = spec.get("source", "")
        room, _, rest = source.partition("/")
        macros: list[str] = spec.get("macros", [])
        name = next((m[13:] for m in macros if m.startswith("-DBLIS_CNAME=")), "")
        owner = rest.partition("/")[0]
        if (
            not source
            or (room == "config" and owner not in configurations)
            or (room == "kernels" and owner not in kernels)
            or (room == "ref_kernels" and name not in configurations)
        ):
            continue
        flags = [f for f in spec["flags"] if not f.startswith("-fvisibility")]
        if arm:  # its floor has all that is used; compilers differ over these names
            flags = [f for f in flags if not f.startswith("-m")]
        yield [*flags, *macros, *spec["include"], source]


def build(folder: Path, cc: list[str], ar: list[str], cache: Path) -> None:
    """Build include/blis.h and lib/libblis.a in folder."""
    asked = subprocess.run([*cc, "-dumpmachine"], capture_output=True, text=True)
    machine = asked.stdout.partition("-")[0].replace("arm64", "aarch64")
    if machine not in LISTS:
        sys.exit(f"build_blis: for {machine!r}, none of {', '.join(LISTS)}")
    name, configurations = LISTS[machine]
    root = sources(cache)
    include, library = folder / "include", folder / "lib" / "libblis.a"
    objects = folder / root.parents[1].name  # with its version
    for each in (include, library.parent, objects):
        each.mkdir(parents=True, exist_ok=True)
    text = (root / "include" / name / "blis.h").read_text()
    (include / "blis.h").write_text(header(text, configurations))

    def one(arguments: list[str]) -> Path:
        *flags, source = arguments
        cname = next((f[13:] for f in flags if f.startswith("-DBLIS_CNAME=")), "")
        out = objects / f"{source.replace('/', '-')}{cname}.o"
        if not out.exists():
            partial = out.with_suffix(".tmp")
            command = [*cc, "-I", str(include), *flags, "-fvisibility=hidden", "-w"]
            command += ["-c", source, "-o", str(partial)]
            subprocess.run(command, check=True, cwd=root)
            partial.rename(out)
        return out

    cores = getattr(os, "sched_getaffinity", lambda _: range(os.cpu_count() or 1))
    listed = root / "make" / f"{name}.jsonl"
    with ThreadPoolExecutor(len(cores(0))) as pool:
        made = list(pool.map(one, steps(listed, configurations, machine == "aarch64")))
    library.unlink(missing_ok=True)
    subprocess.run([*ar, "rcs", str(library), *map(str, made)], check=True)
    # What calls what is called, so that a file that is missing is noticed here.
    probe = folder / "probe.c"
    probe.write_text(PROBE)
    command = [*cc, "-I", str(include), "-fPIC", "-shared", "-Wl,-z,defs", str(probe)]
    command += [str(library), "-pthread", "-lm", "-o", str(probe.with_suffix(".so"))]
    subprocess.run(command, check=True)


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    build(
        Path(sys.argv[1]).resolve(),
        shlex.split(os.environ.get("CC", "cc")),
        shlex.split(os.environ.get("AR", "ar")),
        ROOT / "build" / "blis",
    )
