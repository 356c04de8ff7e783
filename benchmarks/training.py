# SPDX-License-Identifier: Apache-2.0
"""A step of training beside torch eager and torch.compile: time and peak memory.

    python -m benchmarks.training [--models Ti S B] [--batches 8] [--threads 1 2]
                                  [--parts head pool "last 2" all "all, map"] [--quick]

timm's ViTs with 100 classes, the same random weights, pictures and labels for each;
cross-entropy and AdamW. The pool is timm's own, the class token; `map` where the pool
trains and in `all, map`. `head` and `pool` train on features that are
there already, as anyone trains them; `extract` is the time of computing those features.
`last 2` and `all` begin at the pictures.

Each engine has a fresh process for each row, kept alive while the rounds interleave, so
that its peak memory (VmHWM) is that row's: interpreter, libraries, model and step. What
torch.compile takes to compile is in its memory, and not in its time. Writes
training.KIND.json and training.KIND.md beside the other results.
"""

from __future__ import annotations

import argparse
import itertools
import json
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

from . import kinds, targets
from .peak import Peak
from .pool import Pool, WorkerError, run_module
from .report import milli
from .run import machine, say, told
from .specs import MODELS
from .training_worker import ENGINES

EXTRACT = "extract"
PARTS = (EXTRACT, "head", "pool", "last 2", "all", "all, map")
POOLS = {"": {"num_classes": 100}, "map": {"num_classes": 100, "global_pool": "map"}}
# Losses of the first step that are further apart than this, relatively, are wrong.
TOLERANCE = 1e-4
LONGEST = 30.0  # seconds of a step at the peak, beyond which a row is left out


def parse(argv: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.training", description=__doc__.split("\n")[0]
    )
    add = parser.add_argument
    add("--models", nargs="+", choices=list(MODELS), default=["Ti", "S", "B"])
    add("--parts", nargs="+", choices=PARTS, default=list(PARTS), metavar="P")
    add("--batches", nargs="+", type=int, default=[8], metavar="N")
    add("--threads", nargs="+", type=int, default=[1, 2], metavar="N")
    add("--engines", nargs="+", choices=list(ENGINES), default=list(ENGINES))
    add("--rounds", type=int, default=6, help="of each row (6)")
    add("--seconds", type=float, default=0.5, help="for an engine in a round (0.5)")
    add("--limit", type=float, default=40.0, help="no new round after so many seconds")
    add("--all", action="store_true", help="also the rows that take minutes each")
    add("--quick", action="store_true", help="ViT-Ti, batch 2, two rounds: to try it")
    add("--out", type=Path, default=kinds.RESULTS, help="folder of what is written")
    args = parser.parse_args(argv)
    if args.quick:
        args.models, args.batches, args.rounds, args.seconds = ["Ti"], [2], 2, 0.1
    for name in ("batches", "threads"):
        if min(getattr(args, name)) < 1:
            parser.error(f"--{name} must be at least 1, got {getattr(args, name)}")
    if args.rounds < 1:
        parser.error(f"--rounds must be at least 1, got {args.rounds}")
    return args


def operations(spec: dict[str, Any], part: str, batch: int) -> float:
    """GFLOP of a step, nearly: a gradient costs its forward pass twice."""
    whole = spec["gflop"] * batch
    if part in ("head", "pool"):
        return whole / spec["depth"] / 2
    shares = {EXTRACT: 1.0, "last 2": 1 + 4 / spec["depth"]}
    return whole * shares.get(part, 3.0)


def row(
    spec: dict[str, Any],
    files: Path,
    folder: Path,
    threads: int,
    batch: int,
    args: argparse.Namespace,
) -> dict[str, Any]:
    """One row of a table: each engine's times, peak memory and first loss."""
    found: dict[str, Any] = {
        "model": spec["timm"],
        "part": spec["part"],
        "batch": batch,
        "threads": threads,
        "engines": {},
        "failed": {},
    }
    engines: dict[str, dict[str, str]] = {engine: {} for engine in args.engines}
    with Pool(engines, spec, files, threads, "training_worker") as pool:
        answers = pool.prepare(list(engines), batch, folder)
        ready = [engine for engine in engines if "error" not in answers[engine]]
        found["failed"] = {
            engine: answers[engine]["error"]
            for engine in engines
            if engine not in ready
        }
        if not ready:
            return found
        times = pool.rounds(ready, args.rounds, args.seconds, args.limit)
        outputs = {engine: np.load(folder / f"{engine}.npy") for engine in ready}
        first = outputs["torch" if "torch" in ready else ready[0]]
        for engine in ready:
            every = [t for times_of in times[engine] for t in times_of]
            error = float(np.abs(outputs[engine] - first).max())
            found["engines"][engine] = {
                "min": min(every),
                "median": statistics.median(every),
                "peak": pool.workers[engine].tell(do="memory")["peak"],
                "right": error <= TOLERANCE * float(np.abs(first).max()),
                "build_seconds": answers[engine]["seconds"],
                "version": answers[engine]["version"],
                "setup": answers[engine]["setup"],
                "rounds": times[engine],
            }
    return found


def share(found: dict[str, Any], key: str, peer: str) -> str:
    """vitpool's number over the peer's; a wrong or missing one has none."""
    pair = [found["engines"].get(engine) for engine in ("vitpool", peer)]
    if not all(one and one["right"] for one in pair):
        return "–"
    return f"{pair[0][key] / pair[1][key]:.2f}"


def table(rows: list[dict[str, Any]]) -> str:
    """Minimum / median in ms and peak MB of each engine, then the ratios."""
    peers = [engine for engine in ENGINES if engine != "vitpool"]
    head = ["model", "batch", "trains"]
    head += [f"{engine}, ms" for engine in ENGINES]
    head += [f"time over {peer}" for peer in peers]
    head += [f"{engine}, MB" for engine in ENGINES]
    head += [f"memory over {peer}" for peer in peers]
    lines = ["| " + " | ".join(head) + " |"]
    lines.append("| --- | ---: | ---" + " | ---:" * (len(head) - 3) + " |")
    for found in rows:
        cells = [found["model"], str(found["batch"]), found["part"]]
        have = found["engines"]
        for engine in ENGINES:
            one = have.get(engine)
            text = f"{milli(one['min'])} / {milli(one['median'])}" if one else "–"
            cells.append(text + (" wrong" if one and not one["right"] else ""))
        cells += [f"**{share(found, 'min', peer)}**" for peer in peers]
        for engine in ENGINES:
            one = have.get(engine)
            cells.append(f"{one['peak'] / 1e6:.0f}" if one else "–")
        cells += [share(found, "peak", peer) for peer in peers]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def markdown(data: dict[str, Any]) -> str:
    """The page of a run."""
    about, rows = data["machine"], data["rows"]
    versions = {
        engine: f"{engine} {one['version']} ({one['setup']})"
        for found in rows
        for engine, one in found["engines"].items()
    }
    lines = [
        f"# A step of training: {targets.title(data)}",
        "",
        f"`python -m benchmarks.training {data['arguments']}`".replace(" `", "`"),
        "",
        f"- {about['cpu']}, {about['cores']} cores, {about['system']}, "
        f"Python {about['python']}, {about['date']}, commit {about['commit']}; "
        f"load at the start {about['load']:.1f}",
        f"- {', '.join(versions.values())}",
        "- timm's models with 100 classes and random weights, pooled by the class "
        "token; by map where the pool trains and in `all, map`",
        "- cross-entropy, AdamW, float32",
        "- ms: minimum / median of a step. MB: VmHWM of a process for that alone",
        "- head, pool: a step on features that are there; extract: forward_features, "
        "which gives them; last 2, all: a step on pictures",
        "",
    ]
    for threads in sorted({found["threads"] for found in rows}):
        lines += [f"## {threads} thread{'s' * (threads > 1)}", ""]
        lines += [table([f for f in rows if f["threads"] == threads]), ""]
    if data["skipped"]:
        lines += ["## Left out", "", *(f"- {what}" for what in data["skipped"]), ""]
    return "\n".join(lines)


def write(data: dict[str, Any], folder: Path, kind: str) -> Path:
    """JSON and Markdown of one run; the page's path."""
    folder.mkdir(parents=True, exist_ok=True)
    numbers = folder / f"training.{kind}.json"
    numbers.write_text(json.dumps(data, indent=1) + "\n")
    page = folder / f"training.{kind}.md"
    page.write_text(markdown(data))
    return page


def main() -> int:
    import vitpool

    args = parse()
    target, best = targets.choose(None, vitpool.show_config())
    data: dict[str, Any] = {"machine": machine(), "rows": [], "skipped": []}
    data |= {"arguments": told(sys.argv[1:]), "target": target, "best": best}
    start = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="vitpool-training-") as name:
        folder = Path(name)
        peak = Peak(folder, targets.TARGETS[target].bits, targets.TARGETS[target].tiles)
        for key in args.models:
            model = MODELS[key]
            specs = {}
            for pool, options in POOLS.items():
                specs[pool] = model.to_dict() | {"options": options}
                specs[pool]["gflop"] = model.gflop
                (folder / key / pool).mkdir(parents=True, exist_ok=True)
                run_module("export", json.dumps(specs[pool]), str(folder / key / pool))
            rates = {n: peak.measure(n, 0.2) for n in args.threads}
            for cell in itertools.product(args.threads, args.batches, args.parts):
                threads, batch, part = cell
                pool = "map" if part in ("pool", "all, map") else ""
                spec, files = specs[pool], folder / key / pool
                what = f"{key}, {part}, batch {batch}, {threads} thread(s)"
                long = operations(spec, part, batch) / rates[threads] > LONGEST
                if long and not args.all:
                    data["skipped"].append(f"{what}: --all has it")
                    continue
                whole = spec | {"part": part}
                try:
                    found = row(whole, files, folder, threads, batch, args)
                except WorkerError as error:
                    data["skipped"].append(f"{what}: {error}")
                    continue
                failed = found["failed"].items()
                data["skipped"] += [f"{e}, {what}: {why}" for e, why in failed]
                data["rows"].append(found)
                say(f"{what}\n{table([found])}")
    data["minutes"] = (time.monotonic() - start) / 60
    say(str(write(data, args.out, "quick" if args.quick else target)))
    wrong = [f for f in data["rows"] for e in f["engines"].values() if not e["right"]]
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
