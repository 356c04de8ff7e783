# SPDX-License-Identifier: Apache-2.0
"""The table of small models is read without timm; tests/timm builds what is in it."""

from __future__ import annotations

import ast

import pytest

from vitpool.testing.audit.timm import classes, entries

ENTRIES = entries()


def test_a_name_is_there_once():
    names = [entry.name for entry in ENTRIES]
    assert len(names) == len(set(names))


def test_the_lines_are_in_the_order_of_their_modules():
    modules = [entry.cls.partition(".")[0] for entry in ENTRIES]
    assert modules == sorted(modules)


@pytest.mark.parametrize("entry", ENTRIES, ids=[entry.name for entry in ENTRIES])
def test_a_source_defines_make_and_imports_what_it_uses(entry):
    tree = ast.parse(entry.source)
    bound = {
        name
        for node in tree.body
        for name in (
            [alias.name for alias in node.names]
            if isinstance(node, ast.ImportFrom)
            else [node.name]
            if isinstance(node, ast.FunctionDef)
            else [target.id for target in node.targets]
        )
    }
    used = {
        node.id
        for node in ast.walk(tree)
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Load)
    }
    assert "make" in bound
    assert used - bound <= {"dict", "kwargs"}


@pytest.mark.parametrize("entry", ENTRIES, ids=[entry.name for entry in ENTRIES])
def test_options_are_plain_values_and_pictures_are_small(entry):
    assert ast.literal_eval(repr(entry.kwargs)) == entry.kwargs
    channels, height, width = entry.input_size
    assert channels == 3
    assert 16 <= min(height, width) <= max(height, width) <= 224


@pytest.mark.parametrize(
    ("pattern", "names"),
    [
        ("Eva", {"eva.Eva"}),
        ("eva.*", {"eva.Eva"}),
        ("efficientvit*", {"efficientvit_mit.EfficientVit"}),
        ("resnet.ResNet", {"resnet.ResNet"}),
        ("*ViT", {"nextvit.NextViT", "shvit.SHViT"}),
    ],
)
def test_a_pattern_is_of_a_class_a_module_or_both(pattern, names):
    found = {entry.cls for entry in classes(pattern)}
    assert names <= found
    assert len(found) < len(ENTRIES) / 4


def test_one_model_of_a_class_goes_by_its_whole_name():
    (entry,) = classes("eva.Eva[attention pool]")
    assert entry.kwargs["attn_pool_num_heads"] == 2


def test_a_pattern_of_nothing_is_an_error():
    with pytest.raises(ValueError, match=r"no class .* 'resnets'"):
        classes("resnets")
