# SPDX-License-Identifier: Apache-2.0
"""Build of the C core: ``vitpool._core`` from csrc/, and the C test programs.

The targets and their flags come from csrc/base/targets.h. The files of csrc/kernels/
(other than ``dispatch*.c`` and ``ref*.c``) are compiled once per target with vectors of
its own, with ``VP_TARGET`` set to the target's name; a file ``*__TARGET.c`` for that
target; every other file for the architecture's floor. Objects go to build/, and are
rebuilt when a source, a header or the command line changed.

Environment:
    CC, CFLAGS, LDFLAGS             the compiler, and flags after ours
    VITPOOL_DEBUG=1                 -O0, asserts on, VP_DEBUG defined
    VITPOOL_SANITIZE=a,b            e.g. address,undefined or thread
    VITPOOL_COVERAGE=1              gcov counters
    VITPOOL_WERROR=1                -Wconversion, and warnings are errors
    VITPOOL_BLIS=0                  without BLIS, see tools/find_blis.py
    VITPOOL_BUILD=folder            where objects and programs go, in place of build
    BLIS_DIR, BLIS_INCLUDEDIR, BLIS_LIBDIR    see tools/find_blis.py
"""

from __future__ import annotations

import logging
import os
import re
import shlex
import shutil
import subprocess
import sys
import sysconfig
import time
from concurrent.futures import ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from pathlib import Path

from setuptools import Command, Extension, setup
from setuptools.command.build_ext import build_ext
from setuptools.errors import CompileError

ROOT = Path(__file__).resolve().parent
os.chdir(ROOT)  # so that all paths below, and __FILE__ in C, are relative
sys.path.insert(0, str(ROOT / "tools"))

from find_blis import Blis, blis_to_link  # noqa: E402

CSRC = Path("csrc")


@dataclass(frozen=True)
class Target:
    """A line of VP_TARGETS."""

    name: str
    architecture: str
    vectors: str
    features: list[str]

    @property
    def flags(self) -> list[str]:
        """What the compiler is to assume of the CPU."""
        if self.architecture == "arm64":
            parts = [f"+{feature}" for feature in self.features]
            return [f"-march=armv8.2-a{''.join(parts)}"] if parts else []
        base = [] if self.vectors == self.name else TARGETS[self.vectors].flags
        own = [f"-m{feature.replace('_', '-')}" for feature in self.features]
        if "avx512f" in self.features:
            own.append("-mprefer-vector-width=512")
        return base + own


def read_targets() -> dict[str, Target]:
    """Return the targets of csrc/base/targets.h, by name."""
    text = re.sub(r"[\\\s]+", " ", (CSRC / "base" / "targets.h").read_text())
    lines = re.findall(r"\bX\((\w+), (\w+), (\w+), ((?:NEEDS\(\w+\) ?)*)\)", text)
    return {
        name: Target(name, architecture, vectors, re.findall(r"\((\w+)\)", features))
        for name, architecture, vectors, features in lines
    }


TARGETS = read_targets()
# What a compiler calls the architectures of targets.h.
ARCHITECTURES = {"x86_64": "x86", "amd64": "x86", "aarch64": "arm64", "arm64": "arm64"}


# What a compiler's target has in its name.
SYSTEMS = {
    "linux": re.compile("linux"),
    "macos": re.compile("darwin|macos"),
    "windows": re.compile("mingw|windows"),
}


def say(message: str) -> None:
    """Tell a step of the build (``setup.py -q`` is silent)."""
    logging.getLogger("vitpool").info(message)


@dataclass(frozen=True)
class Unit:
    """One object file: a source, the flags that are its own, where it goes."""

    source: Path
    flags: list[str]
    stem: str


@dataclass
class Toolchain:
    """The compiler with its flags, and the folder that this variant builds in."""

    version: str
    cc: list[str] = field(init=False)
    flags: list[str] = field(init=False)
    link_flags: list[str] = field(init=False)
    architecture: str = field(init=False)
    system: str = field(init=False)
    blis: Blis | None = field(init=False)
    folder: Path = field(init=False)

    def __post_init__(self) -> None:
        env = os.environ
        config_cc = sysconfig.get_config_var("CC") or "cc"
        self.cc = shlex.split(env.get("CC") or config_cc)
        if "CC" not in env and shutil.which(self.cc[0]) is None:
            self.cc = ["cc"]  # the compiler that built Python is not at hand
        if shutil.which(self.cc[0]) is None:
            sys.exit("vitpool: no C compiler found. Install gcc or clang, or set CC.")

        debug = env.get("VITPOOL_DEBUG", "0") not in ("", "0")
        coverage = env.get("VITPOOL_COVERAGE", "0") not in ("", "0")
        werror = env.get("VITPOOL_WERROR", "0") not in ("", "0")
        sanitize = env.get("VITPOOL_SANITIZE", "")
        if not re.fullmatch(r"[a-z,-]*", sanitize):
            sys.exit(f"vitpool: VITPOOL_SANITIZE is {sanitize!r}, not a list of names")

        variant: list[str] = []
        mode = ["-O3", "-DNDEBUG"]
        self.link_flags = []
        if debug:
            variant.append("debug")
            mode = ["-O0", "-g", "-DVP_DEBUG=1"]
        if sanitize:
            variant.append(sanitize.replace(",", "-"))
            if not debug:
                mode = ["-O1", "-g", "-DVP_DEBUG=1"]
            names = sanitize.replace("fuzzer", "fuzzer-no-link")
            mode += [f"-fsanitize={names}", "-fno-omit-frame-pointer"]
            mode += ["-fno-sanitize-recover=all"]
            self.link_flags += [f"-fsanitize={names}"]
        if coverage:
            variant.append("coverage")
            # -Og folds what is constant in an inlined kernel, so that a branch which no
            # call of it can take is none; atomic, since workers count too.
            mode = ["-Og", "-g", "--coverage", "-fprofile-update=atomic"]
            self.link_flags += ["--coverage"]
        warn = ["-Wall", "-Wextra"]
        if werror:
            variant.append("werror")
            warn += ["-Wconversion", "-Werror"]

        self.flags = ["-std=gnu11", *mode, "-ffp-contract=fast"]
        self.flags += ["-fvisibility=hidden", "-fPIC", "-pthread", *warn]
        self.flags += shlex.split(env.get("CFLAGS", ""))
        self.link_flags += ["-pthread", *shlex.split(env.get("LDFLAGS", ""))]
        machine, _, system = self._ask("-dumpmachine").partition("-")
        self.architecture = ARCHITECTURES.get(machine, "any")
        self.system = next(
            (s for s, names in SYSTEMS.items() if names.search(system)), ""
        )
        if self.system == "windows" and "clang" not in self._ask("--version"):
            sys.exit(
                "vitpool: for Windows set CC to a clang: GCC aligns no stack for AVX"
            )
        self.blis = blis_to_link()
        if self.blis is None:
            variant.append("without-blis")
            self.flags.append("-DVP_NO_BLIS=1")
        info = f"{self._ask('--version')}; {' '.join(self.flags)}"
        info = info.replace("\\", "\\\\").replace('"', '\\"')
        self.flags += [f'-DVP_BUILD_INFO="{info}"', f'-DVP_VERSION="{self.version}"']
        if self.architecture != "any":
            self.flags.append(f"-DVP_{self.architecture.upper()}=1")
        folder = "-".join(variant)
        self.folder = Path(
            env.get("VITPOOL_BUILD", "build"), *[folder] if variant else []
        )

    def _ask(self, option: str) -> str:
        run = subprocess.run([*self.cc, option], capture_output=True, text=True)
        return run.stdout.partition("\n")[0].strip()

    def _up_to_date(self, out: Path, command: list[str]) -> bool:
        """True if out was made by this very command from files no newer than it."""
        note, deps = out.with_suffix(".cmd"), out.with_suffix(".d")
        try:
            made = out.stat().st_mtime
            if note.read_text() != shlex.join(command):
                return False
            names = deps.read_text().replace("\\\n", " ").partition(":")[2].split()
            return all(os.stat(name).st_mtime <= made for name in names)
        except OSError:
            return False

    def compile(self, units: list[Unit]) -> list[Path]:
        """Compile what changed, in parallel; return the objects of all units."""

        def one(unit: Unit) -> Path:
            out = self.folder / "obj" / f"{unit.stem}.o"
            out.parent.mkdir(parents=True, exist_ok=True)
            own = unit.flags
            if "zig" in " ".join(self.cc):  # which takes features by -mcpu alone
                own = [
                    f.replace("-march=armv8.2-a", "-mcpu=generic+v8_2a") for f in own
                ]
            command = [*self.cc, *self.flags, *own, "-MMD"]
            command += ["-c", str(unit.source), "-o", str(out)]
            if not self._up_to_date(out, command):
                say(f"compile {unit.stem}")
                start = time.time_ns()
                self.run(command)
                os.utime(out, ns=(start, start))  # an edit made meanwhile is newer
                out.with_suffix(".cmd").write_text(shlex.join(command))
            return out

        cores = getattr(os, "sched_getaffinity", lambda _: range(os.cpu_count() or 1))
        pool = ThreadPoolExecutor(len(cores(0)))
        try:
            running = [pool.submit(one, unit) for unit in units]
            wait(running)  # so that the errors of all files are seen
            return [future.result() for future in running]
        finally:
            pool.shutdown(cancel_futures=True)

    def link(self, objects: list[Path], out: Path, extra: list[str]) -> None:
        """Link objects to out with BLIS, unless out is newer than all of them."""
        command = [*self.cc, *map(str, objects), *extra]
        command += self.blis.link_args if self.blis else []
        command += [*self.link_flags, "-lm", "-o", str(out)]
        note = self.folder / "obj" / f"{out.name}.link"
        made = out.stat().st_mtime if out.exists() else 0.0
        made_of = [*objects, self.blis.library] if self.blis else objects
        fresh = all(p.stat().st_mtime <= made for p in made_of)
        if fresh and note.exists() and note.read_text() == shlex.join(command):
            return
        say(f"link {out}")
        out.parent.mkdir(parents=True, exist_ok=True)
        out.unlink(missing_ok=True)  # a running process keeps its old file
        self.run(command)
        note.write_text(shlex.join(command))

    @staticmethod
    def run(command: list[str]) -> None:
        """Run a compiler; show what it says; CompileError when it fails."""
        done = subprocess.run(command, capture_output=True, text=True)
        if done.stderr:
            print(done.stderr, file=sys.stderr, end="")
        if done.returncode != 0:
            raise CompileError(f"cannot build {command[-1]}")


def core_units(architecture: str, blis: Blis | None) -> list[Unit]:
    """Everything of csrc/ but csrc/python/: no Python.h in here."""
    units = []
    targets = [t for t in TARGETS.values() if t.architecture in (architecture, "any")]
    for source in sorted(CSRC.glob("*/*.c")):
        room, stem = source.parent.name, f"{source.parent.name}/{source.stem}"
        flags = ["-I", str(CSRC)]
        if room == "python":
            continue
        if source.name == "blis.c":
            if blis is None:
                continue
            flags += blis.compile_args
        _, _, own = source.stem.partition("__")
        if room == "kernels" and not source.stem.startswith(("dispatch", "ref")):
            for t in targets:
                if t.vectors == t.name:
                    each = [*flags, *t.flags, f"-DVP_TARGET={t.name}"]
                    units.append(Unit(source, each, f"{stem}__{t.name}"))
        elif own == "":
            units.append(Unit(source, flags, stem))
        elif TARGETS[own] in targets:
            units.append(Unit(source, [*flags, *TARGETS[own].flags], stem))
    return units


def emulated_units(architecture: str) -> list[Unit]:
    """Some micro-kernels once more, for C tests on a CPU that lacks their instructions.

    AMX's on emulated instructions; AVX-VNNI's in AVX-512's encoding of the same ones.
    """
    emulations = {
        "amx": ["-include", "tests/c/amx_emulated.h"],
        "avxvnni": ["-mavx512vl", "-mavx512vnni", "-DVEX="],
    }
    return [
        Unit(
            source,
            [
                *["-I", str(CSRC), *TARGETS[TARGETS[name].vectors].flags, *own],
                f"-Dvp_{source.stem}=vp_{source.stem}_emulated",
            ],
            f"{source.parent.name}/{source.stem}_emulated",
        )
        for name, own in emulations.items()
        for source in sorted(CSRC.glob(f"ukernels/*__{name}.c"))
        if architecture == "x86"
    ]


# One binary serves Python 3.10 and later. Without the GIL there is no stable ABI.
STABLE_ABI = sys.implementation.name == "cpython" and not sysconfig.get_config_var(
    "Py_GIL_DISABLED"
)
PYTHON_DLL = (
    "python3" if STABLE_ABI else f"python{sys.version_info[0]}{sys.version_info[1]}t"
)


def python_units() -> list[Unit]:
    """The files of csrc/python/, for the running Python and its NumPy."""
    import numpy

    flags = ["-I", str(CSRC), "-isystem", sysconfig.get_path("include")]
    platinclude = sysconfig.get_path("platinclude")
    if platinclude != sysconfig.get_path("include"):
        flags += ["-isystem", platinclude]
    flags += ["-isystem", numpy.get_include()]
    if STABLE_ABI:
        flags.append("-DPy_LIMITED_API=0x030a0000")
    tag = (sysconfig.get_config_var("SOABI") or "python").replace(".", "-")
    return [
        Unit(source, flags, f"python-{tag}/{source.stem}")
        for source in sorted(CSRC.glob("python/*.c"))
    ]


class BuildCore(build_ext):
    """build_ext that compiles per target, in parallel, and only what changed."""

    def build_extension(self, ext: Extension) -> None:
        """Build vitpool._core to where setuptools wants it."""
        tools = Toolchain(self.distribution.get_version())
        objects = tools.compile(
            core_units(tools.architecture, tools.blis) + python_units()
        )
        # BLIS's symbols stay inside. Windows shows what is marked, PyInit__core, alone.
        shared = ["-shared", f"-Wl,--version-script={CSRC}/python/exports.map"]
        if tools.system == "macos":
            shared = ["-bundle", "-undefined", "dynamic_lookup"]
            if tools.blis is not None:
                shared.append("-Wl,-exported_symbol,_PyInit__core")
        elif tools.system == "windows":
            shared = ["-shared", f"-L{sys.base_prefix}/libs", f"-l{PYTHON_DLL}"]
        out = Path(os.path.relpath(self.get_ext_fullpath(ext.name)))
        tools.link(objects, out, shared)


# Tests of what Windows has not: fork(), cgroups, attributes of a thread.
OF_POSIX = {"test_amx_instructions", "test_cgroup", "test_fork", "test_thread_stack"}


class BuildCTests(Command):
    """Build each .c of a folder, with a main() of its own, against the core."""

    description = "build the C test programs to build/ctests, or other C programs"
    user_options = [
        ("source-dir=", None, "folder of the programs [tests/c]"),
        ("program-dir=", None, "where they go, in the variant's build folder [ctests]"),
        ("only=", None, "the one program to build"),
        ("compile-only", None, "compile, and link nothing"),
    ]
    boolean_options = ["compile-only"]

    def initialize_options(self) -> None:
        self.source_dir = "tests/c"
        self.program_dir = "ctests"
        self.only = "*"
        self.compile_only = False

    def finalize_options(self) -> None:
        pass

    def run(self) -> None:
        tools = Toolchain(self.distribution.get_version())
        folder = Path(self.source_dir)
        core = tools.compile(core_units(tools.architecture, tools.blis))
        if folder == Path("tests/c"):
            core += tools.compile(emulated_units(tools.architecture))
        flags = ["-I", str(CSRC), "-I", "tests/c", "-UNDEBUG"]
        units = [
            Unit(source, flags, f"{folder}/{source.stem}")
            for source in sorted(folder.glob(f"{self.only}.c"))
            if tools.system != "windows" or source.stem not in OF_POSIX
        ]
        suffix = ".exe" if tools.system == "windows" else ""
        objects = tools.compile(units)
        if self.compile_only:
            return
        # libFuzzer brings its own main().
        fuzzer = "fuzzer" in os.environ.get("VITPOOL_SANITIZE", "")
        extra = ["-fsanitize=fuzzer"] if fuzzer else []
        programs = tools.folder / self.program_dir
        for unit, obj in zip(units, objects, strict=True):
            tools.link([obj, *core], programs / f"{unit.source.stem}{suffix}", extra)
        for old in programs.glob("*"):
            if not (folder / f"{old.stem}.c").exists():
                old.unlink()


if not list(CSRC.glob("*/*.c")):
    sys.exit("vitpool: csrc/ is missing beside setup.py")
setup(
    ext_modules=[
        Extension(
            "vitpool._core",
            sorted(map(str, CSRC.glob("*/*.c"))),
            language="c",
            py_limited_api=STABLE_ABI,
        )
    ],
    options={"bdist_wheel": {"py_limited_api": "cp310"}} if STABLE_ABI else {},
    cmdclass={"build_ext": BuildCore, "build_ctests": BuildCTests},
)
