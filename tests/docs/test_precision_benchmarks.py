# SPDX-License-Identifier: Apache-2.0
"""The benchmarks of low precision show no time without its error."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

# Last, so that a build or a wheel elsewhere is not hidden by the sources.
sys.path.append(str(Path(__file__).resolve().parents[2]))

from benchmarks import __main__, export, kinds, photographs, precision, targets
from benchmarks import precision_report as page
from benchmarks.engines import DTYPES, ENGINES


def row(milliseconds: float, error: float) -> dict[str, Any]:
    seconds = milliseconds / 1e3
    found = {"min": seconds, "median": seconds, "setup": "as it comes"}
    worst = 1 - error**2 if np.isfinite(error) else -1.0
    return found | {"relative_error": error, "worst": worst, "mean": worst}


def cell(**engines: dict[str, Any]) -> dict[str, Any]:
    named = {name.replace("_", " "): row for name, row in engines.items()}
    head = {"part": "models", "timm": "vit_base_patch16_224", "batch": 1, "threads": 2}
    return head | {"engines": named}


def run_of(found: dict[str, Any], **real: float) -> dict[str, Any]:
    """A run of one cell; real: the errors on the real model."""
    errors = {
        name.replace("_", " "): {"relative_error": e, "worst": 0.9, "mean": 0.95}
        for name, e in real.items()
    }
    accuracy = {"model": "vit_x", "image": 224, "pictures": 13, "engines": errors}
    about = dict.fromkeys(("cpu", "cores", "system", "python", "date", "commit"), "x")
    return {
        "machine": about | {"load": 0.0, "cores": 2},
        "dtype": "int8",
        "arguments": "--dtype int8",
        "target": "avx512vnni",
        "best": "avx512bf16",
        "minutes": 1.0,
        "peak": {"gflops": {"2": 200.0}, "by": "a loop", "bits": 512, "tiles": {}},
        "engines": {
            engine: {"version": "1.0", "caps": f"caps of {engine}"}
            for engine in found["engines"]
        },
        "cells": [found],
        "skipped": ["one engine"],
        **({"accuracy": accuracy} if errors else {}),
    }


FOUND = cell(
    vitpool=row(150, 0),
    vitpool_int8=row(48, 0.03),
    litert_dynamic=row(60, 0.03),
    openvino_nncf=row(40, 0.2),
)


def test_a_time_without_an_error_is_refused() -> None:
    timed = row(50, 0.01)
    del timed["relative_error"]
    found = cell(vitpool=row(150, 0), torchao=timed)
    with pytest.raises(ValueError, match="timed without an error: torchao"):
        page.cell_text(run_of(found), found)
    with pytest.raises(ValueError, match="timed without an error: torchao"):
        page.markdown(run_of(found))


def test_a_refused_page_leaves_no_file(tmp_path: Path) -> None:
    timed = row(50, 0.01)
    del timed["relative_error"]
    with pytest.raises(ValueError, match="without an error"):
        page.write(run_of(cell(torchao=timed)), tmp_path, "int8.x")
    assert list(tmp_path.iterdir()) == []


def test_a_faster_peer_of_larger_error_does_not_count() -> None:
    data = run_of(FOUND)
    assert page.fastest_peer(data, FOUND, "vitpool int8") == "litert dynamic"
    text = page.markdown(data)
    line = next(x for x in text.splitlines() if x.startswith("| vitpool int8 |"))
    cells = [part.strip() for part in line.split("|")[1:-1]]
    assert cells[1:4] == ["48.0 / 48.0", "0.32", "3.0%"]
    assert cells[-2:] == ["**0.80** of litert dynamic", "**1.20** of openvino nncf"]


def test_the_real_models_errors_decide() -> None:
    real = {"vitpool": 0.0, "vitpool_int8": 0.02, "litert_dynamic": 0.03}
    data = run_of(FOUND, **real, openvino_nncf=0.019)
    assert page.fastest_peer(data, FOUND, "vitpool int8") == "openvino nncf"
    # An engine whose error there is not known: then the outputs timed decide for all.
    assert page.fastest_peer(run_of(FOUND, **real), FOUND, "vitpool int8") == (
        "litert dynamic"
    )


def test_errors_of_the_same_way_of_quantising_are_equal() -> None:
    for error, peer in ((0.0374, "torchao"), (0.0376, "")):
        found = cell(vitpool_int8=row(48, 0.03), torchao=row(60, error))
        assert page.fastest_peer(run_of(found), found, "vitpool int8") == peer


def test_an_output_that_is_not_finite_is_never_a_peer() -> None:
    nowhere = float("inf")
    found = cell(vitpool_int8=row(48, nowhere), torchao=row(10, nowhere))
    assert page.fastest_peer(run_of(found), found, "vitpool int8") == ""
    assert "not finite" in page.markdown(run_of(found))


def test_distances() -> None:
    want = np.array([[3, 4], [0, 2]], np.float32)
    same = precision.distance(want, want)
    assert same == pytest.approx({"relative_error": 0.0, "worst": 1.0, "mean": 1.0})
    got = np.array([[3, 4], [2, 0]], np.float32)
    found = precision.distance(got, want)
    assert found["relative_error"] == pytest.approx((8 / 29) ** 0.5)
    assert (found["worst"], found["mean"]) == pytest.approx((0.0, 0.5))
    # Once for all pictures, and a picture's cosine whatever its shape.
    assert precision.distance(got[:, None], want[:, None]) == found


@pytest.mark.parametrize("strange", [np.nan, np.inf])
def test_what_is_not_finite_is_infinitely_far(strange: float) -> None:
    want = np.ones((2, 3), np.float32)
    got = want.copy()
    got[1, 1] = strange
    found = precision.distance(got, want)
    assert found == {"relative_error": np.inf, "worst": -1.0, "mean": -1.0}


def test_numbers_have_the_digits_that_tell() -> None:
    assert [page.share(e) for e in (0.0, 0.123, 0.0296, 6.36e-5)] == [
        *("0", "12%", "3.0%", "0.0064%")
    ]
    assert [page.short_of_one(c) for c in (1.0, 0.5, 0.99971, 1 - 2.5e-7)] == [
        *("1.0000", "0.5000", "0.99971", "0.99999975")
    ]


def test_every_engine_says_what_it_needs() -> None:
    """Each writer is there, after those whose files it reads."""
    written = export.ANY_BATCH.keys() | export.EACH_BATCH.keys()
    for name, engine in ENGINES.items():
        assert set(engine.needs) <= written, name
        assert engine.reads, name
    assert [name for names in DTYPES.values() for name in names] == list(ENGINES)
    for dtype in ("bfloat16", "int8"):
        found = export.jobs(precision.engines_of(dtype), [1, 8])
        assert len(found) == len(set(found))
        for engine in DTYPES[dtype]:
            places = [
                next(i for i, job in enumerate(found) if job.startswith(f"{need}:"))
                for need in ENGINES[engine].needs
            ]
            assert places == sorted(places), engine
    assert export.jobs(["litert dynamic"], [1, 8]) == [
        *("litert:1", "litert:8", "litert dynamic:1", "litert dynamic:8")
    ]


def test_the_command_line_of_a_low_dtype(capsys: pytest.CaptureFixture[str]) -> None:
    args = __main__.parse(["--dtype", "int8", "--batch", "1", "--threads", "2"])
    assert args.engines[:2] == ["vitpool", "vitpool int8"]
    assert "torch autocast" not in args.engines
    assert (args.models, args.batches, args.threads) == (["B"], [1], [2])
    assert args.parts == ["accuracy", "models", "cold"]
    with pytest.raises(SystemExit):
        __main__.parse(["--dtype", "int8", "--only", "tokens"])
    assert "--dtype int8 has no part tokens" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        __main__.parse(["--only", "accuracy"])
    assert "--dtype float32 has no part accuracy" in capsys.readouterr().err


def test_float32_has_one_name_where_targets_differ_in_other_dtypes() -> None:
    here = ["baseline", "avx2", "avx512", "avx512vnni", "avx512bf16"]
    config = {"targets": here, "target": "avx512bf16"}
    assert targets.choose(None, config) == ("avx512", "avx512")
    assert targets.choose(None, config, float32=False) == ("avx512bf16", "avx512bf16")
    held = config | {"target": "avx2"}
    assert targets.choose(None, held) == ("avx2", "avx512")
    assert targets.choose("avx512vnni", config, float32=False)[0] == "avx512vnni"
    with pytest.raises(ValueError, match="not 'avx512vnni'"):
        targets.choose("avx512vnni", config)


def test_pages_of_low_precision_are_what_their_numbers_say() -> None:
    for dtype in ("bfloat16", "int8"):
        for numbers in kinds.RESULTS.glob(f"{dtype}.*.json"):
            text = numbers.with_suffix(".md").read_text()
            assert text == page.markdown(json.loads(numbers.read_text())), numbers


@pytest.fixture
def two(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Photographs to take: one red and wide, one a ramp and high."""
    ramp = np.arange(40, dtype=np.uint8)[:, None].repeat(20, 1) * 6
    pictures = [
        Image.new("RGB", (60, 30), (255, 0, 0)),
        Image.fromarray(ramp).convert("RGB"),
    ]
    monkeypatch.setattr(photographs, "opened", lambda: pictures)
    return pictures


def test_whole_photographs_are_their_middle_squares_in_turn(two: list[Any]) -> None:
    found = photographs.whole(8)
    assert found.shape == (2, 3, 8, 8)
    red = (np.array([1, 0, 0], np.float32) - photographs.MEAN) / photographs.STD
    np.testing.assert_allclose(found[0, :, 0, 0], red, rtol=1e-6)
    again = photographs.whole(8, 5)
    np.testing.assert_array_equal(again, found[[0, 1, 0, 1, 0]])


def test_crops_to_calibrate_with_are_the_same_each_time(two: list[Any]) -> None:
    found = photographs.crops(8, 6, seed=1)
    assert found.shape == (6, 3, 8, 8)
    assert found.dtype == np.float32
    np.testing.assert_array_equal(found, photographs.crops(8, 6, seed=1))
    assert (found[1] != photographs.crops(8, 6, seed=2)[1]).any()
    assert (found[1] != found[3]).any()  # the same photograph, another square


def test_no_photographs_is_an_error_that_says_why(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(photographs, "NAMES", {"no_such_package/data": ("x.png",)})
    assert photographs.paths() == []
    with pytest.raises(ImportError, match="neither scikit-image nor scikit-learn"):
        photographs.opened()
