# SPDX-License-Identifier: Apache-2.0
"""How far apart sound results of one model are, measured, and what is allowed.

MEASURED has, by dtype and part of a model, the largest difference between two targets
and the largest to float64, over the largest number of a stage: of a model of each
family, with fresh weights and with drawn ones, on plain C, AVX2 and AVX-512. `python -m
benchmarks.tolerances` prints it. The largest are those of a norm behind each branch
(ResPostBlock), which makes a small branch large; of the other families the blocks' are
9.9e-7, and the head's, of twelve fresh blocks of ViT-Base, 1.5e-6.
"""

from __future__ import annotations

MEASURED: dict[str, dict[str, tuple[float, float]]] = {
    "float32": {
        "stem": (3.3e-7, 5.1e-7),
        "blocks": (9.2e-6, 9.5e-6),
        "norm": (1.0e-6, 8.9e-7),
        "pool": (2.1e-6, 2.0e-6),
        "head": (2.2e-6, 1.9e-6),
    },
}
# Some ten times the largest of these: trained weights may be less kind than ours.
_RTOL = {"float32": 1e-4}


def default_rtol(dtype: str = "float32") -> float:
    """The rtol of `compare`: how far a stage may be off, over its largest number.

    dtype: what the models compute in; ValueError where it has not been measured.
    """
    if dtype not in _RTOL:
        raise ValueError(f"dtype must be one of {', '.join(_RTOL)}, not {dtype!r}")
    return _RTOL[dtype]
