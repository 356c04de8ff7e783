# SPDX-License-Identifier: Apache-2.0
"""Find the BLIS library to link: its header's folder, its library, what to link beside.

Looked at, first match wins: ``BLIS_INCLUDEDIR`` / ``BLIS_LIBDIR``, ``BLIS_DIR``,
pkg-config, ``CONDA_PREFIX``, Debian's ``<triplet>/blis-<variant>/`` folders, and the
usual prefixes. A static library is preferred: BLIS keeps its SONAME across releases
with other struct layouts, so a shared one can change under a built module.

``VITPOOL_BLIS=0`` builds without BLIS, as macOS and Windows do where it is not found:
plain C then takes its place, where the CPU has no float32 kernel of its own.

As a script it prints what it found and exits 0, or prints what to install and exits 1.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

MISSING = (
    "vitpool: BLIS not found. Install it (Debian, Ubuntu: apt install "
    "libblis-serial-dev; Fedora: dnf install blis-devel; conda: conda install blis), "
    "or set BLIS_DIR, or BLIS_INCLUDEDIR and BLIS_LIBDIR. VITPOOL_BLIS=0 builds "
    "without it: slower where the CPU has no float32 kernel of its own."
)


@dataclass(frozen=True)
class Blis:
    """Where BLIS is, and how to link it."""

    include_dir: Path
    library: Path
    origin: str

    @property
    def static(self) -> bool:
        """True for ``libblis.a``."""
        return self.library.suffix == ".a"

    @property
    def compile_args(self) -> list[str]:
        """The compiler's arguments: the header, and VP_BLIS_BEFORE_1 where it is."""
        args = ["-isystem", str(self.include_dir)]
        # The name that 1.0 replaced with bli_cntx_get_ukr_dt.
        if b"bli_cntx_get_l3_nat_ukr_dt" in (self.include_dir / "blis.h").read_bytes():
            args.append("-DVP_BLIS_BEFORE_1=1")
        return args

    @property
    def link_args(self) -> list[str]:
        """The linker arguments that bring BLIS in."""
        if self.static:
            args = [str(self.library)]
            # An OpenMP build of BLIS refers to the runtime of its compiler.
            code = self.library.read_bytes()
            if b"GOMP_parallel" in code:
                args.append("-lgomp")
            elif b"__kmpc_fork_call" in code:
                args.append("-lomp")
            return args
        folder = str(self.library.parent)
        return [f"-L{folder}", f"-Wl,-rpath,{folder}", "-lblis"]


def _prefix(root: str | Path) -> tuple[list[Path], list[Path]]:
    root = Path(root)
    return (
        [root / "include" / "blis", root / "include", root],
        [root / "lib", root / "lib64", root],
    )


def _pkg_config() -> tuple[list[Path], list[Path]] | None:
    tool = shutil.which("pkg-config")
    if tool is None:
        return None
    found = []
    for name in ("includedir", "libdir"):
        run = subprocess.run(
            [tool, f"--variable={name}", "blis"], capture_output=True, text=True
        )
        if run.returncode != 0 or not run.stdout.strip():
            return None
        found.append(Path(run.stdout.strip()))
    return [found[0] / "blis", found[0]], [found[1]]


def _candidates() -> Iterator[tuple[str, list[Path], list[Path]]]:
    """Yield (origin, header folders, library folders), the preferred first."""
    env = os.environ
    if "BLIS_INCLUDEDIR" in env or "BLIS_LIBDIR" in env:
        # One of the two may be enough: the other then has its usual place.
        include, lib = env.get("BLIS_INCLUDEDIR"), env.get("BLIS_LIBDIR")
        includes, libs = _prefix(Path(include or lib or "").parent)
        if include:
            includes = [Path(include), Path(include) / "blis"]
        if lib:
            libs = [Path(lib)]
        yield "BLIS_INCLUDEDIR, BLIS_LIBDIR", includes, libs
        return  # what was asked for explicitly is not silently replaced
    if "BLIS_DIR" in env:
        yield "BLIS_DIR", *_prefix(env["BLIS_DIR"])
        return
    packaged = _pkg_config()
    if packaged is not None:
        yield "pkg-config", *packaged
    if "CONDA_PREFIX" in env:
        yield "CONDA_PREFIX", *_prefix(env["CONDA_PREFIX"])
    triplets = {p.parent.name for p in Path("/usr/include").glob("*/blis*-*")}
    native = sysconfig.get_config_var("MULTIARCH")
    if native:
        triplets &= {native}
    for triplet in sorted(triplets):
        # We run our own threads, so the serial build comes first.
        for variant in ("serial", "pthread", "openmp"):
            for family in ("blis", "blis64"):
                name = f"{family}-{variant}"
                yield (
                    f"Debian's {name}",
                    [Path("/usr/include", triplet, name)],
                    [Path("/usr/lib", triplet, name)],
                )
    for root in ("/usr/local", "/opt/homebrew", "/usr"):
        yield root, *_prefix(root)


def find_blis() -> Blis | None:
    """Return the first BLIS that has a header and a library, or None."""
    shared = "libblis.dylib" if sys.platform == "darwin" else "libblis.so"
    for origin, includes, libs in _candidates():
        header = next((d for d in includes if (d / "blis.h").is_file()), None)
        for name in ("libblis.a", shared):
            library = next((d / name for d in libs if (d / name).is_file()), None)
            if header is not None and library is not None:
                return Blis(header, library, origin)
    return None


def blis_to_link() -> Blis | None:
    """Return a build's BLIS; None: it is built without. SystemExit: BLIS is missing."""
    wish = os.environ.get("VITPOOL_BLIS", "")
    if wish not in ("", "0", "1"):
        sys.exit(f"vitpool: VITPOOL_BLIS is {wish!r}, neither 0 nor 1")
    blis = None if wish == "0" else find_blis()
    optional = wish == "0" or (wish == "" and sys.platform in ("darwin", "win32"))
    if blis is None and not optional:
        sys.exit(MISSING)
    return blis


if __name__ == "__main__":
    blis = blis_to_link()
    if blis is None:
        print("no BLIS")
    else:
        print(f"{blis.library} ({blis.origin}), header in {blis.include_dir}")
