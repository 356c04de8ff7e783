# SPDX-License-Identifier: Apache-2.0
"""timm's other plain classes in each dtype: near to float32, bits in their places."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from golden import recipe

import vitpool
from vitpool.checkpoint.drawn import drawn
from vitpool.model import matrices

SMALL: dict[str, Any] = {
    "embed_dim": 64,
    "num_heads": 4,
    "depth": 2,
    "num_classes": 10,
}
# Names, one for each concept, with options that make them small.
NAMES: dict[str, dict[str, Any]] = {
    "eva_giant_patch14_224": {},  # q_bias and v_bias
    "eva02_enormous_patch14_clip_224": {},  # norms behind attention and MLP
    "eva02_tiny_patch14_224": {},  # rotated; packed SwiGLU
    "eva02_base_patch14_448": {},  # three matrices; SwiGLU with a norm
    "vit_medium_patch16_rope_reg1_gap_256": {},  # no class token
    "vit_pe_core_tiny_patch16_384": {},  # a pool of its own heads
    "vit_small_patch16_rope_mixed_ape_224": {},  # rotations of each head
    "vit_small_plus_patch16_dinov3": {},  # halves turned
    "vit_base_patch16_sapiens2": {"depth": 3, "num_kv_heads": (None, 2, None)},
    "deit_tiny_distilled_patch16_224": {},  # two heads
    "beit_base_patch16_224": {},  # a table for each block
    "vit_relpos_small_patch16_224": {},  # an MLP of distances for each block
    "vit_srelpos_small_patch16_224": {},  # one for all blocks
    "vit_relpos_base_patch32_plus_rpn_256": {},  # norms behind
    "naflexvit_base_patch16_gap": {},  # a linear embedding
    "naflexvit_base_patch16_parfac_gap": {},  # positions of rows and of columns
    "vit_base_mci_224": {},  # a stem with BatchNorm
}
# The least cosine of a picture's pooled features with float32's; drawn weights make
# more of a rounding than trained ones.
LEAST = {"bfloat16": 0.9999, "float16": 0.999999, "int8": 0.999}
CASES = [(name, dtype) for name in NAMES for dtype in LEAST]
BATCH = 9
_BUILT: dict[str, Any] = {}


def built(name: str) -> tuple[Any, np.ndarray]:
    """A model with drawn weights, and pictures for it."""
    if name not in _BUILT:
        options = SMALL | NAMES[name]
        patch = 14 if "patch14" in name else 32 if "patch32" in name else 16
        size = 4 * patch, 5 * patch
        grid = {"pos_embed_grid_size": (4, 5)}
        options |= grid if "naflex" in name else {"img_size": size}
        model = vitpool.create_model(name, seed=0, **options)
        weights = {}
        for key, shape in model.param_shapes().items():
            numbers = drawn(key, shape, 0)
            variance = key.endswith("running_var")
            weights[key] = 0.5 + np.abs(numbers) if variance else numbers
        model.load_state_dict(weights)
        _BUILT[name] = model, recipe.picture((BATCH, 3, *size))
    return _BUILT[name]


def pooled(model: Any, x: np.ndarray) -> np.ndarray:
    features = model.forward_head(model.forward_features(x), pre_logits=True)
    return np.asarray(features, np.float64).reshape(len(x), -1)


@pytest.mark.parametrize(("name", "dtype"), CASES)
def test_features_are_near_to_float32s(name: str, dtype: str) -> None:
    model, x = built(name)
    other = model.to(dtype)
    assert type(other) is type(model)
    assert other.dtype == dtype
    a, b = pooled(model, x), pooled(other, x)
    lengths = np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1)
    cosines = (a * b).sum(1) / lengths
    assert cosines.min() > LEAST[dtype]
    assert not np.array_equal(a, b)


@pytest.mark.parametrize("name", NAMES)
def test_of_int8_what_stands_beside_the_blocks_is_float32(name: str) -> None:
    model, _ = built(name)
    dtypes = model.to("int8")._dtypes()
    names = matrices(model.param_shapes())
    inside = {n for n in names if n.startswith("blocks.")}
    assert {dtypes[n] for n in inside} <= {"int8", "int8_a16"}
    assert {d for n, d in dtypes.items() if n not in inside} == {"float32"}
    # RelPosMlp's matrices are no such ones in any dtype
    half = model.to("bfloat16")._dtypes()
    assert {n for n, d in half.items() if d == "bfloat16"} == set(names)
    assert not [n for n in names if "rel_pos" in n]


@pytest.mark.parametrize(("name", "dtype"), CASES)
def test_a_row_does_not_depend_on_batch_position_or_threads(
    name: str, dtype: str
) -> None:
    model, x = built(name)
    model = model.to(dtype)
    before = vitpool.get_num_threads()
    try:
        vitpool.set_num_threads(1)
        want = [model(x[i : i + 1]).tobytes() for i in range(BATCH)]
        for batch in (2, 3, 5, BATCH):
            vitpool.set_num_threads(1 + batch % 4)
            rows = [(batch * 5 + i) % BATCH for i in range(batch)]
            got = model(x[rows])
            different = [i for i in range(batch) if got[i].tobytes() != want[rows[i]]]
            assert different == [], f"batch {batch}: rows {different}"
    finally:
        vitpool.set_num_threads(before)


@pytest.mark.parametrize(("name", "dtype"), CASES)
def test_a_folder_holds_the_model_to_the_bit(
    name: str, dtype: str, tmp_path: Path
) -> None:
    model, x = built(name)
    model = model.to(dtype)
    model.save_pretrained(tmp_path)
    again = vitpool.create_model(f"local-dir:{tmp_path}", pretrained=True)
    assert type(again) is type(model)
    assert again._dtypes() == model._dtypes()
    assert again(x).tobytes() == model(x).tobytes()


@pytest.mark.parametrize("dtype", LEAST)
@pytest.mark.parametrize("which", ["q_proj", "k_proj", "v_proj"])
def test_one_of_q_k_and_v_may_be_of_another_dtype(which: str, dtype: str) -> None:
    """Each is a product of its own; attention goes by the queries'."""
    model, x = built("eva02_base_patch14_448")
    other = model.to(dtype, keep=f"blocks.*.attn.{which}")
    dtypes = other._dtypes()
    kept = [n for n in dtypes if f".attn.{which}.weight" in n]
    assert len(kept) == SMALL["depth"]
    assert {dtypes[n] for n in kept} == {"float32"}
    a, b = pooled(model, x), pooled(other, x)
    near = np.linalg.norm(a - b, axis=1) / np.linalg.norm(a, axis=1)
    assert near.max() < 0.05
    assert other(x[3:4]).tobytes() == other(x)[3:4].tobytes()


def test_calibrated_on_pictures_of_another_grid() -> None:
    """Their rotary table goes along."""
    model = vitpool.create_model(
        "vit_small_patch16_dinov3", img_size=64, seed=0, **SMALL
    )
    x = recipe.picture((2, 3, 48, 80))
    calibrated = model.calibrate(x)
    assert calibrated.dtype == "int8"
    assert calibrated(x).shape == (2, 10)
