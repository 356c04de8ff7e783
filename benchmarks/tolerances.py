# SPDX-License-Identifier: Apache-2.0
"""`python -m benchmarks.tolerances`: how far sound results of one model are apart.

A model of each family runs on each target of this machine, in a process of its own. For
the parts of a model the table has the largest difference between two targets, and that
between a target and float64, over the largest number of the stage: what
vitpool/testing/tolerances.py keeps, whose default tolerance is a margin over it.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np

import vitpool
from vitpool.checkpoint.drawn import drawn
from vitpool.model.tables import text_table
from vitpool.testing import images
from vitpool.testing.comparison.exact import ExactVit
from vitpool.testing.comparison.measure import distance, short
from vitpool.testing.comparison.ours import Ours

ROOT = Path(__file__).resolve().parents[1]
# Of each family one, as it is or with less of what is the same throughout.
MODELS: dict[str, dict[str, Any]] = {
    "vit_tiny_patch16_224": {},
    "vit_base_patch16_224": {},
    "vit_small_patch16_36x1_224": {},
    "vit_small_patch16_18x2_224": {},
    "vit_base_patch16_rpn_224": {},
    "vit_base_patch32_clip_quickgelu_224": {},
    "vit_base_patch16_siglip_224": {"depth": 4},
    "vit_small_patch14_reg4_dinov2": {"img_size": 224},
    "vit_giant_patch14_dinov2": {"img_size": 98, "depth": 4},
    "aimv2_large_patch14_224": {"depth": 4},
    "beit3_base_patch16_224": {"depth": 4},
}
WEIGHTS = ("fresh", "drawn")
PARTS = ("stem", "blocks", "norm", "pool", "head")


def part_of(stage: str) -> str:
    """The part of a model that a stage belongs to."""
    if stage.startswith("blocks."):
        return "blocks"
    return {"norm": "norm", "pool": "pool", "fc_norm": "pool", "head": "head"}.get(
        stage, "stem"
    )


def side_of(name: str, weights: str) -> Ours:
    """The model that is measured, with weights from a seed."""
    side = Ours(vitpool.create_model(name, seed=1, **MODELS[name]))
    if weights == "drawn":
        shapes = side.model.param_shapes().items()
        side.model.load_state_dict({key: drawn(key, shape) for key, shape in shapes})
    return side


def stages_on(target: str, name: str, weights: str, folder: Path) -> Any:
    """The stages of a model on a target, by name."""
    file = folder / f"{target}.npz"
    subprocess.run(
        [sys.executable, "-m", "benchmarks.tolerances", "--write", name, weights, file],
        env=os.environ | {"VITPOOL_TARGET": target},
        cwd=ROOT,
        check=True,
    )
    return np.load(file)


def measured(name: str, weights: str) -> Iterator[tuple[str, str, float]]:
    """(part, 'targets' or 'float64', largest relative difference) of each stage."""
    with tempfile.TemporaryDirectory() as folder:
        targets = vitpool.show_config()["targets"]
        stored = [stages_on(t, name, weights, Path(folder)) for t in targets]
        side = side_of(name, weights)
        for stage, exact in ExactVit(side.model).stages(images(side)):
            outputs = [arrays[stage] for arrays in stored]
            scale = float(np.abs(exact).max())
            for one, other in combinations(outputs, 2):
                off = distance(one, other).largest
                yield part_of(stage), "targets", off / scale
            for output in outputs:
                off = distance(exact, output).largest
                yield part_of(stage), "float64", off / scale


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("models", nargs="*", default=[*MODELS], metavar="MODEL")
    parser.add_argument("--write", nargs=3, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.write:
        name, weights, file = args.write
        side = side_of(name, weights)
        np.savez(file, **dict(side.stages(images(side))))
        return
    total: dict[tuple[str, str], float] = {}
    rows = []
    for name in args.models:
        for weights in WEIGHTS:
            largest: dict[tuple[str, str], float] = {}
            for part, kind, off in measured(name, weights):
                for found in (largest, total):
                    found[part, kind] = max(found.get((part, kind), 0.0), off)
            for kind in ("targets", "float64"):
                cells = (short(largest.get((part, kind), np.nan)) for part in PARTS)
                rows.append((name, weights, kind, *cells))
            print(f"{name}, {weights}", file=sys.stderr, flush=True)
    print(" ".join(vitpool.show_config()["targets"]))
    for kind in ("targets", "float64"):
        cells = (short(total.get((part, kind), np.nan)) for part in PARTS)
        rows.append(("all", "", kind, *cells))
    print(text_table(("model", "weights", "to", *PARTS), rows, total=False))


if __name__ == "__main__":
    main()
