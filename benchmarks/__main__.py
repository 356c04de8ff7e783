# SPDX-License-Identifier: Apache-2.0
"""`python -m benchmarks`: vitpool beside its peers, on this machine. See README.md."""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from pathlib import Path

from . import kinds, precision, precision_report, targets
from .engines import DTYPES, ENGINES
from .pool import WorkerError
from .run import Run, say
from .specs import FAMILIES, MODELS

PARTS = ("models", "tokens", "cold", "overhead")
FLOAT32 = "float32"


def parse(argv: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    add = parser.add_argument
    add("--quick", action="store_true", help="B and Ti, batch 1: some minutes")
    add("--dtype", choices=DTYPES, default=FLOAT32, help="float32, or what is lower")
    add("--target", metavar="T", help="hold all to this target (default: the CPU's)")
    add("--families", action="store_true", help=f"these models: {[*FAMILIES]}")
    add("--models", nargs="+", choices=[*MODELS, *FAMILIES], metavar="M", help="some")
    add("--batches", nargs="+", type=int, metavar="N", help="default 1 8 32")
    add("--threads", nargs="+", type=int, metavar="N", help="default 1 2")
    add("--engines", nargs="+", choices=ENGINES, metavar="E", help=f"{[*ENGINES]}")
    add("--rounds", type=int, help="default 10, and 4 in the quick form")
    add("--seconds", type=float, default=0.3, help="for an engine in a round (0.3)")
    add("--limit", type=float, help="no new round of a cell after so many seconds (15)")
    every = dict.fromkeys((*PARTS, *precision.PARTS))
    add("--only", nargs="+", choices=every, help="these parts of the full form alone")
    add("--overhead", action="store_true", help="the same as --only overhead")
    add("--all", action="store_true", help="also the cells that take minutes each")
    add("--cache", type=Path, help="folder of the exported files (default: temporary)")
    add("--chart", action="store_true", help="measure nothing: draw what --out has")
    add("--out", type=Path, default=kinds.RESULTS, help="folder of what is written")
    args = parser.parse_args(argv)
    quick, low = args.quick, args.dtype != FLOAT32
    if args.families and (quick or low or args.models):
        parser.error("--families is a run of its own: no --quick, --dtype or --models")
    if args.overhead:
        args.only = ["overhead"]
    short = quick or args.families
    parts = precision.PARTS if low else ("models",) if short else PARTS
    args.parts = args.only or list(parts)
    strange = set(args.parts) - set(precision.PARTS if low else PARTS)
    if strange:
        parser.error(f"--dtype {args.dtype} has no part {', '.join(sorted(strange))}")
    every_model = [*FAMILIES] if args.families else [*MODELS]
    args.models = args.models or (
        ["B"] if low else ["B", "Ti"] if quick else every_model
    )
    args.batches = args.batches or ([1] if quick else [1, 8] if low else [1, 8, 32])
    args.threads = args.threads or [1, 2]
    args.rounds = args.rounds or (4 if quick else 6 if low else 10)
    args.limit = args.limit or (5.0 if quick else 15.0)
    args.engines = args.engines or (
        precision.engines_of(args.dtype) if low else DTYPES[FLOAT32]
    )
    for name in ("batches", "threads"):
        if min(getattr(args, name)) < 1:
            parser.error(f"--{name} must be at least 1, got {getattr(args, name)}")
    if args.rounds < 1:
        parser.error(f"--rounds must be at least 1, got {args.rounds}")
    import vitpool

    try:
        args.target, args.best = targets.choose(
            args.target, vitpool.show_config(), float32=not low
        )
    except ValueError as error:
        parser.error(str(error))
    return args


def main() -> int:
    args = parse()
    if args.chart:
        for path in kinds.refresh(args.out):
            say(str(path))
        for name, data in precision_report.load(args.out).items():
            for path in precision_report.write(data, args.out, name):
                say(str(path))
        return 0
    start = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="vitpool-bench-") as folder:
        kind = Run if args.dtype == FLOAT32 else precision.LowRun
        run = kind(args, Path(folder))
        for part in args.parts:
            try:
                getattr(run, part)()
            except WorkerError as error:
                run.skip(f"{part}: {error}")
        for threads in args.threads:
            run.peak.measure(threads)
        peak = {str(threads): rate for threads, rate in run.peak.best.items()}
        run.data["peak"] = {
            "gflops": peak,
            "by": run.peak.source,
            "bits": run.peak.bits,
            "tiles": {str(n): rate for n, rate in run.peak.tiles.items() if rate},
        }
    run.data["minutes"] = (time.monotonic() - start) / 60
    if args.dtype != FLOAT32:
        name = f"{args.dtype}.{'quick' if args.quick else args.target}"
        for path in precision_report.write(run.data, args.out, name):
            say(str(path))
        return 0
    name = "overhead" if args.overhead else "quick" if args.quick else args.target
    name = kinds.OTHER_CLASSES + args.target if args.families else name
    paths = kinds.write(run.data, args.out, name)
    paths += kinds.refresh(args.out) if name == args.target else []
    for path in dict.fromkeys(paths):
        say(str(path))
    wrong = [
        f"{engine} on {cell['model']} batch {cell['batch']}"
        for cell in run.data["cells"]
        for engine, row in cell["engines"].items()
        if not row["right"]
    ]
    if wrong:
        say("outputs differ by more than they may: " + "; ".join(wrong))
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
