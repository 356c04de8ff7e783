# SPDX-License-Identifier: Apache-2.0
"""What LLVM's scheduler models say of the arm64 micro-kernels' loops.

    python -m benchmarks.mca [-o csrc/kernels/README.md] [PART_OF_A_NAME]

Each kernel of VP_UKRS for arm64 is compiled to assembly by $CC, a compiler for arm64
(without it zig of the package ziglang), as in a build, except that the functions of
its heights stay functions (-fno-inline). Of a height's loops the one with most
multiply-adds is the steady state; llvm-mca runs it as if all data were in L1. A model
is not a CPU: nothing here is measured. Prints a section in Markdown; with -o it takes
the place of that file's section.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from benchmarks.kernel_table import refresh

CSRC = Path("csrc")
CPUS = ["neoverse-n1", "neoverse-v1", "apple-m1"]
PRODUCTS = re.compile(
    r"(fmla|fmlal2?|smlal2?|sdot|udot|usdot|[su]mmla|usmmla|bfmmla)\b"
)
HEAD = """\
## ARM, by LLVM's scheduler models

Not measured: what `make mca` computes of each micro-kernel's loop, all data in L1
({compiler}; {mca}).
Products are the multiply-add instructions of a turn of the loop. Of each CPU there
are the cycles that a turn takes, and in brackets the part of them that the products
need at the least, at the model's own rate of them. `apple-m1` is scheduled as
Cyclone, Apple's core of 2013, in LLVM 19: it has 3 pipes for multiply-adds where
M1 has 4. A dash: the CPU lacks the instruction. A few rows wait for their own sums.
Weights of 16 bits are widened before the loop, once for all strips of a block.

| micro-kernel | rows | products | {cpus} |
| --- | --: | --: | {rules} |
"""


def kernels() -> list[str]:
    """Return the names of the micro-kernels of arm64, as VP_UKRS has them."""
    text = (CSRC / "ukernels" / "ukr.h").read_text()
    return re.findall(r"X\(vp_(gemm_\w+), arm64\)", text)


def compiler() -> list[str]:
    """Return the compiler for arm64."""
    zig = [sys.executable, "-m", "ziglang", "cc", "-target", "aarch64-linux-gnu"]
    return shlex.split(os.environ["CC"]) if os.environ.get("CC") else zig


def features(target: str, cc: list[str]) -> list[str]:
    """Return the flags that targets.h asks for, as setup.py does."""
    text = (CSRC / "base" / "targets.h").read_text().replace("\\\n", " ")
    line = re.search(rf"X\({target}, arm64, \w+, ((?:\s*NEEDS\(\w+\))*)", text)
    parts = "".join(f"+{f}" for f in re.findall(r"\((\w+)\)", line[1] if line else ""))
    if not parts:
        return []
    march = "-mcpu=generic+v8_2a" if "zig" in " ".join(cc) else "-march=armv8.2-a"
    return [f"{march}{parts}"]


def assembly(cc: list[str], name: str) -> str:
    """Compile a micro-kernel."""
    flags = ["-std=gnu11", "-O3", "-DNDEBUG", "-ffp-contract=fast", "-fno-inline"]
    flags += ["-g0", "-DVP_ARM64", "-I", str(CSRC), *features(name.split("__")[1], cc)]
    source = CSRC / "ukernels" / f"{name}.c"
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "kernel.s"
        command = [*cc, *flags, "-S", "-o", str(out), str(source)]
        run = subprocess.run(command, capture_output=True, text=True, check=False)
        if run.returncode != 0:
            sys.exit(f"{shlex.join(command)}\n{run.stderr}")
        return out.read_text()


def loops(text: str) -> dict[int, list[str]]:
    """Return each height's steady state: the lines of its loop, by rows."""
    found: dict[int, list[str]] = {}
    rows, block = 0, [""]
    for raw in text.splitlines():
        line = re.sub(r"\s*(//|;).*", "", raw)
        label = re.match(r"([\w.$]+):", line)
        if label:
            height = re.fullmatch(r"_?kernel_(\d+)", label[1])
            rows = int(height[1]) if height else rows
            block = [line]
        elif re.match(r"\s+[a-z]", line) or re.match(r"[a-z]\w+\s+[%vwxq\[]", line):
            block.append(line)
            is_loop = re.match(r"\s+(b\.|cbn?z|tbn?z|b\w\w\s)", line)
            if is_loop and line.split()[-1] == block[0].rstrip(":"):
                most = found.get(rows, [])
                found[rows] = max(most, block, key=products)
                block = [""]
    return {rows: loop for rows, loop in sorted(found.items()) if products(loop) > 0}


def products(loop: list[str]) -> int:
    """Count multiply-adds."""
    return sum(PRODUCTS.match(line.strip()) is not None for line in loop)


Answer = tuple[float, float]


def model(mca: str, cpu: str, turns: list[list[str]]) -> list[Answer] | None:
    """Return each loop's cycles a turn and the least that its products need.

    None: the CPU lacks an instruction.
    """
    regions = [["# LLVM-MCA-BEGIN", *turn, "# LLVM-MCA-END"] for turn in turns]
    text = "\n".join(line for region in regions for line in region) + "\n"
    command = [mca, "-mtriple=aarch64", f"-mcpu={cpu}", "--json"]
    few, many = 40, 120
    answers = []
    for count in (few, many):
        run = subprocess.run(
            [*command, f"-iterations={count}"],
            input=text,
            capture_output=True,
            text=True,
            check=False,
        )
        if "instruction requires" in run.stderr:
            return None
        if run.returncode != 0:
            sys.exit(f"{shlex.join(command)}: {run.stderr}")
        answers.append(json.loads(run.stdout)["CodeRegions"])
    result = []
    for first, last in zip(*answers, strict=True):
        cycles = [r["SummaryView"]["TotalCycles"] for r in (first, last)]
        infos = last["InstructionInfoView"]["InstructionList"]
        least = sum(
            info["RThroughput"]
            for line, info in zip(last["Instructions"], infos, strict=True)
            if PRODUCTS.match(line)
        )
        result.append(((cycles[1] - cycles[0]) / (many - few), least))
    return result


def cell(cycles: float, least: float) -> str:
    """Return a cell of the table."""
    return f"{cycles:.1f} ({least / cycles:.2f})"


def section(mca: str, part: str) -> str:
    """Return the table."""
    cc = compiler()
    version = [
        subprocess.run([*c, "--version"], capture_output=True, text=True, check=True)
        for c in (cc, [mca])
    ]
    words = [re.search(r"(\S+ version \d\S*)", v.stdout) for v in version]
    names = [w[1] if w else "unknown" for w in words]
    text = HEAD.format(
        compiler=names[0],
        mca=f"llvm-mca, {names[1]}",
        cpus=" | ".join(f"`{cpu}`" for cpu in CPUS),
        rules=" | ".join("--:" for _ in CPUS),
    )
    for name in kernels():
        if part not in name:
            continue
        found = loops(assembly(cc, name))
        answers = [model(mca, cpu, list(found.values())) for cpu in CPUS]
        for i, (rows, loop) in enumerate(found.items()):
            cells = ["-" if a is None else cell(*a[i]) for a in answers]
            row = " | ".join([f"`vp_{name}`", str(rows), str(products(loop)), *cells])
            text += f"| {row} |\n"
    return text


def main() -> None:
    """Print the section, and put it into the file."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("part", nargs="?", default="", help="of the kernels' names")
    parser.add_argument("-o", "--output", type=Path, help="a Markdown file")
    args = parser.parse_args()
    names = ["llvm-mca-19", "llvm-mca-20", "llvm-mca-21", "llvm-mca"]
    mca = next((path for path in map(shutil.which, names) if path), None)
    if mca is None:
        sys.exit("no llvm-mca here, which Debian has in llvm-19")
    text = section(mca, args.part)
    if args.output:
        args.output.write_text(refresh(args.output.read_text(), text))
    print(text, end="")


if __name__ == "__main__":
    main()
