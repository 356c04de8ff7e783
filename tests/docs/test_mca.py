# SPDX-License-Identifier: Apache-2.0
"""What benchmarks/mca.py takes of a compiler's assembly for a micro-kernel's loop."""

from __future__ import annotations

import sys
from pathlib import Path

# Last, so that a build or a wheel elsewhere is not hidden by the sources.
sys.path.append(str(Path(__file__).resolve().parents[2]))

from benchmarks import mca

ASSEMBLY = """
kernel_2:
\tcbz\tx0, .LBB0_2
.LBB0_1:                                // the steady state
\tldr\tq2, [x1], #16
\t//APP
\tfmla v0.4s, v30.4s, v2.s[0]
\tfmla v1.4s, v31.4s, v2.s[0]
\t//NO_APP
\tsubs\tx0, x0, #1
\tb.ne\t.LBB0_1
\tands\tx0, x3, #0x3
\tb.eq\t.LBB0_3
.LBB0_2:                                // the tail
\tfmla v0.4s, v30.4s, v2.s[0]
\tb.ne\t.LBB0_2
.LBB0_3:
\tret
kernel_3:
.LBB1_1:                                // no product
\tstr\tq2, [x1], #16
\tcbnz\tx0, .LBB1_1
"""


def test_a_height_s_loop_is_the_one_with_most_products() -> None:
    loops = mca.loops(ASSEMBLY)
    assert list(loops) == [2]
    assert [line.split()[0] for line in loops[2]] == [
        ".LBB0_1:",
        "ldr",
        "fmla",
        "fmla",
        "subs",
        "b.ne",
    ]
    assert mca.products(loops[2]) == 2


def test_features_are_those_of_the_target() -> None:
    assert mca.features("neon", ["gcc"]) == []
    assert mca.features("neoni8mm", ["gcc"]) == ["-march=armv8.2-a+dotprod+i8mm"]
    assert mca.features("neondot", ["zig", "cc"]) == ["-mcpu=generic+v8_2a+dotprod"]


def test_every_kernel_of_arm_is_listed() -> None:
    sources = (mca.CSRC / "ukernels").glob("gemm_*__neon*.c")
    assert set(mca.kernels()) == {path.stem for path in sources}
