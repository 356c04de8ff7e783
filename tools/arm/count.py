# SPDX-License-Identifier: Apache-2.0
"""How many instructions a forward pass of ViT-B/16 takes on arm64, by function.

    python tools/arm/count.py [--qemu QEMU] [--cpu CPU] PROGRAM

PROGRAM is benchmarks/forward.c, built for arm64. It runs under qemu-user with a plugin
that counts, count_plugin.c beside this: on BLIS's micro-kernel with portable vectors
(VITPOOL_TARGET=baseline VITPOOL_UKR=blis) and on NEON. It runs a model of one block and
one of two: twelve blocks are the first, and eleven times what the second has more. A
count is no time, but it does not depend on the machine either.

QEMU must have plugins, as Debian's qemu-user has and qemu-user-static has not.
QEMU_LD_PREFIX says where arm64's libraries lie. Needs a C compiler for this machine
(HOST_CC, else cc).
"""

from __future__ import annotations

import argparse
import os
import shlex
import subprocess
import sys
import tempfile
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

PLUGIN = Path(__file__).with_name("count_plugin.c")
DEPTH = 12
VARIANTS = {
    "BLIS's kernel, portable vectors": {
        "VITPOOL_TARGET": "baseline",
        "VITPOOL_UKR": "blis",
    },
    "neon": {"VITPOOL_TARGET": "neon", "VITPOOL_UKR": ""},
}
# Functions that have at least this part of a pass are listed.
LISTED = 0.001


@dataclass
class Pass:
    """What ran: instructions, and multiply-adds of four floats, by function."""

    instructions: Counter[str] = field(default_factory=Counter)
    multiplies: Counter[str] = field(default_factory=Counter)

    def plus(self, other: Pass, times: int) -> Pass:
        """Return this and `times` the other."""
        result = Pass(Counter(self.instructions), Counter(self.multiplies))
        for mine, its in (
            (result.instructions, other.instructions),
            (result.multiplies, other.multiplies),
        ):
            for name, count in its.items():
                mine[name] += times * count
        return result


def compile_plugin(folder: str) -> Path:
    """Compile the plugin for this machine."""
    out = Path(folder, "count_plugin.so")
    compiler = shlex.split(os.environ.get("HOST_CC", "cc"))
    command = [*compiler, "-O2", "-shared", "-fPIC", "-o", str(out), str(PLUGIN)]
    subprocess.run(command, check=True)
    return out


def read_passes(text: str) -> list[Pass]:
    """Return what ran before each mark of the plugin's output."""
    passes: list[Pass] = []
    for line in text.splitlines():
        if line == "mark":
            passes.append(Pass())
        elif passes:
            instructions, multiplies, name = line.split(" ", 2)
            passes[-1].instructions[name] += int(instructions)
            passes[-1].multiplies[name] += int(multiplies)
    return passes


def twelve_blocks(passes: list[Pass]) -> Pass:
    """Return a pass of twelve blocks; passes: loading, one block, loading, two."""
    if len(passes) != 4:
        sys.exit(f"the program made {len(passes)} marks, not 4")
    one, two = passes[1], passes[3]
    return one.plus(two, DEPTH - 1).plus(one, 1 - DEPTH)


def count(
    args: argparse.Namespace, plugin: Path, env: dict[str, str]
) -> tuple[str, Pass]:
    """Run the program; return which micro-kernel it took, and its pass."""
    command = [args.qemu, "-cpu", args.cpu, "-d", "plugin", "-D", os.devnull]
    command += ["-plugin", str(plugin), args.program]
    done = subprocess.run(
        command, env={**os.environ, **env}, capture_output=True, text=True
    )
    if done.returncode != 0:
        sys.exit(f"{shlex.join(command)}: {done.returncode}\n{done.stderr[-2000:]}")
    return done.stdout.strip(), twelve_blocks(read_passes(done.stderr))


def table(name: str, kernel: str, what: Pass) -> str:
    """Return a variant's functions, the largest first, in Markdown."""
    total = what.instructions.total()
    lines = [
        f"{name}: `{kernel}`",
        "",
        "| function | instructions, millions | of all | multiply-adds |",
        "| --- | --: | --: | --: |",
    ]
    rest = 0
    for function, n in what.instructions.most_common():
        if n < LISTED * total:
            rest += n
            continue
        adds = what.multiplies[function] / n
        lines.append(
            f"| `{function}` | {n / 1e6:,.1f} | {n / total:.1%} | {adds:.1%} |"
        )
    adds = what.multiplies.total() / total
    lines.append(f"| others | {rest / 1e6:,.1f} | {rest / total:.1%} | |")
    lines.append(f"| all | {total / 1e6:,.1f} | | {adds:.1%} |")
    return "\n".join(lines)


def main() -> None:
    """Count and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("program")
    parser.add_argument("--qemu", default=os.environ.get("QEMU", "qemu-aarch64"))
    parser.add_argument("--cpu", default="neoverse-n1")
    args = parser.parse_args()
    totals = []
    with tempfile.TemporaryDirectory() as folder:
        plugin = compile_plugin(folder)
        for name, env in VARIANTS.items():
            kernel, what = count(args, plugin, env)
            print(table(name, kernel, what), end="\n\n", flush=True)
            totals.append(what)
    other, ours = (what.instructions.total() for what in totals)
    least = totals[-1].multiplies.total() / other
    print(
        f"neon takes {ours / other:.3f} of the instructions of {next(iter(VARIANTS))};"
    )
    print(f"its multiply-adds alone are {least:.3f} of them.")


if __name__ == "__main__":
    main()
