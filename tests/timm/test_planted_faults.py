# SPDX-License-Identifier: Apache-2.0
"""Eight faults that copies of timm have: each is named, and a sound copy is not.

`audit` finds those of a reset, by the check; `compare` those of the numbers, by the
stage.
"""

from __future__ import annotations

from typing import Any

import fork
import numpy as np
import pytest
import reference
import torch
from dice import Dice, examples
from golden import recipe

import vitpool
from vitpool.testing.audit import audit

SMALL: dict[str, Any] = {
    "img_size": 16,
    "patch_size": 8,
    "embed_dim": 16,
    "depth": 2,
    "num_heads": 2,
    "num_classes": 3,
}
# What names a fault: a check,
CHECKS = {
    "'map ' in reset_classifier": "kept_pool_is_bit_equal",
    "norm lost at reset": "the_body_is_left_alone",
    "head bias dropped at reset": "head_options_are_kept",
    "half-changed by a refused reset": "a_refused_reset_changes_nothing",
}
# or a stage.
STAGES = {
    "avg over the prefix": "pool",
    "eps of one norm": "blocks.1.mlp",
    "quick GELU in one block": "blocks.1.mlp",
    "q and k swapped": "blocks.1.attn",
}


def pair(fault: str | None = None, **options: Any) -> tuple[Any, Any]:
    """A sound copy, and one with the fault and the same weights."""
    torch.manual_seed(0)
    sound = fork.VisionTransformer(**SMALL | options)
    other = fork.VisionTransformer(fault=fault, **SMALL | options)
    other.load_state_dict(sound.state_dict())
    return sound, other


def test_each_fault_is_found_by_one_of_the_two() -> None:
    assert sorted([*CHECKS, *STAGES]) == sorted(fork.FAULTS)


@pytest.mark.parametrize("fault", CHECKS)
def test_audit_names_the_check(fault: str) -> None:
    check = CHECKS[fault]
    report = audit(fork.FAULTS[fault], only=[check], **SMALL)
    assert not report.ok
    assert {finding.check for finding in report.findings} == {check}


@pytest.mark.parametrize("isolate", [False, True])
@pytest.mark.parametrize("fault", STAGES)
def test_compare_names_the_stage(fault: str, isolate: bool) -> None:
    """Isolated, no other stage is to blame. Fresh weights hide what is in a block, and
    drawn ones what an eps does: beside their numbers 1e-5 is nothing.
    """
    models = pair(fault, global_pool="avg", reg_tokens=2)
    randomize = fault != "eps of one norm"
    comparison = vitpool.compare(*models, isolate=isolate, randomize=randomize)
    assert comparison.first is not None
    assert comparison.first.name == STAGES[fault]
    assert f"they part at {STAGES[fault]}:" in str(comparison)
    if isolate:
        parting = [row.name for row in comparison.stages if not row.ok]
        assert parting == [STAGES[fault]]


def test_compare_names_the_eps_where_weights_hide_what_it_does() -> None:
    """Drawn weights give numbers beside which 1e-5 is nothing."""
    models = pair("eps of one norm")
    drawn = vitpool.compare(*models, randomize=True)
    assert drawn.ok
    assert drawn.configuration == (("blocks.1.norm2.eps", 1e-6, 1e-5),)
    assert "blocks.1.norm2.eps" in str(drawn)
    exactly = (model.double() for model in models)
    comparison = vitpool.compare(*exactly, randomize=True, rtol=1e-9)
    assert comparison.first is not None
    assert comparison.first.name == "blocks.1.mlp"


def configuration(dice: Dice) -> dict[str, Any]:
    """Options of the copy, which timm takes too."""
    pick, sometimes = dice.pick, dice.sometimes
    heads, patch, class_token = dice.integer(1, 4), pick(4, 8), pick(False, True)
    return {
        "img_size": (patch * dice.integer(1, 4), patch * dice.integer(1, 4)),
        "patch_size": patch,
        "in_chans": pick(3, 3, 1),
        "num_classes": pick(0, 5, 8),
        "global_pool": pick(*(p for p in fork.POOLS if class_token or p != "token")),
        "embed_dim": heads * pick(*(d for d in (8, 16, 24) if heads * d >= 24)),
        "depth": dice.integer(1, 3),
        "num_heads": heads,
        "mlp_ratio": pick(4.0, 2.0, 2.67),
        "qkv_bias": not sometimes(),
        "qk_norm": sometimes(),
        "init_values": pick(None, 1e-5, 1.0),
        "class_token": class_token,
        "no_embed_class": sometimes(),
        "reg_tokens": dice.integer(0, 3),
        "pre_norm": sometimes(),
        "final_norm": not sometimes(),
        "fc_norm": pick(None, None, True, False),
        "pool_include_prefix": sometimes(),
    }


@pytest.mark.parametrize("example", examples(20))
def test_a_sound_copy_is_alike(example: int) -> None:
    """Beside timm and beside ours, whatever is asked of compare."""
    dice = Dice("sound copy", example)
    options, seed = configuration(dice), dice.integer(0, 2**32)
    how = {k: dice.sometimes() for k in ("isolate", "float64", "randomize")}
    print(f"options = {options!r}, seed = {seed}, {how}")
    theirs = reference.build(options)
    if not dice.sometimes():  # else with fresh weights
        reference.fill(theirs, seed)
    sound = fork.VisionTransformer(**options)
    sound.load_state_dict(theirs.state_dict())
    ours = vitpool.from_timm(sound, like_timm=True)
    x = recipe.picture((2, options["in_chans"], *options["img_size"]), seed)
    for one, other in ((theirs, sound), (sound, ours), (ours, theirs)):
        comparison = vitpool.compare(one, other, dice.pick(x, None), seed=seed, **how)
        assert comparison.ok, comparison
        assert comparison.first is None
        assert not comparison.configuration, comparison
        assert not comparison.parameters
        assert all(np.isfinite(row.largest) for row in comparison.stages)


@pytest.mark.parametrize("example", examples(1))
def test_a_sound_copy_is_audited_without_a_finding(example: int) -> None:
    options = configuration(Dice("sound audit", example)) | SMALL
    print(f"options = {options!r}")
    report = audit(fork.VisionTransformer, **options)
    assert report.ok, report
    assert len(report.passed) > 20
