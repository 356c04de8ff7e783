# SPDX-License-Identifier: Apache-2.0
"""One run of the benchmarks: which engines take part, what each cell measures, and the
machine that it was on.
"""

from __future__ import annotations

import argparse
import datetime
import importlib.util
import json
import os
import platform
import re
import shlex
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

from . import report, targets
from .engines import AUTOTUNE, ENGINES, TorchCompile
from .export import DONE, FAILED, jobs
from .peak import Peak
from .pool import ROOT, Pool, WorkerError, run_module
from .specs import FAMILIES, MODELS, TOKEN_SIZES, Spec, at_size, attention_layer

# A cell whose images would take longer than this at the FMA peak is left out, unless
# --all: all engines, several rounds and two thread counts multiply it.
LONGEST = 5.0
# An output further than this from torch's, relative to its largest value, is wrong.
TOLERANCE = 1e-4


def say(text: str) -> None:
    print(text, flush=True)


def commit() -> str:
    """What `git describe` says of this tree ('+' after it: with changes), or ''."""
    command = ["git", "-C", str(ROOT), "describe", "--always", "--dirty=+"]
    try:
        done = subprocess.run(command, capture_output=True, text=True)
    except FileNotFoundError:
        return ""
    return done.stdout.strip()


def machine() -> dict[str, Any]:
    cpu = platform.processor()
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            cpu = line.split(":", 1)[1].strip()
            break
    return {
        "commit": commit(),
        "cpu": cpu,
        "cores": len(os.sched_getaffinity(0)),
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        "date": datetime.date.today().isoformat(),
        "load": os.getloadavg()[0],
    }


def told(arguments: list[str]) -> str:
    """The command line without the folders, which are this machine's matter."""
    text = shlex.join(arguments)
    return re.sub(r" ?--(cache|out)[ =]\S+", "", text).strip()


class Run:
    """One run: what is measured goes into `data`, which report.py writes out."""

    cold_starts = 5

    def __init__(self, args: argparse.Namespace, folder: Path) -> None:
        self.args, self.folder = args, folder
        self.cache = args.cache or folder
        self.written: set[tuple[str, str]] = set()  # by this run: model, job
        target = targets.TARGETS[args.target]
        self.peak = Peak(folder, target.bits, target.tiles)
        self.data: dict[str, Any] = {"machine": machine(), "skipped": [], "cells": []}
        self.data["arguments"] = told(sys.argv[1:])
        self.data["target"], self.data["best"] = args.target, args.best
        os.environ["VITPOOL_TARGET"] = args.target  # whatever it was, for all processes
        self.engines = []
        order = list(targets.TARGETS)
        for engine in args.engines:
            known = ENGINES[engine]
            lacks = [m for m in known.modules if not importlib.util.find_spec(m)]
            if lacks:
                self.skip(f"{engine}: {', '.join(lacks)} is not installed")
            elif order.index(args.target) < order.index(known.least):
                self.skip(f"{engine}: {known.below}")
            else:
                self.engines.append(engine)
        self.data["engines"] = {
            engine: {"caps": targets.caps_text(engine, args.target, args.best)}
            for engine in self.engines
        }

    def skip(self, what: str) -> None:
        say(f"  left out: {what}")
        self.data["skipped"].append(what)

    def caps(self, engine: str) -> dict[str, str]:
        """The environment that holds the engine to this run's target."""
        found = targets.caps(engine, self.args.target, self.args.best)
        if "ATEN_CPU_CAPABILITY" in found:
            # What inductor has compiled lies there by a key without that variable.
            found["TORCHINDUCTOR_CACHE_DIR"] = str(self.folder / "inductor")
        return found

    def exported(self, spec: Spec, batches: list[int]) -> Path:
        """The folder of the model's files, which are written where they are not yet."""
        files = self.cache / spec.key
        done = files / DONE
        have = done.read_text().splitlines() if done.exists() else []
        have += [job for key, job in self.written if key == spec.key]
        wanted = [job for job in jobs(self.engines, batches) if job not in have]
        if wanted or not (files / "model.safetensors").exists():
            files.mkdir(parents=True, exist_ok=True)
            start = time.monotonic()
            out = run_module("export", json.dumps(spec.to_dict()), str(files), *wanted)
            for line in out.splitlines():
                if line.startswith(FAILED):
                    self.skip(f"{spec.key}, {line.removeprefix(FAILED)}")
            self.written.update((spec.key, job) for job in wanted)
            say(f"{spec.key}: exported in {time.monotonic() - start:.0f} s")
        return files

    def compare(self, spec: Spec, threads: int, batches: list[int], part: str) -> None:
        """All engines at these batches, into `cells`."""
        allowed = []
        for batch in batches:
            ideal = spec.gflop * batch / self.peak.measure(threads, 0.2)
            if ideal > LONGEST and not self.args.all:
                what = f"{spec.key} batch {batch}, {threads} thread(s)"
                self.skip(f"{what}: over {LONGEST:.0f} s an engine; --all has it")
            else:
                allowed.append(batch)
        if not allowed:
            return
        cells = [self.taking_part(spec, batch, part) for batch in allowed]
        engines = {engine: self.caps(engine) for cell in cells for engine in cell}
        files = self.exported(spec, allowed)
        with Pool(engines, spec.to_dict(), files, threads) as pool:
            for batch in allowed:
                self.cell(pool, spec, threads, batch, part)

    def taking_part(self, spec: Spec, batch: int, part: str) -> list[str]:
        """The engines of a cell."""
        every = self.args.all or (part, spec.key, batch) == ("models", "B", 1)
        return [e for e in self.engines if every or e != AUTOTUNE]

    def cell(self, pool: Pool, spec: Spec, threads: int, batch: int, part: str) -> None:
        args = self.args
        engines = self.taking_part(spec, batch, part)
        answers = pool.prepare(engines, batch, self.folder)
        ready = [e for e in engines if "error" not in answers[e]]
        for engine in engines:
            if engine not in ready:
                what = f"{engine}, {spec.key} batch {batch}, {threads} thread(s)"
                self.skip(f"{what}: {answers[engine]['error']}")
        peak = self.peak.measure(threads, 0.2)
        times = pool.rounds(ready, args.rounds, args.seconds, args.limit)
        self.peak.measure(threads, 0.2)
        cell: dict[str, Any] = {
            "part": part,
            "model": spec.key,
            "timm": spec.timm,
            "image": spec.image,
            "tokens": spec.tokens,
            "threads": threads,
            "batch": batch,
            "gflop": spec.gflop * batch,
            "engines": {},
        }
        outputs = {e: np.load(self.folder / f"{e}.npy") for e in ready}
        name = "torch" if "torch" in ready else (ready or [""])[0]
        cell["reference"] = name
        for engine in ready:
            every = [t for row in times[engine] for t in row]
            error = float(np.abs(outputs[engine] - outputs[name]).max())
            scale = float(np.abs(outputs[name]).max())
            cell["engines"][engine] = {
                "min": min(every),
                "median": statistics.median(every),
                **report.timm_columns(every, batch),
                "rounds": times[engine],
                "difference": error,
                "relative_difference": error / scale,
                "right": error <= TOLERANCE * scale,
                "setup": answers[engine]["setup"],
                "peak_memory": answers[engine]["peak"],
                "build_seconds": answers[engine]["seconds"],
            }
            self.data["engines"][engine]["version"] = answers[engine]["version"]
        self.data["cells"].append(cell)
        say(report.cell_text(cell, peak))

    def models(self) -> None:
        for key in self.args.models:
            for threads in self.args.threads:
                self.compare(
                    (MODELS | FAMILIES)[key], threads, self.args.batches, "models"
                )

    def tokens(self) -> None:
        """ViT-S/16 whole and one attention layer, from 197 to 4,097 tokens."""
        threads = max(self.args.threads)
        for image in TOKEN_SIZES:
            self.compare(attention_layer(image), threads, [1], "attention")
            self.compare(at_size(image), threads, [1], "tokens")

    def cold(self) -> None:
        """A new process to the first logits of ViT-B: the best and median of some."""
        spec, threads = MODELS["B"], max(self.args.threads)
        files = self.exported(spec, [1])
        compiled = [e for e in self.engines if issubclass(ENGINES[e], TorchCompile)]
        engines = [e for e in self.engines if e not in compiled]
        for engine in compiled:
            self.skip(f"{engine}, cold start: its first call compiles for a while")
        found: dict[str, list[dict[str, Any]]] = {engine: [] for engine in engines}
        arguments = (json.dumps(spec.to_dict()), str(files), str(threads))
        for number in range(self.cold_starts + 1):
            for engine in engines:
                try:
                    caps = self.caps(engine)
                    out = run_module("coldstart", engine, *arguments, caps=caps)
                except WorkerError as error:
                    self.skip(f"{engine}, cold start: {error}")
                    continue
                if number:  # the first one filled the page cache
                    found[engine].append(json.loads(out.splitlines()[-1]))
        weights = (files / "model.safetensors").stat().st_size
        rows = {}
        for engine, runs in found.items():
            if runs:
                seconds = [run["seconds"] for run in runs]
                self.data["engines"][engine]["version"] = runs[0]["version"]
                rows[engine] = {
                    "min": min(seconds),
                    "median": statistics.median(seconds),
                    "peak": max(run["peak"] for run in runs),
                    "before": max(run["before"] for run in runs),
                    "resident": max(run["resident"] for run in runs),
                    "weights": sum(
                        (files / name).stat().st_size for name in ENGINES[engine].reads
                    ),
                }
        self.data["cold"] = {"weights": weights, "threads": threads, "engines": rows}
        say(report.cold_text(self.data["cold"]))

    def overhead(self) -> None:
        out = run_module("overhead", caps=self.caps("vitpool"))
        self.data["overhead"] = json.loads(out)
        say(report.overhead_text(self.data["overhead"]))
