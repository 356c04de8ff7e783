# SPDX-License-Identifier: Apache-2.0
"""`vitpool benchmark`: time the forward pass."""

from __future__ import annotations

import argparse
from typing import Any

from .errors import OK
from .options import (
    AS_JSON,
    count,
    describe_model,
    model_options,
    size_options,
)
from .progress import print_json, print_text


def add(commands: Any) -> None:
    """The command's own arguments."""
    sub = commands.add_parser(
        "benchmark",
        parents=[model_options(), size_options()],
        help="time the forward pass",
        description="Time the forward pass, with random weights unless the model's "
        "are here.",
        examples=[
            "vitpool benchmark -m vit_base_patch16_224 --threads 4",
            "vitpool benchmark -m vit_base_patch16_224 -b 8 --profile",
        ],
    )
    sub.add_argument(
        "-b",
        "--batch-size",
        type=count(1),
        default=1,
        metavar="N",
        help="pictures at once (default 1)",
    )
    sub.add_argument(
        "--num-warm-iter",
        type=count(0),
        default=3,
        metavar="N",
        help="runs before the clock starts (default 3)",
    )
    sub.add_argument(
        "--num-bench-iter",
        type=count(1),
        default=20,
        metavar="N",
        help="runs that are timed (default 20)",
    )
    sub.add_argument("--profile", action="store_true", help="time of each operation")
    sub.add_argument("--json", **AS_JSON)
    sub.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Run the command; returns its exit code."""
    import time

    import numpy as np

    from .. import get_num_threads
    from ..transforms import resolve_data_config

    model = describe_model(args)
    shape = (args.batch_size, *resolve_data_config(model)["input_size"])
    x = np.random.default_rng(0).standard_normal(shape, np.float32)
    for _ in range(args.num_warm_iter):
        model(x)
    times = []
    for _ in range(args.num_bench_iter):
        start = time.perf_counter()
        model(x)
        times.append((time.perf_counter() - start) * 1e3)
    step = float(np.median(times))
    result: dict[str, Any] = {
        "model": args.model,
        "dtype": str(model.dtype),
        "threads": get_num_threads(),
        "batch_size": args.batch_size,
        "input_size": list(shape[1:]),
        "step_time_ms": step,
        "min_ms": min(times),
        "p90_ms": float(np.percentile(times, 90)),
        "samples_per_sec": args.batch_size * 1e3 / step,
    }
    profile = model.profile(x) if args.profile else None
    if profile is not None:
        result["profile"] = profile
    if args.json:
        print_json(result)
        return OK
    for key, value in result.items():
        if key != "profile":
            text = f"{value:.3f}" if isinstance(value, float) else str(value)
            print_text(f"{key}: {text}")
    if profile is not None:
        _print_profile(profile)
    return OK


def _print_profile(profile: dict[str, Any]) -> None:
    """The ops of one forward, the longest first."""
    total = profile["total"]
    ops = {name: op for name, op in profile.items() if isinstance(op, dict)}
    other = total - sum(op["seconds"] for op in ops.values())
    print_text(f"{'op':<24} {'ms':>9} {'share':>7} {'calls':>6} {'GFLOP/s':>8}")
    for name, op in sorted(ops.items(), key=lambda item: -item[1]["seconds"]):
        if not op["calls"]:
            continue
        rate = f"{op['flops'] / op['seconds'] / 1e9:8.1f}" if op["flops"] else ""
        share = op["seconds"] / total
        milli = op["seconds"] * 1e3
        print_text(
            f"{name:<24} {milli:9.3f} {share:7.1%} {op['calls']:6} {rate}".rstrip()
        )
    print_text(f"{'other':<24} {other * 1e3:9.3f} {other / total:7.1%}")
    print_text(f"{'total':<24} {total * 1e3:9.3f}")
