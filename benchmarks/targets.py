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
    whether the peak of AMX's tiles is measured too; what each switch is set to.
    """

    label: str
    bits: int
    switches: dict[str, str]
    tiles: bool = False


def _target(
    name: str, label: str, bits: int, onednn: str, aten: str, mkl: str
) -> Target:
    switches = {
        "VITPOOL_TARGET": name,
        "ONEDNN_MAX_CPU_ISA": onednn,
        "ATEN_CPU_CAPABILITY": aten,
        "MKL_ENABLE_INSTRUCTIONS": mkl,
    }
    return Target(label, bits, switches, tiles=name == "amx")


# By the names of csrc/base/targets.h, in its order, which a test holds against it.
TARGETS = {
    "baseline": _target(
        *("baseline", "Baseline", 128), onednn="SSE41", aten="default", mkl="SSE4_2"
    ),
    "avx2": _target("avx2", "AVX2", 256, onednn="AVX2", aten="avx2", mkl="AVX2"),
    "avx512": _target(
        *("avx512", "AVX-512", 512), onednn="AVX512_CORE", aten="avx512", mkl="AVX512"
    ),
    "amx": _target(
        *("amx", "AMX", 512), onednn="AVX512_CORE_AMX", aten="avx512", mkl="AVX512"
    ),
}


def choose(name: str | None, config: dict[str, Any]) -> tuple[str, str]:
    """The target of this run and the best that the CPU has, by vitpool.show_config().

    None stands for the target in use. ValueError for one that the CPU lacks.
    """
    here = config["targets"]
    name = name or config["target"]
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
