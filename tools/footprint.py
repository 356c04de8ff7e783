# SPDX-License-Identifier: Apache-2.0
"""What each engine weighs: installed size and import time, side by side.

    python tools/footprint.py [--runs 15] [--again] [-o TABLE.md] [ENGINE ...]

Each engine is installed with all it needs, pip and setuptools aside, into a folder of
its own under build/footprint. Size: all files of that folder, with the bytecode that
pip compiles. Import time: the least over interpreters started one after the other, the
engines taking turns; NumPy's import is part of it where the engine imports NumPy. What
is installed there already is measured as it is, unless --again. Needs pip, and what
vitpool's build needs.
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
FOLDER = ROOT / "build" / "footprint"

TIMM = Path(__file__).with_name("import_timm.py").read_text(encoding="utf-8")
ENGINES = {
    "NumPy alone": (["numpy"], "import numpy"),
    "vitpool": (["vitpool"], "import vitpool\nvitpool.create_model"),
    "timm": (["timm==1.0.31", "torch==2.13.0", "torchvision==0.28.0"], TIMM),
    "onnxruntime": (["onnxruntime"], "import onnxruntime"),
    "OpenVINO": (["openvino"], "import openvino"),
}
TIMED = """
import sys, time
sys.path.insert(0, {folder!r})
start = time.perf_counter()
{code}
print(time.perf_counter() - start)
"""


def pip(*arguments: str) -> None:
    """Run pip quietly."""
    command = [sys.executable, "-m", "pip", "-q", "--disable-pip-version-check"]
    subprocess.run([*command, *arguments], check=True, cwd=ROOT)


def install(engine: str, requirements: list[str], again: bool) -> Path:
    """A folder with the engine and all it needs."""
    folder = FOLDER / engine.replace(" ", "-")
    if folder.exists() and not again:
        return folder
    if requirements == ["vitpool"]:
        for stale in (ROOT / "build").glob("lib.*"):
            shutil.rmtree(stale)
        pip("wheel", "--no-deps", "--no-build-isolation", "-w", str(FOLDER), ".")
        requirements = [str(max(FOLDER.glob("*.whl"), key=lambda p: p.stat().st_mtime))]
    shutil.rmtree(folder, ignore_errors=True)
    pip("install", "--target", str(folder), *requirements)
    return folder


def size_of(folder: Path) -> int:
    """Bytes of all files."""
    return sum(p.lstat().st_size for p in folder.rglob("*") if p.is_file())


def version_of(folder: Path, requirement: str) -> str:
    """The installed version of a requirement, by its metadata folder's name."""
    name = requirement.partition("==")[0]
    found = next(folder.glob(f"{name}-*.dist-info"))
    return found.name.removesuffix(".dist-info").partition("-")[2]


def import_seconds(folder: Path, code: str) -> float:
    """One import in an interpreter of its own that sees this folder alone."""
    text = TIMED.format(folder=str(folder), code=code)
    command = [sys.executable, "-S", "-E", "-c", text]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    return float(done.stdout.split()[-1])


def table(runs: int, engines: list[str], again: bool) -> str:
    """The measurements as a Markdown table."""
    folders = {name: install(name, ENGINES[name][0], again) for name in engines}
    times: dict[str, list[float]] = {name: [] for name in engines}
    for _ in range(runs):
        for name, folder in folders.items():
            times[name].append(import_seconds(folder, ENGINES[name][1]))
    rows = [
        "| engine | version | installed size, MB | import time, s |",
        "| --- | --- | ---: | ---: |",
    ]
    for name, folder in folders.items():
        size, seconds = size_of(folder) / 1e6, min(times[name])
        version = version_of(folder, ENGINES[name][0][0])
        rows.append(f"| {name} | {version} | {size:.0f} | {seconds:.2f} |")
    return "\n".join(rows) + "\n"


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("engines", nargs="*", metavar="ENGINE", help=str([*ENGINES]))
    parser.add_argument("--again", action="store_true", help="install again")
    parser.add_argument("--runs", type=int, default=15, help="imports timed [15]")
    parser.add_argument(
        "-o", dest="output", type=Path, help="write the table there too"
    )
    args = parser.parse_args()
    unknown = set(args.engines) - set(ENGINES)
    if unknown:
        parser.error(f"no engine {unknown}; there are {', '.join(ENGINES)}")
    text = table(args.runs, args.engines or list(ENGINES), args.again)
    print(text, end="")
    if args.output:
        args.output.parent.mkdir(parents=True, exist_ok=True)
        args.output.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
