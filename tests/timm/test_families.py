# SPDX-License-Identifier: Apache-2.0
"""Every plain Vision Transformer of timm that is not vision_transformer.py's.

Keys and their order, shapes, and the outputs at the model's own size and at another,
which is not square, against timm in float64. Models are cut to two blocks, Sapiens2's
to three, and are as wide as they are.

VITPOOL_FAMILIES=some: one name for each concept and for each kind of checkpoint, and
smaller pictures where a pass takes more than 2 10^10 operations.
"""

from __future__ import annotations

import os
from typing import Any

import families
import measure
import numpy as np
import pytest
import reference
import torch
from golden import recipe

import vitpool

SOME = {
    "eva_giant_patch14_224": "q_bias and v_bias; normed behind the pool",
    "eva02_enormous_patch14_clip_224": "norms behind attention and MLP",
    "eva02_tiny_patch14_224": "rotated, ij; packed SwiGLU",
    "eva02_base_patch14_448": "q_proj, k_proj, v_proj; SwiGLU with a norm",
    "eva02_base_patch16_clip_224": "a norm in attention; a reference of another size",
    "vit_medium_patch16_rope_reg1_gap_256": "registers, no class token",
    "vit_pe_core_tiny_patch16_384": "a pool of its own heads; xy with an offset",
    "vit_pe_spatial_tiny_patch16_512": "no last norm",
    "vit_small_patch16_rope_ape_224": "rotated beside absolute positions",
    "vit_small_patch16_rope_mixed_ape_224": "learned rotations of each head",
    "vit_small_patch16_dinov3_qkvb": "halves turned; normed before the mean; any size",
    "vit_small_plus_patch16_dinov3": "SwiGLU aligned to 8; no bias of q, k and v",
    "vit_small_patch16_lingbot": "DINOv3's with another pool",
    "vit_large_patch16_sapiens2": "fewer heads of k and v; RmsNorm; gamma_1 alone",
    "deit_tiny_distilled_patch16_224": "two heads",
    "deit3_small_patch16_224": "positions without the class token",
    "beit_base_patch16_224": "a table for each block",
    "test_vit_relpos": "small",
    "vit_relpos_small_patch16_224": "an MLP of distances for each block",
    "vit_srelpos_small_patch16_224": "one for all blocks",
    "vit_relpos_base_patch16_clsgap_224": "a class token without a place",
    "vit_relpos_base_patch32_plus_rpn_256": "norms behind, and a bias of q, k and v",
    "naflexvit_base_patch16_gap": "resampled positions, registers",
    "naflexvit_base_patch16_parfac_gap": "positions of rows and of columns",
    "naflexvit_base_patch16_siglip": "SigLIP 2",
    "naflexvit_base_patch16_radio_v3": "RADIO",
    "vit_base_mci_224": "a stem of convolutions",
}
CUT = os.environ.get("VITPOOL_FAMILIES") == "some"
NAMES = list(SOME) if CUT else families.NAMES
RATIOS: dict[str, list[float]] = {}


def test_the_names_are_timms() -> None:
    assert len(families.NAMES) == 117
    assert set(SOME) <= set(families.NAMES)
    assert set(vitpool.list_models()) >= set(families.NAMES)


@pytest.fixture(autouse=True, scope="module")
def _all_cores() -> Any:
    """Large models do compute more than they wait."""
    threads = torch.get_num_threads()
    torch.set_num_threads(os.cpu_count() or 1)
    yield
    torch.set_num_threads(threads)


def views(model: Any, x: Any) -> dict[str, Any]:
    return dict(families.views(model, x))


@pytest.mark.parametrize("name", NAMES)
def test_a_model_agrees_with_timms(name: str) -> None:
    options = families.small_enough(name)
    model = families.on_meta(name, **options)
    size = families.own_size(model)
    if CUT:
        size = families.smaller_size(model, 2e10)
        if not hasattr(model, "embeds"):
            options["img_size"] = size
    if model.num_classes:
        options["num_classes"] = (
            8  # a head is a matrix like any other, and this costs less
        )
    model = families.on_meta(name, **options)
    state = families.draw(model)
    ours = vitpool.create_model(name, weights=state, **options)
    # BatchNorm's count of batches is no number of the model's
    state = {k: v for k, v in state.items() if v.dtype == np.float32}
    shapes = {k: tuple(v) for k, v in ours.param_shapes().items()}
    assert list(shapes.items()) == [(k, v.shape) for k, v in state.items()]
    np.testing.assert_equal(ours.state_dict(), state)
    double = families.exact(model)
    other = families.other_size(model, size)
    assert other != size
    for now in (size, other):
        if now == other and not families.takes_any_size(model):
            families.resized((model, double, ours), other)
        x = recipe.picture((1, 3, *now))
        plain = reference.plainly(model, views, x)
        exact = reference.exactly(double, views, x)
        found = reference.compare(views(ours, x), exact, plain, f"{name} {now}")
        RATIOS.setdefault(name, []).extend(found)


def test_errors_are_no_larger_than_timms_on_the_whole() -> None:
    """Over the models that ran before in this session."""
    if not RATIOS:
        pytest.fail("run this test together with the models")
    ratios = [ratio for found in RATIOS.values() for ratio in found]
    assert measure.mean_ratio(ratios) < 1.1
