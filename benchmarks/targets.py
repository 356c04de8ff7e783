# SPDX-License-Identifier: Apache-2.0
"""What each of vitpool's targets is to the others: how wide its vectors are, and the
environment variables by which a library is held to it on a better CPU.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from .engines import ENGINES


@dataclass(frozen=True)
class Target:
    """label as people write it; bits of a vector of the peak's multiply-adds; tiles:
    whether the peak of AMX's tiles is measured too; what each switch is set to;
    float32: whether it brings anything to products of float32.
    """

    label: str
    bits: int
    switches: dict[str, str]
    tiles: bool = False
    float32: bool = True


def _target(
    name: str,
    label: str,
    bits: int,
    onednn: str,
    aten: str,
    mkl: str,
    float32: bool = True,
) -> Target:
    switches = {
        "VITPOOL_TARGET": name,
        "ONEDNN_MAX_CPU_ISA": onednn,
        "ATEN_CPU_CAPABILITY": aten,
        "MKL_ENABLE_INSTRUCTIONS": mkl,
    }
    return Target(label, bits, switches, tiles=name == "amx", float32=float32)


# By the names of csrc/base/targets.h, in its order, which a test holds against it.
TARGETS = {
    "baseline": _target(
        *("baseline", "Baseline", 128), onednn="SSE41", aten="default", mkl="SSE4_2"
    ),
    "avx2": _target("avx2", "AVX2", 256, onednn="AVX2", aten="avx2", mkl="AVX2"),
    "avxvnni": _target(
        *("avxvnni", "AVX-VNNI", 256),
        onednn="AVX2_VNNI",
        aten="avx2",
        mkl="AVX2",
        float32=False,
    ),
    "avx512": _target(
        *("avx512", "AVX-512", 512), onednn="AVX512_CORE", aten="avx512", mkl="AVX512"
    ),
    "avx512vnni": _target(
        *("avx512vnni", "AVX-512 VNNI", 512),
        onednn="AVX512_CORE_VNNI",
        aten="avx512",
        mkl="AVX512",
        float32=False,
    ),
    "avx512bf16": _target(
        *("avx512bf16", "AVX-512 BF16", 512),
        onednn="AVX512_CORE_BF16",
        aten="avx512",
        mkl="AVX512",
        float32=False,
    ),
    "amx": _target(
        *("amx", "AMX", 512), onednn="AVX512_CORE_AMX", aten="avx512", mkl="AVX512"
    ),
}


def choose(
    name: str | None, config: dict[str, Any], float32: bool = True
) -> tuple[str, str]:
    """The target of this run and the best that the CPU has, by vitpool.show_config().

    None stands for the target in use. float32: among those that differ in float32, so
    that its results have one name on CPUs which are one to it. ValueError for one that
    the CPU lacks.
    """
    here = [t for t in config["targets"] if TARGETS[t].float32 or not float32]
    order = list(TARGETS)
    least = order.index(config["target"])
    name = name or [t for t in here if order.index(t) <= least][-1]
    if name not in here:
        raise ValueError(
            f"--target must be one that this CPU has, {', '.join(here)}, not {name!r}"
        )
    return name, here[-1]


def caps(engine: str, target: str, best: str) -> dict[str, str]:
    """The environment that holds an engine to the target; empty at the CPU's best."""
    if target == best:
        return {}
    values = TARGETS[target].switches
    return {name: values[name] for name in ENGINES[engine].switches}


def caps_text(engine: str, target: str, best: str) -> str:
    """The same in words: 'capped by ...', 'not capped: ...'; '' at the CPU's best."""
    if target == best:
        return ""
    found = ", ".join(f"{k}={v}" for k, v in caps(engine, target, best).items())
    words = [f"capped by {found}" if found else "", ENGINES[engine].reach]
    return "; ".join(filter(None, words))


def title(data: dict[str, Any]) -> str:
    """The kind of CPU that a run's results are of."""
    label = TARGETS[data["target"]].label
    if data["target"] == data["best"]:
        return label
    return f"{label} forced on a CPU with {TARGETS[data['best']].label}"
