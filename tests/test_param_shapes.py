# SPDX-License-Identifier: Apache-2.0
"""Names and shapes of a model's parameters, from its options without its weights."""

from __future__ import annotations

from typing import Any

import pytest
from golden import recipe

from vitpool._core import param_shapes
from vitpool.config import resolve

# Cases that timm made and that no later call has changed.
CASES = {c["name"]: c for c in recipe.cases() if not c.get("calls")}


@pytest.mark.parametrize("name", CASES)
def test_shapes_of_options_are_those_of_timms_model(name: str) -> None:
    case = CASES[name]
    timms = [(key, tuple(shape)) for key, shape in case["parameters"].items()]
    assert list(param_shapes(resolve(case["options"])).items()) == timms


def test_shapes_need_no_memory_for_the_weights() -> None:
    huge = {"embed_dim": 2**20, "num_heads": 1, "depth": 2, "img_size": 32}
    shapes = param_shapes(resolve(huge))
    assert shapes["blocks.1.mlp.fc1.weight"] == (2**22, 2**20)  # 17 TB


@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        ({}, TypeError, "'img_size' is missing"),
        ([], TypeError, "options must be a dict, not list"),
        ({**resolve({}), "num_heads": 5}, ValueError, "num_heads"),
        ({**resolve({}), "block_fn": "Blok"}, ValueError, "block_fn"),
        ({**resolve({}), "depth": -1}, ValueError, "depth"),
    ],
)
def test_options_that_make_no_model_are_refused(
    options: Any, error: type[Exception], words: str
) -> None:
    with pytest.raises(error, match=words):
        param_shapes(options)
