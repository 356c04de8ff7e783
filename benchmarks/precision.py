# SPDX-License-Identifier: Apache-2.0
"""`python -m benchmarks --dtype bfloat16 | int8`: speed with its error.

The same machinery as for float32: a process for each engine, rounds in turn. What is
added is each engine's error against torch's float32: on the pictures of each cell, and
on a real DINOv2 with photographs, by which a faster peer counts or does not.
"""

from __future__ import annotations

import argparse
import statistics
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from . import photographs, precision_report
from .engines import DTYPES
from .pool import Pool, WorkerError
from .run import Run, say
from .specs import Spec, real

REFERENCE = "torch"
OURS = "vitpool"
PARTS = ("accuracy", "models", "cold")


def distance(got: NDArray[np.float32], want: NDArray[np.float32]) -> dict[str, float]:
    """How far outputs (N, K) are from float32's.

    relative_error: the norm of the difference over that of `want`, all pictures
    together; worst and mean cosine of a picture's output with its own. What is not
    finite has an infinite error and a cosine of -1.
    """
    if not np.isfinite(got).all():
        return {"relative_error": float("inf"), "worst": -1.0, "mean": -1.0}
    a, b = (array.reshape(len(array), -1).astype(np.float64) for array in (got, want))
    norms = np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1)
    cosines = (a * b).sum(1) / np.where(norms > 0, norms, 1)
    return {
        "relative_error": float(np.linalg.norm(a - b) / np.linalg.norm(b)),
        "worst": float(cosines.min()),
        "mean": float(cosines.mean()),
    }


class LowRun(Run):
    """A run of the engines of one low dtype, and of our float32 beside them."""

    cold_starts = 3

    def __init__(self, args: argparse.Namespace, folder: Path) -> None:
        try:
            photographs.opened()
        except ImportError as error:
            raise SystemExit(f"--dtype {args.dtype}: {error}") from None
        super().__init__(args, folder)
        self.data["dtype"] = args.dtype
        self.data["photographs"] = len(photographs.paths())

    def asked(self) -> list[str]:
        """The engines that are prepared: those timed, and the reference."""
        return list(dict.fromkeys([*self.engines, REFERENCE]))

    def pictures(self, image: int, batch: int | None) -> str:
        """A file of photographs, of which static scales were calibrated."""
        path = self.folder / f"pictures_{image}_{batch}.npy"
        if not path.exists():
            np.save(path, photographs.whole(image, batch))
        return str(path)

    def outputs(
        self, pool: Pool, spec: Spec, batch: int | None, threads: int
    ) -> tuple[dict[str, dict[str, Any]], dict[str, dict[str, float]]]:
        """Each engine's answer to `prepare`, and the distances of those that can."""
        file = self.pictures(spec.image, batch)
        size = len(np.load(file, mmap_mode="r"))
        answers = pool.prepare(list(pool.workers), size, self.folder, file)
        for engine, answer in answers.items():
            if "error" in answer:
                what = f"{engine}, {spec.key} batch {size}, {threads} thread(s)"
                self.skip(f"{what}: {answer['error']}")
        if "error" in answers[REFERENCE]:
            raise WorkerError("no errors without torch's float32, so nothing is timed")
        want = np.load(self.folder / f"{REFERENCE}.npy")
        found = {
            engine: distance(np.load(self.folder / f"{engine}.npy"), want)
            for engine, answer in answers.items()
            if "error" not in answer and engine in self.engines
        }
        for engine in found:
            self.data["engines"][engine]["version"] = answers[engine]["version"]
        return answers, found

    def accuracy(self) -> None:
        """The pooled features of a real DINOv2 ViT-S/14, on every photograph."""
        spec, threads = real(), max(self.args.threads)
        batch = len(photographs.paths())
        files = self.exported(spec, [batch])
        engines = {engine: self.caps(engine) for engine in self.asked()}
        with Pool(engines, spec.to_dict(), files, threads) as pool:
            _, found = self.outputs(pool, spec, None, threads)
        self.data["accuracy"] = {
            "model": spec.timm,
            "image": spec.image,
            "pictures": batch,
            "engines": found,
        }
        say(precision_report.accuracy_table(self.data["accuracy"]))

    def taking_part(self, spec: Spec, batch: int, part: str) -> list[str]:
        return self.asked()

    def cell(self, pool: Pool, spec: Spec, threads: int, batch: int, part: str) -> None:
        args = self.args
        answers, found = self.outputs(pool, spec, batch, threads)
        ready = list(found)
        if not ready:  # each of them has been named under "Left out"
            return
        self.peak.measure(threads, 0.2)
        times = pool.rounds(ready, args.rounds, args.seconds, args.limit)
        self.peak.measure(threads, 0.2)
        cell: dict[str, Any] = {
            "part": part,
            "model": spec.key,
            "timm": spec.timm,
            "image": spec.image,
            "threads": threads,
            "batch": batch,
            "gflop": spec.gflop * batch,
            "engines": {},
        }
        for engine in ready:
            every = [t for row in times[engine] for t in row]
            cell["engines"][engine] = {
                "min": min(every),
                "median": statistics.median(every),
                "rounds": times[engine],
                **found[engine],
                "setup": answers[engine]["setup"],
                "build_seconds": answers[engine]["seconds"],
            }
        self.data["cells"].append(cell)
        say(precision_report.cell_text(self.data, cell))


def engines_of(dtype: str) -> list[str]:
    """Our float32, then what takes part in a dtype."""
    return [OURS, *DTYPES[dtype]]
