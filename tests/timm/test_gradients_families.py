# SPDX-License-Identifier: Apache-2.0
"""Gradients of timm's other plain classes beside torch's autograd, in float64.

One name for each concept, narrow and of two blocks; `gradient_measure` has the measure.
"""

from __future__ import annotations

import copy
import types
from collections.abc import Mapping
from typing import Any

import autograd
import drop_masks
import families
import measure
import numpy as np
import pytest
import reference
import timm
import torch
from golden import recipe
from gradient_measure import FLOOR, Found, errors, passes, worst

import vitpool
from vitpool import _core
from vitpool.train import gradients

SMALL = {"embed_dim": 32, "num_heads": 2, "depth": 2, "num_classes": 6}
INPUTS, NEARBY = 2, 16
KINK = 1e-5

# Names, what is special there, and options that make them small.
EVA: dict[str, dict[str, Any]] = {
    # q_bias and v_bias; fc_norm
    "eva_giant_patch14_224": {},
    # interleaved, packed SwiGLU
    "eva02_tiny_patch14_224": {},
    # q_proj, k_proj, v_proj; SwiGLU with a norm
    "eva02_base_patch14_448": {},
    # norms behind attention and MLP
    "eva02_enormous_patch14_clip_224": {},
    # a norm in attention, a reference of another size
    "eva02_base_patch16_clip_224": {},
    # registers, no class token
    "vit_medium_patch16_rope_reg1_gap_256": {},
    # an attention pool of its own heads
    "vit_pe_core_tiny_patch16_384": {},
    "vit_small_patch16_rope_ape_224": {},
    "vit_small_patch16_rope_mixed_ape_224": {},
    # halves; normed before the mean
    "vit_small_patch16_dinov3_qkvb": {},
    "vit_small_plus_patch16_dinov3": {},
    # heads that share keys, RmsNorm of q and k, gamma_1 alone
    "vit_base_patch16_sapiens2": {
        "num_heads": 4,
        "depth": 3,
        "num_kv_heads": (None, 2, None),
        # which moves coordinates in timm's training
        "rope_rescale_coords": 1,
    },
}
OTHERS: dict[str, dict[str, Any]] = {
    "deit_tiny_distilled_patch16_224": {},
    "beit_base_patch16_224": {},
    "beitv2_base_patch16_224": {},
    "test_vit_relpos": {},
    "vit_relpos_small_patch16_224": {},
    "vit_srelpos_small_patch16_224": {},
    "vit_relpos_base_patch16_clsgap_224": {},
    # norms behind, and a bias of q, k and v
    "vit_relpos_base_patch32_plus_rpn_256": {"img_size": (96, 128)},
}
NAFLEX: dict[str, dict[str, Any]] = {
    "naflexvit_base_patch16_gap": {"pos_embed_grid_size": (3, 4)},
    "naflexvit_base_patch16_siglip": {"pos_embed_grid_size": (3, 4)},
}
NAMES = EVA | OTHERS | NAFLEX
RATIOS: list[float] = []


def learned_rotations(rope: Any, shape: Any = None, dtype: Any = None) -> Any:
    """RotaryEmbeddingMixed.get_embed in the frequencies' precision, for autograd."""
    rows, columns = shape or rope.feat_shape
    freqs = rope.freqs
    y = torch.arange(rows, dtype=freqs.dtype).repeat_interleave(columns)
    x = torch.arange(columns, dtype=freqs.dtype).repeat(rows)
    first, second = (x, y) if rope.grid_indexing == "xy" else (y, x)
    angles = first[:, None] * freqs[0][:, :, None]
    angles = angles + second[:, None] * freqs[1][:, :, None]
    angles = angles.repeat_interleave(2, -1)
    return torch.cat([angles.sin(), angles.cos()], -1)


class DroppedOfTwo(autograd.Dropped):
    """head_drop of the distilled model: of one token, then of the other."""

    calls = 0

    def forward(self, x: Any) -> Any:
        width = x.shape[1]
        kept = drop_masks.kept(
            self.rate, self.seed, self.site, self.images(x), 2 * width
        )
        first, self.calls = self.calls % 2 * width, self.calls + 1
        return self.scaled(x, kept[:, first : first + width])


class Pair:
    """Ours and timm's of one name, with drawn weights."""

    def __init__(self, name: str, **extra: Any) -> None:
        self.name = name
        options = SMALL | NAMES.get(name, {}) | extra
        if "naflex" not in name and "img_size" not in options:
            patch = 14 if "patch14" in name else 16
            options["img_size"] = (3 * patch, 4 * patch)
        with torch.device("meta"):
            self.timm = timm.create_model(name, **options).eval()
        state = families.draw(self.timm)
        self.ours = vitpool.create_model(name, weights=state, **options)
        self.exact = families.exact(self.timm)
        if "rope.freqs" in state:
            rope = self.exact.rope
            rope.get_embed = types.MethodType(learned_rotations, rope)

    @property
    def kink(self) -> float:
        """How near numbers may come to a kink: RelPosMlp's ReLU, which sees no picture
        and is the only one in its models, is far from none."""
        return 0.0 if "relpos" in self.name else KINK

    @property
    def names(self) -> list[str]:
        """What trains."""
        return list(self.ours.param_shapes())

    def size(self) -> tuple[int, int, int]:
        patch = families.patch_of(self.timm)
        return 3, 3 * patch[0], 4 * patch[1]


def torchs(
    model: Any, names: list[str], x: np.ndarray, aim: Any, double: bool
) -> Found:
    """torch's own, of a loss of the logits as inference gives them."""
    model = copy.deepcopy(model).requires_grad_(False)
    wanted = {n: p for n, p in model.named_parameters() if n in names}
    for parameter in wanted.values():
        parameter.requires_grad_(True)

    def run() -> tuple[Any, Any]:
        logits = model(reference.tensor(x, double))
        losses = aim.torch(logits)
        losses.sum().backward()
        return losses, logits

    if double:
        with reference.unrounded():
            losses, logits = run()
    else:
        losses, logits = run()
    grads = {
        n: np.zeros(tuple(p.shape)) if p.grad is None else p.grad.numpy()
        for n, p in wanted.items()
    }
    return Found(reference.arrays(losses), reference.arrays(logits), grads)


def agree(
    pair: Pair,
    names: list[str],
    *,
    size: tuple[int, int, int] | None = None,
    rates: Mapping[str, float] | None = None,
    batch: int = 3,
    **how: Any,
) -> None:
    """Assert that our gradients by these are as near to float64's as torch's.

    rates: as `_gradients` takes them, of dropout of all that has a place here.
    """
    rates = rates or {}
    model, exact_model = (
        autograd.drop(one, "all", rates, seed=7) for one in (pair.timm, pair.exact)
    )
    if rates.get("drop") and hasattr(pair.timm, "head_dist"):
        for one in (model, exact_model):
            at = one.head_drop
            one.head_drop = DroppedOfTwo(at.rate, at.seed, at.site, at.image)
    mine: list[dict[str, float]] = []
    theirs: list[dict[str, float]] = []

    def compare(x: np.ndarray, aim: Any) -> bool:
        with autograd.kinks() as gaps:
            exact = torchs(exact_model, names, x, aim, True)
        if min(gaps, default=1.0) < pair.kink:
            return False
        rated = {f"{name}_rate": rate for name, rate in rates.items()}
        loss, grads = gradients(
            pair.ours, x, aim.labels, train=names, seed=7, **rated, **how
        )
        found = Found(np.array([loss]), None, grads)
        mine.append(errors(found, exact))
        theirs.append(errors(torchs(model, names, x, aim, False), exact))
        return True

    kept: list[tuple[np.ndarray, Any]] = []
    for number in range(20 * INPUTS):
        aim = autograd.goal("hard", batch, SMALL["num_classes"], number)
        x = recipe.picture((batch, *(size or pair.size())), number)
        if compare(x, aim):
            kept.append((x, aim))
        if len(kept) == INPUTS:
            break
    assert len(kept) == INPUTS, "no input was found that is far from every kink"
    if not passes(mine, theirs):
        for x, aim in kept:
            for near in reference.versions(x, NEARBY)[1:]:
                compare(near, aim)
    (error, at), (beside, _) = worst(mine), worst(theirs)
    assert passes(mine, theirs), f"{at}: error {error:.3g}, torch's {beside:.3g}"
    RATIOS.append(error / max(beside, FLOOR))


@pytest.mark.parametrize("name", NAMES)
def test_every_parameter_of_every_class(name: str) -> None:
    pair = Pair(name)
    agree(pair, pair.names)


@pytest.mark.parametrize("name", NAMES)
def test_the_last_block_alone(name: str) -> None:
    """The frozen part before it has run as at inference."""
    pair = Pair(name)
    last = len(pair.timm.blocks) - 1
    behind = (f"blocks.{last}.", "norm.", "fc_norm.", "attn_pool.", "head")
    agree(pair, [n for n in pair.names if n.startswith(behind)])


@pytest.mark.parametrize("part", ["head", "pool"])
@pytest.mark.parametrize("name", NAMES)
def test_what_follows_a_frozen_trunk(name: str, part: str) -> None:
    pair = Pair(name)
    behind = ("head.", "head_dist.")
    behind += ("fc_norm.", "attn_pool.") if part == "pool" else ()
    agree(pair, [n for n in pair.names if n.startswith(behind)])


# Of one name, other options.
VARIANTS: dict[str, tuple[str, dict[str, Any]]] = {
    "one table for all blocks": (
        "beit_base_patch16_224",
        {"use_rel_pos_bias": False, "use_shared_rel_pos_bias": True},
    ),
    "a table for each block and one for all": (
        "beit_base_patch16_224",
        {"use_shared_rel_pos_bias": True},
    ),
    "tables without a class token": (
        "vit_relpos_small_patch16_224",
        {"rel_pos_type": "bias"},
    ),
    "one of these for all": (
        "vit_srelpos_small_patch16_224",
        {"rel_pos_type": "bias"},
    ),
    "an MLP as in Swin V2": (
        "vit_relpos_small_patch16_224",
        {"rel_pos_type": "mlpswin"},
    ),
    "one of these with a class token": (
        "vit_relpos_base_patch16_clsgap_224",
        {"rel_pos_type": "mlpswin", "shared_rel_pos": True},
    ),
    "queries of one token": ("beit_base_patch16_224", {"global_pool": "token"}),
    "rotated, of one token": (
        "vit_small_patch16_dinov3",
        {"global_pool": "token"},
    ),
    "rotated, with norms of q and k": (
        "vit_small_patch16_rope_mixed_ape_224",
        {"qk_norm": True, "attn_type": "rope"},
    ),
    "gated, with a norm": ("eva02_tiny_patch14_224", {"scale_mlp": True}),
    "norms behind, of one token": (
        "eva02_enormous_patch14_clip_224",
        {"global_pool": "token"},
    ),
    "no LayerScale": ("vit_small_patch16_dinov3", {"init_values": None}),
}


@pytest.mark.parametrize("part", ["all", "last"])
@pytest.mark.parametrize("variant", VARIANTS)
def test_options_of_the_classes(variant: str, part: str) -> None:
    name, extra = VARIANTS[variant]
    pair = Pair(name, **extra)
    names = pair.names
    if part == "last":
        last = len(pair.timm.blocks) - 1
        names = [n for n in names if n.startswith((f"blocks.{last}.", "head"))]
    agree(pair, names)


# A name for each way that q, k and v are made and placed.
WAYS = [
    "eva02_enormous_patch14_clip_224",
    "vit_relpos_base_patch32_plus_rpn_256",
    "eva02_base_patch14_448",
    "vit_small_patch16_rope_mixed_ape_224",
    "vit_base_patch16_sapiens2",
    "deit_tiny_distilled_patch16_224",
    "beit_base_patch16_224",
    "vit_srelpos_small_patch16_224",
]


@pytest.mark.parametrize("name", WAYS)
def test_dropout_of_every_kind(name: str) -> None:
    """The distilled model drops of both its tokens, RelPos has no positions to drop."""
    pair = Pair(name)
    rates = {"drop": 0.2, "proj_drop": 0.2, "attn_drop": 0.2, "drop_path": 0.4}
    if hasattr(pair.timm, "pos_drop"):
        rates["pos_drop"] = 0.2
    agree(pair, pair.names, rates=rates)


@pytest.mark.parametrize("name", WAYS)
def test_blocks_computed_again_and_pictures_one_by_one(name: str) -> None:
    pair = Pair(name)
    agree(pair, pair.names, checkpointing=True, memory=1)


@pytest.mark.parametrize("size", [(3, 80, 32), (3, 48, 48), (3, 96, 32)])
@pytest.mark.parametrize(
    "name",
    [
        "vit_small_patch16_dinov3",
        "vit_small_patch16_rope_ape_224",
        "vit_small_patch16_rope_mixed_ape_224",
    ],
)
def test_rotated_at_another_size(name: str, size: tuple[int, int, int]) -> None:
    """A grid of as many patches, but of another shape, as well."""
    pair = Pair(name, dynamic_img_size=True)
    agree(pair, pair.names, size=size)


@pytest.mark.parametrize("limits", [{}, {"block_keys": 16, "block_queries": 8}])
@pytest.mark.parametrize("name", ["vit_base_patch16_sapiens2", "beit_base_patch16_224"])
def test_many_tokens(name: str, limits: dict[str, int]) -> None:
    """Blocks of queries and keys that end within a row of the grid."""
    _core._set_limits(**limits)
    try:
        pair = Pair(name, img_size=(112, 144))
        agree(pair, pair.names, size=(3, 112, 144), batch=1)
    finally:
        _core._set_limits()


def test_errors_are_no_larger_than_torchs_on_the_whole() -> None:
    """Over the comparisons that ran before in this session."""
    if len(RATIOS) < 50:
        pytest.fail("run this test together with the comparisons")
    print(f"our errors over torch's: {measure.mean_ratio(RATIOS):.3f}")
    assert measure.mean_ratio(RATIOS) < 1.1
