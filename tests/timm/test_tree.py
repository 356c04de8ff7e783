# SPDX-License-Identifier: Apache-2.0
"""The tree of a model is timm's: every module, its class, its order and its text."""

from __future__ import annotations

import re
from typing import Any
from unittest import mock

import pytest
import reference
import torch
from dice import Dice, examples
from families import NAMES as OTHERS
from families import on_meta as other_on_meta
from families import small_enough
from test_all_163 import NAMES, on_meta
from test_random_configs import configuration, show

from vitpool.config import resolve
from vitpool.model.tree import folded, tree, within
from vitpool.registry.create import plan_model


def timms_tree(model: Any) -> list[tuple[str, tuple[str, str]]]:
    return [
        (path, (type(module).__name__, module.extra_repr()))
        for path, module in model.named_modules(remove_duplicate=False)
    ]


def timms_text(module: Any) -> str:
    """torch's own text, where a Sequential of numbers folds as a ModuleList does."""
    plain = torch.nn.Module.__repr__
    fold = torch.nn.ModuleList.__repr__

    def text(sequential: Any) -> str:
        numbered = all(name.isdigit() for name in sequential._modules)
        return (fold if numbered else plain)(sequential)

    with mock.patch.object(torch.nn.Sequential, "__repr__", text):
        return repr(module)


def by_default(text: str) -> str:
    """GELU asked for by name prints without what the default one says."""
    return re.sub(r"\bGELU\(\)", "GELU(approximate='none')", text)


def check(options: dict[str, Any], model: Any) -> None:
    ours = tree(options)
    found = [(path, (kind, extra)) for path, (kind, extra) in ours.items()]
    expected = [
        (path, (kind, "approximate='none'" if kind == "GELU" else extra))
        for path, (kind, extra) in timms_tree(model)
    ]
    assert found == expected
    for path, module in model.named_modules():
        assert folded(within(ours, path)) == by_default(timms_text(module))


@pytest.mark.parametrize("name", NAMES)
def test_the_tree_of_an_architecture_is_timms(name: str) -> None:
    plan = plan_model(name)
    check(resolve(plan.options), on_meta(name))


@pytest.mark.parametrize("name", OTHERS)
def test_the_tree_of_another_classes_architecture_is_timms(name: str) -> None:
    few = small_enough(name)
    plan = plan_model(name)
    check(resolve(plan.options | few, plan.family), other_on_meta(name, **few))


@pytest.mark.parametrize("example", examples(200))
def test_the_tree_of_a_random_configuration_is_timms(example: int) -> None:
    options = configuration(Dice("configuration", example))
    show(options=options)
    with torch.device("meta"):
        model = reference.build(options | {"weight_init": "skip"})
    check(resolve(options), model)


def test_a_tree_is_the_callers_own() -> None:
    options = resolve({"depth": 1})
    tree(options).clear()
    assert "head" in tree(options)
