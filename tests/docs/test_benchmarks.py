# SPDX-License-Identifier: Apache-2.0
"""The benchmarks' pages are what their JSON files say, and targets cap engines."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import vitpool

# Last, so that a build or a wheel elsewhere is not hidden by the sources.
sys.path.append(str(Path(__file__).resolve().parents[2]))

from benchmarks import __main__, charts, kinds, report, scaling, targets, training
from benchmarks import run as one_run
from benchmarks.engines import ENGINES

ROOT = Path(__file__).resolve().parents[2]
STORED = {run["target"]: run for run in kinds.load(kinds.RESULTS)}


@pytest.mark.parametrize("target", STORED)
def test_a_page_is_what_its_numbers_say(target: str) -> None:
    page = (kinds.RESULTS / f"{target}.md").read_text()
    assert page == report.markdown(STORED[target])


def test_the_readme_has_the_table_of_all_kinds_of_cpu() -> None:
    text = (ROOT / "README.md").read_text()
    assert text == kinds.with_table(text, kinds.table(list(STORED.values())))


def test_targets_are_those_of_the_core() -> None:
    text = (ROOT / "csrc" / "base" / "targets.h").read_text()
    assert list(targets.TARGETS) == re.findall(r"^    X\((\w+),", text, re.M)


def test_every_engine_says_how_it_is_capped() -> None:
    known = targets.TARGETS["baseline"].switches
    for name, engine in ENGINES.items():
        assert set(engine.switches) <= set(known), name
        assert targets.caps_text(name, "avx2", "avx512"), name
    assert set(charts.COLOURS) < set(ENGINES)


@pytest.mark.parametrize(
    ("engine", "target", "best", "text"),
    [
        ("vitpool", "avx2", "amx", "capped by VITPOOL_TARGET=avx2"),
        ("openvino", "avx512", "amx", "capped by ONEDNN_MAX_CPU_ISA=AVX512_CORE"),
        (
            *("torch", "avx2", "avx512"),
            "capped by ONEDNN_MAX_CPU_ISA=AVX2, ATEN_CPU_CAPABILITY=avx2, "
            "MKL_ENABLE_INSTRUCTIONS=AVX2; "
            "on AMD's CPUs MKL heeds no switch, and runs AVX2",
        ),
        (
            *("onnxruntime", "avx2", "avx512"),
            "not capped: MLAS takes the best that the CPU has",
        ),
        ("onnxruntime", "avx2", "avx2", ""),
        ("torch", "amx", "amx", ""),
    ],
)
def test_caps(engine: str, target: str, best: str, text: str) -> None:
    assert targets.caps_text(engine, target, best) == text
    told = dict(pair.split("=") for pair in re.findall(r"\w+=\w+", text))
    assert targets.caps(engine, target, best) == told


def test_a_target_that_the_cpu_lacks_is_refused() -> None:
    config = {"targets": ["baseline", "avx2"], "target": "baseline"}
    assert targets.choose(None, config) == ("baseline", "avx2")
    assert targets.choose("avx2", config) == ("avx2", "avx2")
    with pytest.raises(ValueError, match="has, baseline, avx2, not 'amx'"):
        targets.choose("amx", config)


def test_a_wrong_target_is_an_error_of_the_command_line(
    capsys: pytest.CaptureFixture[str],
) -> None:
    with pytest.raises(SystemExit) as error:
        __main__.parse(["--target", "sse9"])
    assert error.value.code == 2
    assert "not 'sse9'" in capsys.readouterr().err


def test_a_page_tells_no_folder_of_the_machine_it_was_made_on() -> None:
    given = ["--cache", "/here/it", "--target", "avx2", "--out=/there", "--all"]
    assert one_run.told(given) == "--target avx2 --all"


def run(target: str, best: str, **seconds: float) -> dict[str, Any]:
    """What a run of ViT-Ti alone would have stored, at one thread."""
    rows = {
        engine: {
            "min": time,
            "median": time,
            **report.timm_columns([time, 3 * time], 1),
            "relative_difference": 1e-6,
            "right": True,
            "setup": "as it comes",
        }
        for engine, time in seconds.items()
    }
    cell = {"part": "models", "model": "Ti", "timm": "vit_tiny_patch16_224"}
    cell |= {"image": 224, "tokens": 197, "threads": 1, "batch": 1, "gflop": 2.5}
    machine = {"cpu": "A CPU", "cores": 2, "system": "Linux", "python": "3.11"}
    return {
        "machine": machine | {"date": "2026-01-01", "load": 0.0},
        "skipped": [],
        "cells": [cell | {"engines": rows}],
        "arguments": f"--target {target}",
        "target": target,
        "best": best,
        "engines": {
            engine: {"version": "1.0", "caps": targets.caps_text(engine, target, best)}
            for engine in seconds
        },
        "peak": {"gflops": {"1": 100.0}, "by": "a loop", "bits": 256, "tiles": {}},
        "minutes": 1.0,
    }


def test_a_page_tells_that_a_target_was_forced_and_by_what() -> None:
    page = report.markdown(run("avx2", "avx512", vitpool=0.1, onnxruntime=0.125))
    assert "peers: AVX2 forced on a CPU with AVX-512\n" in page
    assert "- vitpool: capped by VITPOOL_TARGET=avx2\n" in page
    assert "- onnxruntime: not capped: MLAS" in page
    assert "**0.80** onnxruntime" in page
    # timm's columns are means, of 0.1 and 0.3 s
    assert "| vit_tiny_patch16_224 | 224 | 1 | 1 | 5.0 / 200.0 |" in page
    free = report.markdown(run("avx2", "avx2", vitpool=0.1, onnxruntime=0.125))
    assert "peers: AVX2\n" in free
    assert "capped" not in free


def test_kinds_of_cpu_stand_side_by_side() -> None:
    alone = run("avx512", "avx512", vitpool=0.05)
    runs = [
        run("avx2", "avx512", vitpool=0.1, torch=0.2, litert=0.125),
        alone,
        run("amx", "amx", vitpool=0.05, torch=0.1),
    ]
    head, _, row, _, *machines = kinds.table(runs).splitlines()
    assert head == "| one image, 1 thread | AVX2 | AVX-512 | AMX |"
    assert row == "| vit_tiny_patch16_224 | 0.80 | – | 0.50 |"
    assert machines[0] == (
        "- AVX2 forced on a CPU with AVX-512: A CPU, 2 cores, 2026-01-01, beside "
        "torch, litert, of which nothing holds litert "
        "([all of the run](benchmarks/results/avx2.md))"
    )
    with pytest.raises(ValueError, match="no place for the table"):
        kinds.with_table("# Title\n", "a table")


def test_scaling_has_the_whole_and_each_operation_by_threads() -> None:
    model = vitpool.VisionTransformer(
        img_size=8, patch_size=4, embed_dim=8, depth=1, num_heads=1, num_classes=2
    )
    x = np.zeros((1, 3, 8, 8), np.float32)
    before = vitpool.get_num_threads()
    try:
        best = scaling.measure(model, x, [1, 2], 0.01)
    finally:
        vitpool.set_num_threads(before)
    assert list(best) == [1, 2]
    for row in best.values():
        assert row["total"] >= max(row["qkv"], row["attention"], row["fc1"]) > 0


def test_scaling_sets_times_beside_threads_and_peak() -> None:
    best = {
        1: {"total": 0.1, "qkv": 0.06, "norm": 0.04, "pool": 0.0},
        4: {"total": 0.05, "qkv": 0.02, "norm": 0.04, "pool": 0.0},
    }
    whole = scaling.whole_table(best, 8.0, {1: 100.0, 4: 320.0}).splitlines()
    assert whole[2] == "| 1 | 100 | 1.00 | 80% | 80% |"
    assert whole[3] == "| 4 | 50.0 | 2.00 | 40% | 50% |"
    ops = scaling.op_table(best).splitlines()
    assert ops[0] == "| operation | ms, 1 thread | of the whole | 4 threads |"
    assert ops[2:] == [
        "| qkv | 60.0 | 60.0% | 3.00 |",
        "| norm | 40.0 | 40.0% | 1.00 |",
    ]


def trained(engine: str, milliseconds: float, peak: float, right: bool = True) -> Any:
    return {
        "min": milliseconds / 1e3,
        "median": milliseconds / 1e3,
        "peak": peak * 1e6,
        "right": right,
        "version": "1.0",
        "setup": engine,
    }


def test_a_page_of_training_has_ratios_of_what_is_right() -> None:
    found: dict[str, Any] = {
        "model": "vit_tiny_patch16_224",
        "part": "all",
        "batch": 8,
        "threads": 2,
        "engines": {
            "vitpool": trained("a", 60, 250),
            "torch": trained("b", 100, 500),
            "torch.compile": trained("c", 10, 625, right=False),
        },
    }
    about = dict.fromkeys(("cpu", "cores", "system", "python", "date", "commit"), "x")
    data: dict[str, Any] = {
        "machine": about | {"load": 0.0},
        "rows": [found],
        "skipped": ["one row"],
        "arguments": "",
        "target": "avx2",
        "best": "avx2",
    }
    page = training.markdown(data)
    row = next(line for line in page.splitlines() if line.startswith("| vit_tiny"))
    cells = [cell.strip() for cell in row.split("|")[4:-1]]
    assert cells == [
        *("60.0 / 60.0", "100 / 100", "10.0 / 10.0 wrong", "**0.60**", "**–**"),
        *("250", "500", "625", "0.50", "–"),
    ]
    assert "## 2 threads" in page
    assert "- one row" in page
    assert "torch 1.0 (b)" in page


def test_pages_of_training_are_what_their_numbers_say() -> None:
    for numbers in kinds.RESULTS.glob("training.*.json"):
        page = numbers.with_suffix(".md").read_text()
        assert page == training.markdown(json.loads(numbers.read_text())), numbers


def test_operations_of_a_step_are_those_of_its_parts() -> None:
    """A row is left out by these: a gradient costs its forward pass twice."""
    spec = {"gflop": 2.0, "depth": 12}
    whole = training.operations(spec, "all", 4)
    assert whole == 3 * training.operations(spec, training.EXTRACT, 4)
    assert training.operations(spec, "head", 4) < training.operations(spec, "last 2", 4)
    assert training.operations(spec, "last 2", 4) < whole
