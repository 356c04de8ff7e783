# SPDX-License-Identifier: Apache-2.0
"""The guide of low precision runs, and what it says of CPUs is what they do."""

from __future__ import annotations

import contextlib
import io
import re
import sys
from pathlib import Path
from typing import Any

import pytest

import vitpool
from vitpool import cli

# Last, so that a build or a wheel elsewhere is not hidden by the sources.
sys.path.append(str(Path(__file__).resolve().parents[2]))

from benchmarks import across_targets
from vitpool.config import DTYPES

ROOT = Path(__file__).resolve().parents[2]
GUIDE = ROOT / "docs" / "guides" / "low_precision.md"
TARGETS = vitpool.show_config()["targets"]


def test_the_guide_runs_and_its_commands_do(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)  # and back, where a cell has gone on
    text = GUIDE.read_text()
    cells = re.findall(r"^```{code-cell} ipython3\n(.*?)^```", text, re.S | re.M)
    assert len(cells) > 8
    names: dict[str, Any] = {}
    said = io.StringIO()
    with contextlib.redirect_stdout(said):
        for cell in cells:
            exec(re.sub(r"^:tags:.*\n", "", cell), names)
        commands = re.findall(r"^    vitpool (.*)$", text, re.M)
        assert len(commands) == 2
        for command in commands:
            # the folder that a cell has written
            words = command.replace("-o small", "-o small --overwrite").split()
            assert cli.main(words) == 0
    assert names["small"].dtype == "int8"
    assert "top-1 agrees on 10 of 10" in said.getvalue()


def test_the_guide_has_the_arithmetic_of_this_machine() -> None:
    """The column of the target in use, in its table of all."""
    columns = {
        "baseline": "plain C",
        "avx2": "AVX2",
        "avxvnni": "AVX-VNNI",
        "avx512": "AVX-512",
        "avx512vnni": "with VNNI",
        "avx512bf16": "with BF16",
        "amx": "AMX",
    }
    words = {
        "float32, weights widened": "widened",
        "bfloat16 products, float32 sums": "bfloat16",
        "integers of 8 bits, int32 sums": "8 bits",
        "integers of 8 and 16 bits, int32 sums": "16 bits",
    }
    head, table = re.findall(
        r"^\| \| (plain C.*?) \|\n\| --- .*?\n((?:\|.*\n)+)", GUIDE.read_text(), re.M
    )[0]
    config = vitpool.show_config()
    place = head.split(" | ").index(columns[config["target"]])
    told = {
        row.split("|")[1].strip(" `"): row.split("|")[2 + place].strip()
        for row in table.splitlines()
    }
    dtypes = {k: v for k, v in config["dtypes"].items() if k != "float32"}
    for dtype, product in dtypes.items():
        rows = product["micro_kernel"].removeprefix("vp_gemm_")
        said = "16 bits" if rows.startswith("s16") else words[product["arithmetic"]]
        assert told[dtype] == said, dtype
    assert set(told) == set(dtypes)


@pytest.fixture(scope="module")
def measured() -> dict[str, across_targets.Row]:
    """vit_digits in each dtype, on every target."""
    model, x = across_targets.subject("vit_digits")
    found = across_targets.rows(model, x[:4], DTYPES, TARGETS)
    return {row.dtype: row for row in found}


def test_each_target_is_held_against_the_next(
    measured: dict[str, across_targets.Row],
) -> None:
    assert list(measured) == list(DTYPES)
    for dtype, row in measured.items():
        assert list(row.between) == TARGETS[:-1]
        assert (row.float32.worst_error == 0) == (dtype == "float32")
    if "avx2" in TARGETS:  # each was forced
        assert measured["float32"].between["baseline"].error > 0
    for line in across_targets.table(measured.values(), TARGETS).splitlines():
        assert line.count("|") == 2 + len(TARGETS)


def test_float32_and_widened_weights_hardly_depend_on_the_target(
    measured: dict[str, across_targets.Row],
) -> None:
    for dtype in ("float32", "float16"):
        for target, found in measured[dtype].between.items():
            assert found.worst_error < 1e-5, (dtype, target)


@pytest.mark.parametrize("dtype", ["bfloat16", "int8"])
def test_targets_differ_by_about_what_the_dtype_costs(
    measured: dict[str, across_targets.Row], dtype: str
) -> None:
    row = measured[dtype]
    for target, found in row.between.items():
        assert found.error <= 2 * row.float32.error, target


def test_vnni_changes_no_bit_of_an_int8_model(tmp_path: Path) -> None:
    """Integers are exact, and the rest is AVX-512's on both. Where there is no VNNI the
    two that are compared are AVX-512 and itself."""
    model, x = across_targets.subject("vit_digits")
    both = [t for t in TARGETS if t in ("avx512", "avx512vnni")] or TARGETS[:1]
    found = {}
    for target in (both[0], both[-1]):
        folder = tmp_path / str(len(found)) / target
        folder.mkdir(parents=True)
        outputs = across_targets.outputs(model.to("int8"), x, [target], folder)
        found[folder] = next(outputs)[1].tobytes()
    assert len(set(found.values())) == 1 < len(found)
