# SPDX-License-Identifier: Apache-2.0
"""What more threads give, whole and operation by operation. vitpool alone.

    python -m benchmarks.scaling [--threads 1 2 4] [--batches 1 32] [--models Ti B]

Prints Markdown. Needs NumPy alone, and for the peak a C compiler. For each model and
batch: milliseconds of a forward, the speed-up over the fewest threads, and the share of
so many times one thread's multiply-add peak; then the speed-up of each operation, by
vitpool's own profile. The numbers of threads take turns, and the best of each counts.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

from .peak import Peak
from .report import milli
from .specs import MODELS, Spec
from .targets import TARGETS
from .worker import pictures

# A forward that takes longer than this is its own warm-up.
LONG = 1.0


def parse(argv: list[str] | None = None) -> argparse.Namespace:
    import vitpool

    cpus = vitpool.show_config()["cpus"]
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.scaling", description=__doc__.split("\n")[0]
    )
    add = parser.add_argument
    add("--models", nargs="+", choices=list(MODELS), default=["Ti", "B"], metavar="M")
    add("--batches", nargs="+", type=int, default=[1, 32], metavar="N")
    add("--threads", nargs="+", type=int, metavar="N", help="default 1 2 4 8 16 ...")
    add("--seconds", type=float, default=1.0, help="for each row of a table (1)")
    args = parser.parse_args(argv)
    if args.threads is None:
        args.threads = [n for n in (1, 2, 4, 8, 16) if n <= cpus]
    for name in ("batches", "threads"):
        if min(getattr(args, name)) < 1:
            parser.error(f"--{name} must be at least 1, got {getattr(args, name)}")
    if max(args.threads) > cpus:
        parser.error(f"--threads must be at most {cpus}, which this machine has")
    args.threads = sorted(set(args.threads))
    return args


def seconds_by_op(profile: dict[str, Any]) -> dict[str, float]:
    """Of one profile: 'total', each operation, and 'rest', which none of them has."""
    found = {op: row["seconds"] for op, row in profile.items() if isinstance(row, dict)}
    rest = max(0.0, profile["total"] - sum(found.values()))
    return {"total": profile["total"], **found, "rest": rest}


def measure(
    model: Any, x: np.ndarray, threads: list[int], seconds: float
) -> dict[int, dict[str, float]]:
    """The least time of the whole and of each operation, by number of threads."""
    import vitpool

    best: dict[int, dict[str, float]] = {}
    spent = dict.fromkeys(threads, 0.0)
    while min(spent.values()) < seconds:
        for number in threads:
            if spent[number] >= seconds:
                continue
            vitpool.set_num_threads(number)
            warm = False
            end = time.perf_counter() + seconds / 4
            while True:
                got = seconds_by_op(model.profile(x))
                spent[number] += got["total"]
                if not warm and got["total"] < LONG:
                    warm = True  # its threads had slept
                    continue
                known = best.setdefault(number, got)
                best[number] = {op: min(known[op], got[op]) for op in got}
                if time.perf_counter() > end:
                    break
    return best


def whole_table(
    best: dict[int, dict[str, float]], gflop: float, peak: dict[int, float]
) -> str:
    """A row for each number of threads; peak: GFLOP/s by number of threads."""
    first = min(best)
    lines = [
        "| threads | ms | speed-up | of one thread's peak, times threads "
        "| of these threads' peak |",
        "| ---: | ---: | ---: | ---: | ---: |",
    ]
    for number, row in best.items():
        rate = gflop / row["total"]
        ideal = peak[first] / first * number
        speed_up = best[first]["total"] / row["total"]
        lines.append(
            f"| {number} | {milli(row['total'])} | {speed_up:.2f} | "
            f"{rate / ideal:.0%} | {rate / peak[number]:.0%} |"
        )
    return "\n".join(lines)


def op_table(best: dict[int, dict[str, float]]) -> str:
    """A row for each operation that takes time: its share, and its speed-ups."""
    first, *more = best
    head = ["operation", f"ms, {first} thread{'s' * (first > 1)}", "of the whole"]
    head += [f"{n} threads" for n in more]
    lines = ["| " + " | ".join(head) + " |"]
    lines.append("| ---" + " | ---:" * (len(head) - 1) + " |")
    total = best[first]["total"]
    for op, seconds in best[first].items():
        if op == "total" or seconds < 1e-3 * total:
            continue
        row = [op, milli(seconds), f"{seconds / total:.1%}"]
        for number in more:
            now = best[number][op]
            row.append(f"{seconds / now:.2f}" if now else "–")
        lines.append("| " + " | ".join(row) + " |")
    return "\n".join(lines)


def peaks(threads: list[int], target: str) -> tuple[dict[int, float], str]:
    """GFLOP/s by number of threads, and how they were measured."""
    with tempfile.TemporaryDirectory(prefix="vitpool-bench-") as folder:
        peak = Peak(Path(folder), TARGETS[target].bits, with_tiles=False)
        for number in threads:
            peak.measure(number, 0.5)
        return peak.best, peak.source


def main() -> None:
    import vitpool

    args = parse()
    config = vitpool.show_config()
    peak, by = peaks(args.threads, config["target"])
    rates = ", ".join(f"{n}: {rate:.0f}" for n, rate in peak.items())
    print(
        f"# vitpool by threads\n\n"
        f"- {config['target']}, {config['micro_kernel']}, {config['cpus']} CPUs\n"
        f"- peak in GFLOP/s by threads: {rates} ({by})\n"
        "- 'of peak' counts every product that timm computes",
        flush=True,
    )
    for key in args.models:
        spec: Spec = MODELS[key]
        model = vitpool.create_model(spec.timm, seed=0, **spec.options)
        for batch in args.batches:
            x = pictures(batch, spec.image)
            best = measure(model, x, args.threads, args.seconds)
            print(
                f"\n## {spec.timm}, batch {batch}\n\n"
                f"{whole_table(best, spec.gflop * batch, peak)}\n\n{op_table(best)}",
                flush=True,
            )


if __name__ == "__main__":
    main()
