# SPDX-License-Identifier: Apache-2.0
"""model.summary(): shapes, parameters and FLOPs; and a model's HTML."""

from __future__ import annotations

import math
from html.parser import HTMLParser
from typing import Any

import numpy as np
import pytest
from models import BASE, X, refused, small

import vitpool
from vitpool.model.summary import in_units

# Of each op of profile the modules whose products it times.
OPS = {
    "patch_embed": ("patch_embed.proj",),
    "qkv": ("attn.qkv",),
    "proj": ("attn.proj",),
    "fc1": ("mlp.fc1", "mlp.fc1_g", "mlp.fc1_x"),
    "fc2": ("mlp.fc2",),
    "head": ("head",),
}


def rows(model: Any, depth: int | None = None, **kwargs: Any) -> dict[str, Any]:
    return {row.path: row for row in model.summary(depth=depth, **kwargs).rows}


def own_flops(found: dict[str, Any]) -> dict[str, int]:
    """FLOPs of each module without those below it."""
    return {
        path: row.flops
        - sum(r.flops for p, r in found.items() if p.rpartition(".")[0] == path)
        for path, row in found.items()
    }


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"reg_tokens": 2, "mlp_layer": "SwiGLU", "num_classes": 7},
        {"mlp_layer": "GluMlp", "block_fn": "ResPostBlock", "class_token": False},
        {"block_fn": "ParallelThingsBlock"},
    ],
)
def test_flops_are_those_that_the_core_counts(options: dict[str, Any]) -> None:
    """Without a pool the last block leaves nothing out."""
    model = small(**options | {"depth": 2, "global_pool": ""})
    own = own_flops(rows(model, input_size=X.shape))
    profile = model.profile(X)
    for op, ends in OPS.items():
        counted = sum(n for path, n in own.items() if path.endswith(ends))
        assert counted == profile[op]["flops"], op
    attention = sum(n for path, n in own.items() if path.endswith((".attn", "s.0")))
    assert attention == profile["attention"]["flops"]
    total = sum(op["flops"] for op in profile.values() if isinstance(op, dict))
    assert model.summary(X.shape).flops == total


@pytest.mark.parametrize("pool", ["token", "avg"])
def test_the_core_computes_no_more_than_that(pool: str) -> None:
    model = small(global_pool=pool)
    profile = model.profile(X)
    total = sum(op["flops"] for op in profile.values() if isinstance(op, dict))
    assert total <= model.summary(X.shape).flops


def test_the_formula_of_a_block_by_hand() -> None:
    model = vitpool.VisionTransformer(depth=1, seed=0)  # ViT-B/16 of one block
    n, c = 197, 768
    block = 2 * n * c * (3 * c + c + 2 * 4 * c) + 4 * n * n * c
    found = rows(model)
    assert found["blocks"].flops == found["blocks.0"].flops == block
    assert found["blocks.0.attn"].flops == 2 * n * c * 4 * c + 4 * n * n * c
    assert found["patch_embed"].flops == 2 * 196 * c * 3 * 16 * 16
    assert found["head"].flops == 2 * c * 1000
    assert found["blocks.0"].params == 12 * c * c + 13 * c
    summary = model.summary()
    assert summary.flops == block + found["patch_embed"].flops + found["head"].flops
    assert summary.params == sum(math.prod(s) for s in model.param_shapes().values())


@pytest.mark.parametrize("pool", ["", "token", "map", "prr"])
def test_the_rows_of_the_model_itself_add_up_to_the_total(pool: str) -> None:
    model = small(global_pool=pool, reg_tokens=1, pre_norm=True, init_values=0.1)
    summary = model.summary()
    assert sum(row.params for row in summary.rows) == summary.params
    assert sum(row.flops for row in summary.rows) == summary.flops
    names = [row.path for row in summary.rows]
    assert names[:3] == ["cls_token", "reg_token", "pos_embed"]
    assert ("attn_pool" in names) == (pool in ("map", "prr"))
    assert all("." not in name for name in names)


@pytest.mark.parametrize("pool", ["", "avg", "map"])
@pytest.mark.parametrize("classes", [0, 10])
def test_outputs_are_what_the_model_gives(pool: str, classes: int) -> None:
    model = small(global_pool=pool, num_classes=classes, dynamic_img_size=True)
    x = np.zeros((3, 3, 48, 32), np.float32)
    summary = model.summary(x.shape, depth=None)
    assert summary.output == model(x).shape
    assert model.summary(x, depth=None) == summary
    found = {row.path: row.output for row in summary.rows}
    assert found["norm" if pool != "avg" else "blocks"] == (
        model.forward_features(x).shape
    )
    assert found["patch_embed"] == (3, 3, 2, 32)
    assert found["patch_embed.proj"] == (3, 32, 3, 2)
    assert found.get("head", summary.output) == summary.output


def test_depth_is_how_far_down_rows_go() -> None:
    model = small(depth=2)
    assert max(path.count(".") for path in rows(model, depth=2)) == 1
    assert max(path.count(".") for path in rows(model, depth=None)) == 3
    assert "blocks.1" in rows(model, depth=2)
    assert rows(model, depth=1)["blocks"].kind == "2 x Block"


def test_parts_are_those_that_the_model_has() -> None:
    model = small(global_pool="map", qk_norm=True)
    before = set(rows(model))
    assert {"blocks.0.attn.q_norm", "attn_pool.kv", "head"} <= before
    assert not any("drop" in path or path.endswith("act") for path in before)
    model.reset_classifier(0, "avg")
    gone = {p for p in before if p.startswith(("attn_pool", "head"))}
    assert set(rows(model)) == before - gone


def test_it_prints_as_a_table_that_ends_with_the_total() -> None:
    model = small(global_pool="map")
    lines = str(model.summary()).splitlines()
    assert lines[0] == "architecture: VisionTransformer"
    assert "untrained: none" in lines
    head = next(i for i, line in enumerate(lines) if line.startswith("module "))
    assert lines[head].split() == ["module", "class", "output", "parameters", "FLOPs"]
    assert lines[-1].startswith("total ")
    assert f"{model.summary().params:,}" in lines[-1]
    assert len({len(line) for line in lines[head:]}) == 1
    assert repr(model.summary()) == str(model.summary())


def test_what_is_random_is_among_the_facts() -> None:
    model = vitpool.VisionTransformer(**BASE, seed=0)
    assert model.summary().facts["untrained"] == "all"
    model = small()
    model.reset_classifier(3, "map", add_attn_pool=True)
    assert model.summary().facts["untrained"] == "attn_pool, head"


@pytest.mark.parametrize(
    ("error", "words", "arguments"),
    [
        (TypeError, "input_size must be (B, in_chans, height, width)", (32,)),
        (TypeError, "input_size", ("abcd",)),
        (TypeError, "input_size must be an integer", ((1, 3, 32.0, 32),)),
        (ValueError, "input_size must be (B, 3, height, width)", ((3, 32, 32),)),
        (ValueError, "input_size must be (B, 3, height, width)", ((1, 1, 32, 32),)),
        (ValueError, "set_input_size", ((1, 3, 64, 64),)),
        (ValueError, "depth must be at least 1", (None, 0)),
        (TypeError, "depth must be an integer", (None, "all")),
    ],
)
def test_arguments_are_checked(
    error: type[Exception], words: str, arguments: tuple[Any, ...]
) -> None:
    model = small()
    with refused(error, words, model=model):
        model.summary(*arguments)


@pytest.mark.parametrize(
    ("number", "text"),
    [
        (0, "0"),
        (999, "999"),
        (1000, "1.00 k"),
        (22_020_096, "22.0 M"),
        (393_216, "393 k"),
        (35_127_656_448, "35.1 G"),
        (2 * 10**15, "2000 T"),
    ],
)
def test_operations_are_told_in_three_digits(number: int, text: str) -> None:
    assert in_units(number) == text


# HTML


class Balanced(HTMLParser):
    """Counts elements, and fails where one is not closed."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.seen: list[str] = []
        self.attributes: dict[str, str | None] = {}
        self.text = ""
        self.feed(text)
        assert not self.open

    def handle_starttag(self, tag: str, attrs: Any) -> None:
        self.open.append(tag)
        self.seen.append(tag)
        self.attributes.update(attrs)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data


def test_html_folds_the_tree_below_the_facts() -> None:
    model = small(global_pool="map", depth=3)
    text = model._repr_html_()
    page = Balanced(text)
    assert page.seen.index("table") < page.seen.index("details")
    assert page.seen.count("summary") == page.seen.count("details")
    assert "0-2: 3 x Block, " in page.text, "blocks that are alike are one"
    assert "qkv: Linear(in_features=32, out_features=96, bias=True)" in page.text
    assert "cls_token: Parameter(1, 1, 32)" in page.text
    assert "attn_pool: AttentionPoolLatent" in page.text
    assert text.count("<details open>") == 1, "the model's own is open, all else folded"
    assert "color" not in text, "colours are the page's, dark or light"


def test_html_is_escaped() -> None:
    model = small()
    model.pretrained_cfg = {"architecture": "<script>a & b</script>"}
    for text in (model._repr_html_(), model.summary()._repr_html_()):
        assert "script" not in Balanced(text).seen
        assert "<script>a & b</script>" in Balanced(text).text
