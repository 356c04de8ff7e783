# SPDX-License-Identifier: Apache-2.0
"""What a Comparison answers: the first stage that parts, a verdict, values for JSON."""

from __future__ import annotations

import json
import math
import re
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from comparisons import comparison, row

from vitpool.testing.comparison.parameters import (
    ParameterDifference,
    parameter_difference,
)
from vitpool.testing.comparison.result import measured

EPS = tuple((f"blocks.{i}.norm1.eps", 1e-6, 1e-5) for i in range(12))
ALONE = measured("norm_pre", None, np.ones((2, 3)), 1e-4, 0)
NAN_STAGE = measured("pool", np.ones((2, 3)), np.full((2, 3), math.nan), 1e-4, 0)


def first_line(found: Any) -> str:
    return str(found).splitlines()[0]


def test_alike() -> None:
    found = comparison()
    assert found.ok
    assert found.first is None
    assert first_line(found) == "alike on 2 images"


def test_the_first_stage_that_parts_is_named() -> None:
    found = comparison(parts_at="blocks.1.attn")
    assert not found.ok
    assert found.first is not None
    assert found.first.name == "blocks.1.attn"
    expected = "they part at blocks.1.attn: 3.1e-2 of its scale, allowed 1e-4"
    assert first_line(found) == expected


def test_what_is_off_is_never_seen_below_what_is_allowed() -> None:
    assert first_line(comparison([row("head", 1.001e-4)])) == (
        "they part at head: 1.1e-4 of its scale, allowed 1e-4"
    )
    assert "allowed 0.000125" in first_line(
        comparison([row("head", 1e-3)], rtol=0.000125)
    )


@pytest.mark.parametrize(
    ("rtol", "why"),
    [(0.0, "off by 2, allowed atol 5e-1"),
     (1e-4, "1 of its scale, allowed 1e-4 and atol 5e-1")],
)  # fmt: skip
def test_an_atol_is_said(rtol: float, why: str) -> None:
    found = comparison([row("head", 1)], rtol=rtol, atol=0.5)
    assert first_line(found) == f"they part at head: {why}"
    found = comparison([row("head", 0.5001)], rtol=0.0, atol=1.0)
    assert first_line(found).endswith("off by 1.1, allowed atol 1")


@pytest.mark.parametrize(
    ("stage", "why"),
    [
        (ALONE, "norm_pre: only the candidate has it"),
        (
            measured("pool", np.ones((2, 3)), np.ones((2, 4)), 1e-4, 0),
            "pool: shapes differ: (2, 3) and (2, 4)",
        ),
        (NAN_STAGE, "pool: NaN or infinite on one side alone"),
        (
            measured("pool", np.zeros(3), np.full(3, 0.25), 1e-4, 0),
            "pool: 2.5e-1 where the reference is 0, allowed atol 0",
        ),
    ],
)
def test_the_verdict_says_why_a_stage_has_no_number(stage: Any, why: str) -> None:
    found = comparison([row("patch_embed", 0), stage, row("head", 1)])
    assert found.first is stage
    assert first_line(found) == f"they part at {why}"


def test_nothing_compared_is_not_alike() -> None:
    found = comparison([])
    assert not found.ok
    assert found.first is None
    assert first_line(found).startswith("nothing was compared")


@pytest.mark.parametrize(
    ("fields", "but"),
    [
        ({"configuration": EPS}, "configuration differs"),
        ({"parameters": ParameterDifference(missing=("a",))}, "parameters differ"),
        (
            {
                "configuration": EPS,
                "parameters": ParameterDifference(largest={"a": 1.0}),
            },
            "configuration and parameters differ",
        ),
    ],
)
def test_alike_numbers_do_not_hide_what_else_differs(fields: Any, but: str) -> None:
    found = comparison(**fields)
    assert found.ok
    expected = f"alike on 2 images, but the {but}; randomized weights may show it"
    assert first_line(found) == expected
    drawn = comparison(randomize=True, **fields)
    assert first_line(drawn) == expected.partition(";")[0]


def test_preprocessing_that_parts_comes_first_and_goes_on_in_the_stages() -> None:
    inputs = (row("cat.jpg", 0), row("dog.jpg", 0.5))
    line = "they part in preparing dog.jpg: 5e-1 of its scale, allowed 1e-4"
    assert first_line(comparison(preprocessing=inputs)) == line
    found = comparison(parts_at="pool", preprocessing=inputs)
    assert not found.ok
    assert found.first is inputs[1]
    assert first_line(found) == line
    alone = comparison(parts_at="pool", preprocessing=inputs, isolate=True)
    assert first_line(alone) == f"{line} and at pool: 3.1e-2 of its scale, allowed 1e-4"


def test_a_note_is_said_whether_a_stage_parts_or_not() -> None:
    note = "fork.py:ViT cannot be had in float64"
    for apart, end in ((0.0, "or atol 0"), (0.5, "or atol 1")):
        stage = replace(row("patch_embed", apart), note=note)
        found = comparison([stage])
        assert found.table().endswith(f"{end}, {note}")
        assert note not in first_line(found)


def test_two_sides_that_stop_have_a_line() -> None:
    stopped = replace(
        measured("output", None, None, 1e-4, 0), note="a stopped; b stopped"
    )
    found = comparison([row("patch_embed", 0), stopped])
    assert first_line(found) == "they part at output: a stopped; b stopped"
    assert "None" not in found.table()


def test_the_text_tells_all_in_order() -> None:
    text = str(
        comparison(
            parts_at="norm",
            configuration=EPS,
            parameters=ParameterDifference(
                ("cls_token",), (), {"pos_embed": ((1, 5, 8), (1, 4, 8))}, {}, 9
            ),
            preprocessing=(row("dog.jpg", 0),),
            isolate=True,
            randomize=True,
        )
    )
    expected = [
        "they part at norm",
        "reference",
        "candidate",
        "2 drawn images",
        "rtol 1e-4, atol 0",
        "both ran on the same drawn weights",
        "each stage of the candidate had the reference's input",
        "configuration",
        "blocks.0-11.norm1.eps: 1e-06, 1e-05",
        "parameters",
        "2 of 11 differ",
        "missing: cls_token",
        "other shapes: pos_embed (1, 5, 8), (1, 4, 8)",
        "preprocessing",
        "dog.jpg",
        "stages",
        "patch_embed",
        "head",
    ]
    places = [text.find(word) for word in expected]
    assert places == sorted(places)
    assert places[0] == 0


def test_one_parameter_differs() -> None:
    found = comparison(parameters=ParameterDifference(largest={"a": 1.0}, alike=151))
    assert "  1 of 152 differs\n" in str(found)


def test_that_no_parameter_was_compared_is_said() -> None:
    text = str(comparison(parameters=ParameterDifference()))
    assert "parameters\n  none to compare\n" in text


def test_what_does_not_differ_is_said_too() -> None:
    assert str(comparison()).count("no difference") == 2


@pytest.mark.parametrize("exact", [False, True])
def test_each_stages_line_ends_with_what_would_pass(exact: bool) -> None:
    found = comparison(parts_at="norm", exact=exact)
    lines = found.table().splitlines()[2:]
    number = r"(\d[\d.]*(?:e-?\d+)?)"
    end = rf"required rtol {number} or atol {number}"
    if exact:
        end += rf", {number} x the reference's own float32 error"
    assert len(lines) == len(found.stages)
    for line, stage in zip(lines, found.stages, strict=True):
        words = re.search(f"{end}$", line)
        assert words is not None
        assert float(words[1]) == stage.required_rtol
        assert float(words[2]) == stage.required_atol


def test_columns_are_aligned() -> None:
    head, rule, *lines = comparison(parts_at="norm").table().splitlines()
    at = head.index("verdict")
    assert {line[at : at + 5] for line in lines} == {"alike", "parts"}
    assert len(rule) == max(map(len, [head, *lines]))


def test_a_line_without_a_number_says_why() -> None:
    lines = comparison([ALONE, NAN_STAGE]).table().splitlines()[2:]
    assert lines[0].endswith("only the candidate has it")
    assert "unlike" in lines[0]
    assert lines[1].endswith("no tolerance passes")
    zeros = measured("pool", np.zeros(3), np.full(3, 0.25), 1e-4, 0)
    assert comparison([zeros]).table().endswith("required atol 2.5e-1")


def test_names_cannot_steer_a_terminal() -> None:
    text = str(comparison(candidate="\x1b[31mred", images="a\nb"))
    assert "\x1b" not in text
    assert "\\x1b[31mred" in text
    assert "a\\nb" in text


def test_values_round_trip_through_strict_json() -> None:
    found = comparison(
        [row("patch_embed", 0, exact=True), ALONE, NAN_STAGE, row("head", 0.5)],
        configuration=(
            *EPS,
            ("img_size", (32, 32), np.int64(4)),
            ("act", None, np.float32(0.5)),
            ("pool", len, math.nan),
        ),
        parameters=ParameterDifference(
            shapes={"a": ((1, 2), (2,))}, largest={"b": math.inf}
        ),
    )
    values = found.to_dict()
    assert json.loads(json.dumps(values, allow_nan=False)) == values
    assert values["ok"] is False
    assert values["first"] == "norm_pre"
    assert values["verdict"] == first_line(found)
    assert values["stages"][1]["largest"] is None
    assert values["stages"][2]["largest"] == "inf"
    assert values["stages"][3]["required_rtol"] == 0.5
    assert values["stages"][0]["reference_error"] == found.stages[0].reference_error
    assert values["configuration"][12] == ["img_size", [32, 32], 4]
    assert values["configuration"][13] == ["act", None, 0.5]
    assert values["parameters"]["shapes"] == {"a": [[1, 2], [2]]}
    assert values["parameters"]["largest"] == {"b": "inf"}


def test_no_comparison_of_one_that_is_alike_names_a_first() -> None:
    assert comparison().to_dict()["first"] is None


class _Read(dict[str, Any]):
    """Counts what is read."""

    def __init__(self, **arrays: Any) -> None:
        super().__init__(arrays)
        self.read: list[str] = []

    def __getitem__(self, name: str) -> Any:
        self.read.append(name)
        return super().__getitem__(name)


def test_parameters_are_read_once_and_only_where_both_have_them() -> None:
    ours = _Read(a=np.ones(3), b=np.ones(2), c=np.zeros((2, 2)), d=np.array([math.nan]))
    theirs = _Read(
        c=np.zeros(4), a=np.ones(3), d=np.ones(1), e=np.ones(9), f=np.ones(1)
    )
    found = parameter_difference(ours, theirs)
    assert found.missing == ("b",)
    assert found.unexpected == ("e", "f")
    assert found.shapes == {"c": ((2, 2), (4,))}
    assert found.largest == {"d": math.inf}
    assert (found.alike, found.count) == (1, 5)
    assert found
    assert ours.read == theirs.read == ["a", "c", "d"]


def test_parameters_that_are_the_same() -> None:
    both = {"a": np.array([1.0, math.nan]), "b": np.zeros((0, 3))}
    found = parameter_difference(both, dict(both))
    assert not found
    assert str(found) == "no difference"
    assert found.alike == 2


def test_the_parameter_that_differs_most_comes_first() -> None:
    largest = {f"blocks.{i}.norm1.bias": i / 100 for i in range(1, 20)}
    [line] = ParameterDifference(largest=largest).lines()
    assert line.startswith("other numbers: blocks.19.norm1.bias 1.9e-1, ")
    assert line.endswith("and 11 more")
