# SPDX-License-Identifier: Apache-2.0
"""The guide of timm's other classes runs, and its tables are what the code does."""

from __future__ import annotations

import contextlib
import io
import re
from pathlib import Path
from typing import Any

import pytest

import vitpool
from vitpool.model import CLASSES

ROOT = Path(__file__).resolve().parents[2]
GUIDE = (ROOT / "docs" / "guides" / "families.md").read_text()
SMALL = {"img_size": 32, "embed_dim": 32, "depth": 1, "num_heads": 4, "seed": 0}


def test_the_guide_runs(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    cells = re.findall(r"^```{code-cell} ipython3\n(.*?)^```", GUIDE, re.S | re.M)
    assert len(cells) > 10
    names: dict[str, Any] = {}
    said = io.StringIO()
    with contextlib.redirect_stdout(said):
        for cell in cells:
            exec(re.sub(r"^:tags:.*\n", "", cell), names)
    lines = said.getvalue().splitlines()
    assert "(1, 261, 384) True" in lines  # the class token
    assert "(2, 252, 768) False" in lines  # padding is zeros
    assert lines.count("True") == 2
    assert "(732, 12) (1212, 12) (1, 1000)" in lines
    assert "not 'mean'" in said.getvalue()


def rows(heading: str) -> list[list[str]]:
    """A table's cells, by its first heading."""
    table = re.findall(rf"^\| {heading} \|.*\n\|[ -|]*\n((?:\|.*\n)+)", GUIDE, re.M)[0]
    return [
        [cell.strip() for cell in row.split("|")[1:-1]]
        for row in table.split("\n")[:-1]
    ]


def test_every_class_is_named_with_a_model_of_it() -> None:
    """The name is a tag that has weights."""
    told = {
        row[0].strip("`"): row[2].strip("`") for row in rows("class") if len(row) == 3
    }
    assert set(told) == set(CLASSES)
    for family, name in told.items():
        assert name in vitpool.list_pretrained()
        assert (
            type(vitpool.create_model(name.partition(".")[0], depth=1)).__name__
            == family
        )


def test_the_pools_of_each_class_are_those_that_it_takes() -> None:
    tables = re.findall(r"^\| class \| pools \|\n\|.*\n((?:\|.*\n)+)", GUIDE, re.M)
    told: dict[str, set[str]] = {}
    for row in tables[0].splitlines():
        families, pools = (re.findall("`(.*?)`", cell) for cell in row.split("|")[1:3])
        told |= {key: {pool.strip("'") for pool in pools} for key in families}
    assert set(told) == set(CLASSES)
    every = set().union(*told.values())
    for family, pools in told.items():
        options = SMALL | (
            {"class_token": True}
            if family not in ("Beit", "VisionTransformerDistilled")
            else {}
        )
        for pool in sorted(every):
            model = CLASSES[family](**options)
            needs = {"add_attn_pool": True} if pool in ("map", "prr") else {}
            if pool in pools:
                model.reset_classifier(3, pool, **needs)
                assert model.global_pool == pool
            else:
                with pytest.raises(ValueError, match="global_pool"):
                    model.reset_classifier(3, pool, **needs)


def test_the_readme_has_every_name_of_each_module() -> None:
    """Its examples have weights, and its numbers are the registry's."""
    text = (ROOT / "README.md").read_text()
    table = re.findall(r"^\| \| timm's file \|.*\n\|.*\n((?:\|.*\n)+)", text, re.M)[0]
    told: dict[str, int] = {}
    for row in table.splitlines():
        _, module, count, example = (cell.strip(" `") for cell in row.split("|")[1:5])
        told[module] = told.get(module, 0) + int(count)
        assert example in vitpool.list_pretrained()
        assert example.partition(".")[0] in vitpool.list_models(module=module)
    ours = {"vit_digits"}
    every = {
        module: len(set(vitpool.list_models(module=module)) - ours)
        for module in vitpool.list_modules()
    }
    assert told == every
    assert f"all {sum(told.values())}" in text
