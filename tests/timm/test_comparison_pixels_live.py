# SPDX-License-Identifier: Apache-2.0
"""Files to a model's input, by timm for timm's models and by vitpool for ours."""

from __future__ import annotations

from typing import Any

import numpy as np
import prepare  # noqa: F401
import pytest
import timm

import vitpool
from vitpool.testing.comparison import pixels as module
from vitpool.testing.comparison.pixels import pixels_of

SAMPLES = vitpool.samples()[:2]


@pytest.mark.parametrize(
    "options",
    [{}, {"img_size": 64}, {"img_size": (32, 64)}, {"in_chans": 1, "img_size": 32}],
    ids=str,
)
def test_timms_preprocessing_and_ours_are_one(options: dict[str, Any]) -> None:
    theirs = timm.create_model("vit_tiny_patch16_224", depth=1, **options)
    ours = vitpool.create_model("vit_tiny_patch16_224", depth=1, **options)
    size = vitpool.resolve_data_config(ours)["input_size"]
    expected, facts = pixels_of(theirs, size, SAMPLES)
    got, own = pixels_of(ours, size, SAMPLES)
    assert expected.shape == (2, *size)
    np.testing.assert_allclose(got, expected, rtol=0, atol=1e-6)
    assert own == facts
    assert facts["preprocessing.crop_pct"] == 0.9


def test_a_timm_module_is_prepared_for_by_timm(monkeypatch) -> None:
    def refuse(**_: Any) -> None:
        raise AssertionError("vitpool's transform")

    monkeypatch.setattr(module, "create_transform", refuse)
    theirs = timm.create_model("vit_tiny_patch16_224", depth=1, img_size=32)
    theirs.pretrained_cfg["interpolation"] = "bilinear"
    _, facts = pixels_of(theirs, (3, 32, 32), SAMPLES)
    assert facts["preprocessing.interpolation"] == "bilinear"


def test_without_timm_the_configuration_is_read_all_the_same(monkeypatch) -> None:
    theirs = timm.create_model("vit_tiny_patch16_224", depth=1, img_size=32)
    expected, facts = pixels_of(theirs, (3, 32, 32), SAMPLES)
    monkeypatch.delitem(module.sys.modules, "timm")
    got, own = pixels_of(theirs, (3, 32, 32), SAMPLES)
    np.testing.assert_allclose(got, expected, rtol=0, atol=1e-6)
    assert own == facts


def test_a_module_that_says_nothing_of_its_pictures_is_refused() -> None:
    theirs = timm.create_model("vit_tiny_patch16_224", depth=1, img_size=32)
    del theirs.pretrained_cfg
    with pytest.raises(TypeError, match="has no pretrained_cfg"):
        pixels_of(theirs, (3, 32, 32), SAMPLES)
    five = vitpool.create_model("vit_tiny_patch16_224", depth=1, in_chans=5)
    with pytest.raises(TypeError, match="1 channel or 3, the model takes 5"):
        pixels_of(five, (5, 224, 224), SAMPLES)
