# SPDX-License-Identifier: Apache-2.0
"""The constructor's signature, what it says of each option, and an option it lacks."""

from __future__ import annotations

import inspect
import pydoc
import re
from typing import Any, get_args, get_type_hints

import pytest
from models import BASE

import vitpool
from vitpool.config import DEFAULTS, family, names, options, vit

OWN = {"device": None, "dtype": None, "seed": None, "weights": None}


def parameters() -> dict[str, inspect.Parameter]:
    return dict(inspect.signature(vitpool.VisionTransformer).parameters)


def test_the_signature_has_every_option_with_its_default_in_order() -> None:
    found = {name: p.default for name, p in parameters().items()}
    assert list(found.items()) == list((DEFAULTS | OWN).items())
    assert all(type(found[name]) is type(DEFAULTS[name]) for name in DEFAULTS)


def test_options_can_be_given_by_position_and_our_own_cannot() -> None:
    keyword_only = {n for n, p in parameters().items() if p.kind is p.KEYWORD_ONLY}
    assert keyword_only == set(OWN)
    model = vitpool.VisionTransformer(32, 8, 1, 3, "avg", 16, 1, 2, seed=0)
    assert model.config == {
        "img_size": 32,
        "patch_size": 8,
        "in_chans": 1,
        "num_classes": 3,
        "global_pool": "avg",
        "embed_dim": 16,
        "depth": 1,
        "num_heads": 2,
    }


def test_every_option_has_a_type() -> None:
    hints = get_type_hints(inspect.unwrap(vitpool.VisionTransformer.__init__))
    assert set(hints) == {*DEFAULTS, *OWN, "return"}
    assert Any not in hints.values()


def test_create_model_has_the_types_of_the_constructor() -> None:
    hints = get_type_hints(inspect.unwrap(vitpool.VisionTransformer.__init__))
    keywords = get_type_hints(names.ModelOptions)
    assert set(keywords) == set(DEFAULTS) - {"num_classes", "global_pool"}
    assert keywords == {name: hints[name] | None for name in keywords}


def test_the_docstring_says_what_every_option_means() -> None:
    doc = inspect.getdoc(vitpool.VisionTransformer.__init__) or ""
    told = re.findall(r"^((?:[a-z_]+, *)*[a-z_]+(?:,\n\s+[a-z_]+)?): ", doc, re.M)
    assert [name for row in told for name in re.findall("[a-z_]+", row)] == [
        *DEFAULTS,
        *OWN,
    ]
    shown = pydoc.plain(pydoc.render_doc(vitpool.VisionTransformer))
    assert all(f"{name}: " in shown for name in ("img_size", "attn_layer", "seed"))


@pytest.mark.parametrize(
    ("option", "kind", "known"),
    [
        ("act_layer", names.ActLayer, family._ACTS),
        ("mlp_layer", names.MlpLayer, family._MLPS),
        ("attn_layer", names.AttnLayer, vit._ATTNS),
        ("block_fn", names.BlockFn, vit.BLOCKS_BY_NAME),
        ("norm_layer", names.NormName, family._NORMS),
    ],
)
def test_a_type_has_the_names_that_the_option_takes(
    option: str, kind: Any, known: dict[str, str]
) -> None:
    assert set(get_args(kind)) == set(known.values())
    for name in get_args(kind):
        assert options.resolve({option: name})[option] == name


@pytest.mark.parametrize(
    ("option", "kind"),
    [
        ("global_pool", names.Pool),
        ("pos_embed", names.PosEmbed),
        ("weight_init", names.WeightInit),
    ],
)
def test_the_constructor_takes_every_name_of_the_type_and_no_other(
    option: str, kind: Any
) -> None:
    for name in get_args(kind):
        assert vitpool.VisionTransformer(**BASE | {option: name}, seed=0)
    with pytest.raises(ValueError, match=option):
        vitpool.VisionTransformer(**BASE | {option: "mpa"})


@pytest.mark.parametrize(
    ("wrong", "meant"),
    [("depht", "depth"), ("glob_pool", "global_pool"), ("sed", "seed")],
)
def test_an_option_that_is_misspelt_hears_which_was_meant(
    wrong: str, meant: str
) -> None:
    with pytest.raises(TypeError, match=f"'{wrong}'; did you mean '{meant}'") as raised:
        vitpool.VisionTransformer(**{wrong: 1})
    assert all(name in str(raised.value) for name in {**DEFAULTS, **OWN})


def test_an_option_is_given_once_and_none_is_left_over() -> None:
    with pytest.raises(TypeError, match="img_size"):
        vitpool.VisionTransformer(32, img_size=32)  # type: ignore[misc]
    with pytest.raises(TypeError, match="positional arguments"):
        vitpool.VisionTransformer(*[1] * 60)  # type: ignore[arg-type, misc]
