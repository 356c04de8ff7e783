# SPDX-License-Identifier: Apache-2.0
"""Every gradient beside torch's autograd on the same timm model, in float64.

`gradient_pairs` has the measure. What acts in training alone (dropout of every kind)
drops the same numbers on both sides.
"""

from __future__ import annotations

import itertools
from typing import Any

import autograd
import measure
import numpy as np
import pytest
from configurations import configuration, input_size, whole_patches
from dice import Dice, examples
from golden import recipe
from gradient_measure import errors, passes
from gradient_pairs import Pair, agree, ours, public

from vitpool import _core

BASE: dict[str, Any] = {
    "img_size": 32,
    "patch_size": 8,
    "embed_dim": 32,
    "depth": 3,
    "num_heads": 2,
    "num_classes": 6,
}
PARTS = ("head", "pool", 0, 1, 2, "all")
RATIOS: list[float] = []


def check(options: dict[str, Any], *args: Any, **how: Any) -> None:
    RATIOS.append(agree(BASE | options, *args, **how))


# Pools, each with what stands around it.
POOLS: dict[str, dict[str, Any]] = {
    f"{pool}-{name}": {"global_pool": pool} | extra
    for pool, (name, extra) in itertools.product(
        ("avg", "avgmax", "max", "token", "map", "prr"),
        {
            "plain": {},
            "fc_norm": {"fc_norm": True},
            "no-fc_norm": {"fc_norm": False, "reg_tokens": 2},
            "no-class": {"class_token": False},
            "prefix": {"pool_include_prefix": True, "reg_tokens": 1},
            "bare": {"final_norm": False},
        }.items(),
    )
    if pool != "token" or extra.get("class_token", True)
}


@pytest.mark.parametrize("part", PARTS)
@pytest.mark.parametrize("name", POOLS)
def test_every_pool_in_every_part(name: str, part: Any) -> None:
    check(POOLS[name], part)


@pytest.mark.parametrize("part", ["head", "pool", 1, "all"])
@pytest.mark.parametrize("loss", autograd.GOALS)
def test_every_loss(loss: str, part: Any) -> None:
    check({"global_pool": "map"}, part, loss)


@pytest.mark.parametrize("loss", autograd.GOALS)
def test_losses_of_large_logits(loss: str) -> None:
    """Logits of hundreds: an exp overflows that is not of a difference."""
    pair = Pair(BASE | {"global_pool": "avg"})
    x = 1000 * recipe.picture((4, 32))
    aim = autograd.goal(loss, 4, 6, 0)
    exact = autograd.gradients(pair.timm, "head", x, aim, double=True)
    plain = autograd.gradients(pair.timm, "head", x, aim)
    assert np.abs(exact.logits).max() > 500
    got = errors(ours(pair, "head", x, aim, rates={}), exact)
    assert passes([got], [errors(plain, exact)]), got


@pytest.mark.parametrize("part", ["head", "pool", 0, 1, "all"])
@pytest.mark.parametrize("loss", autograd.GOALS)
def test_the_public_gradients_of_every_loss(loss: str, part: Any) -> None:
    check({"global_pool": "map"}, part, loss, door=public)


@pytest.mark.parametrize("loss", ["smoothed", "soft_weighted", "bce_weighted", "mse"])
@pytest.mark.parametrize("part", ["head", "pool", 2])
def test_probes_side_by_side_have_a_loss_each(part: Any, loss: str) -> None:
    check({"num_classes": 15}, part, loss, groups=3)


RATES: dict[str, dict[str, float]] = {
    "drop": {"drop": 0.3},
    "pos_drop": {"pos_drop": 0.25},
    "patch_drop": {"patch_drop": 0.5},
    "patch_drop-rounded": {"patch_drop": 0.375},
    "proj_drop": {"proj_drop": 0.2},
    "attn_drop": {"attn_drop": 0.1},
    "drop_path": {"drop_path": 0.5},
    "all": {
        "drop": 0.1,
        "pos_drop": 0.1,
        "patch_drop": 0.3,
        "proj_drop": 0.1,
        "attn_drop": 0.2,
        "drop_path": 0.3,
    },
}


@pytest.mark.parametrize("part", ["head", "pool", 1, 2, "all"])
@pytest.mark.parametrize("name", RATES)
def test_every_rate_drops_what_the_formula_says(name: str, part: Any) -> None:
    extra = {"global_pool": "map", "init_values": 0.1, "reg_tokens": 1}
    check(extra, part, rates=RATES[name], seed=7, image=5)


@pytest.mark.parametrize("pool", ["token", "avg", "avgmax", "max", "prr"])
def test_every_rate_under_every_pool(pool: str) -> None:
    check({"global_pool": pool}, rates=RATES["all"], seed=2**63 + 1)


@pytest.mark.parametrize("rate", [0.1, 0.2, 0.3, 0.7, 0.9, 0.99])
def test_as_many_patches_stay_as_timm_keeps(rate: float) -> None:
    """20 patches: what is whole in Python's numbers is less in float32's."""
    check({"img_size": (32, 40)}, rates={"patch_drop": rate})


def test_without_positions_their_dropout_does_nothing() -> None:
    """As in timm, which returns before it."""
    check({"pos_embed": "none"}, rates={"pos_drop": 0.25, "patch_drop": 0.25})


def test_rates_of_what_is_frozen_do_nothing() -> None:
    """Blocks below the first that trains run as at inference."""
    pair = Pair(BASE | {"global_pool": "avg"})
    x = recipe.picture((3, 17, 32))
    aim = autograd.goal("hard", 3, 6, 0)
    none = ours(pair, "pool", x, aim, rates={})
    frozen = {k: v for k, v in RATES["all"].items() if k != "drop"}
    some = ours(pair, "pool", x, aim, rates=frozen, seed=3)
    np.testing.assert_array_equal(some.logits, none.logits)
    for name, value in none.grads.items():
        np.testing.assert_array_equal(some.grads[name], value, err_msg=name)


BLOCKS: dict[str, dict[str, Any]] = {
    "layer_norm": {"norm_layer": ("layernorm", 1e-5)},
    "rms_norm": {"norm_layer": "rmsnorm", "qk_norm": True, "global_pool": "map"},
    "layer_scale": {"init_values": 0.1},
    "qk_norm": {"qk_norm": True},
    "qkv_bias": {"qkv_bias": False},
    "proj_bias": {"proj_bias": False, "init_values": 0.1},
    "scale_attn_norm": {"scale_attn_norm": True},
    "scale_mlp_norm": {"scale_mlp_norm": True},
    "scale_norms_rms": {
        "scale_attn_norm": True,
        "scale_mlp_norm": True,
        "norm_layer": "rmsnorm",
    },
    "pre_norm": {"pre_norm": True},
    "embed_norm": {"embed_norm_layer": "layernorm"},
    "embed_norm_rms": {"embed_norm_layer": "rmsnorm", "pre_norm": True},
    "no_embed_class": {"no_embed_class": True, "reg_tokens": 2},
    "reg_tokens": {"reg_tokens": 3},
    "no_class_token": {"class_token": False, "global_pool": "avg", "reg_tokens": 1},
    "no_pos_embed": {"pos_embed": "none"},
    "one_head": {"num_heads": 1},
    "odd_heads": {"embed_dim": 36, "num_heads": 4, "global_pool": "map"},
    "odd_ratio": {"mlp_ratio": 2.67},
    "narrow": {"mlp_ratio": 0.5},
    "one_channel": {"in_chans": 1},
    "norms_behind": {"block_fn": "ResPostBlock", "init_values": 0.1},
    "norms_behind_rms": {
        "block_fn": "ResPostBlock",
        "norm_layer": "rmsnorm",
        "qk_norm": True,
        "scale_attn_norm": True,
        "global_pool": "avg",
    },
    "patch_not_square": {"patch_size": (16, 8), "img_size": (32, 48)},
    "with_rest": {"img_size": (35, 41)},
    "one_patch": {"patch_size": 32, "class_token": False, "global_pool": "avg"},
    "one_class": {"num_classes": 1},
    "no_blocks": {"depth": 0},
    "many_classes": {"num_classes": 301},
    **{
        f"{mlp}-{act}": {"mlp_layer": mlp, "act_layer": act}
        for mlp in ("Mlp", "GluMlp", "SwiGLUPacked", "SwiGLU")
        for act in (None, "gelu", "gelu_tanh", "quick_gelu", "silu", "relu")
    },
    **{
        f"{mlp}-scale_mlp_norm": {
            "mlp_layer": mlp,
            "scale_mlp_norm": True,
            "proj_bias": False,
        }
        for mlp in ("GluMlp", "SwiGLUPacked", "SwiGLU")
    },
}
LOSS_OF = {"one_class": "bce"}  # the cross-entropy of one class is nought


@pytest.mark.parametrize("part", [2, "all"])
@pytest.mark.parametrize("name", BLOCKS)
def test_every_option_of_a_block(name: str, part: Any) -> None:
    if BASE["depth"] != BLOCKS[name].get("depth", 3):
        part = 0 if part == 2 else part
    check(BLOCKS[name], part, LOSS_OF.get(name, "hard"), rates=RATES["proj_drop"])


OTHER_BLOCKS: dict[str, dict[str, Any]] = {
    "ParallelScalingBlock": {"block_fn": "ParallelScalingBlock"},
    "ParallelThingsBlock": {"block_fn": "ParallelThingsBlock"},
    "DiffParallelScalingBlock": {"block_fn": "DiffParallelScalingBlock"},
    "diff": {"attn_layer": "diff"},
}


@pytest.mark.parametrize("pool", ["map", "avg"])
@pytest.mark.parametrize("part", ["head", "pool", 0])
@pytest.mark.parametrize("kind", OTHER_BLOCKS)
def test_what_follows_blocks_of_any_kind_trains(
    kind: str, part: Any, pool: str
) -> None:
    extra = {"global_pool": pool, "final_norm": True}
    check(OTHER_BLOCKS[kind] | extra, part, door=public)


@pytest.mark.parametrize("part", [1, "all"])
@pytest.mark.parametrize("kind", OTHER_BLOCKS)
def test_blocks_of_other_kinds_are_refused_by_name(kind: str, part: Any) -> None:
    pair = Pair(BASE | OTHER_BLOCKS[kind])
    aim = autograd.goal("hard", 2, 6, 0)
    x = recipe.picture((2, 3, 32, 32))
    x = autograd.inputs(pair.timm, part, x)
    for door in (ours, public):
        with pytest.raises(ValueError, match=kind):
            door(pair, part, x, aim, rates={})


DYNAMIC: dict[str, Any] = {"dynamic_img_size": True, "global_pool": "map"}
OTHER_SIZES = [(3, 48, 24), (3, 16, 64), (3, 64, 64)]


@pytest.mark.parametrize("size", OTHER_SIZES)
@pytest.mark.parametrize("no_embed_class", [False, True])
@pytest.mark.parametrize("part", ["head", "pool", 0, 2, 3])
def test_dynamic_sizes(size: tuple[int, ...], no_embed_class: bool, part: Any) -> None:
    extra = {"no_embed_class": no_embed_class, "reg_tokens": 1}
    check(DYNAMIC | extra, part, size=size, rates=RATES["attn_drop"])


@pytest.mark.parametrize("size", OTHER_SIZES)
def test_dynamic_sizes_without_positions(size: tuple[int, ...]) -> None:
    check(DYNAMIC | {"pos_embed": "none"}, size=size)


@pytest.mark.parametrize("size", [*OTHER_SIZES, (3, 8, 8)])
@pytest.mark.parametrize("no_embed_class", [False, True])
def test_positions_of_another_grid_get_their_gradient_through_the_resampling(
    size: tuple[int, ...], no_embed_class: bool
) -> None:
    """A grid of as many patches but of another shape (16 x 64) as well."""
    extra = {"no_embed_class": no_embed_class, "reg_tokens": 1}
    check(DYNAMIC | extra, size=size, rates=RATES["pos_drop"], door=public)


@pytest.mark.parametrize("extra", [{}, {"dynamic_img_pad": True}])
def test_dynamic_sizes_at_the_models_own(extra: dict[str, Any]) -> None:
    """With padding it takes pictures that are a part of a patch smaller."""
    check(DYNAMIC | extra, size=(3, 30, 25) if extra else (3, 32, 32))


MASKS = ((17, 17), (3, 1, 17, 17), (3, 2, 17, 17), (1, 2, 17, 17))


@pytest.mark.parametrize("kind", ["bool", "additive", "bool_empty_row"])
@pytest.mark.parametrize("shape", MASKS)
@pytest.mark.parametrize("part", [1, "all"])
def test_masks(kind: str, shape: tuple[int, ...], part: Any) -> None:
    # A query that sees nobody is nought where torch fuses attention, NaN elsewhere.
    rate = "proj_drop" if kind == "bool_empty_row" else "attn_drop"
    check({}, part, mask=(kind, shape), rates=RATES[rate])


# Attention's blocks of keys and queries, and chunks of a batch, made small.
@pytest.mark.parametrize("limits", [{}, {"block_keys": 16, "block_queries": 8}])
@pytest.mark.parametrize("extra", [{}, {"global_pool": "map"}, {"global_pool": "prr"}])
@pytest.mark.parametrize("rate", [0.0, 0.1])
def test_many_tokens(
    limits: dict[str, int], extra: dict[str, Any], rate: float
) -> None:
    _core._set_limits(**limits)
    try:
        large = {"img_size": 112, "depth": 1, "qk_norm": True}
        rates = {"attn_drop": rate} if rate else {}
        check(large | extra, batch=1, count=1, rates=rates)
    finally:
        _core._set_limits()


@pytest.mark.parametrize("part", ["pool", 2, "all"])
def test_widths_of_real_models(part: Any) -> None:
    """ViT-Ti's width with 197 tokens, whose products are of many tiles."""
    options = {
        "img_size": 224,
        "patch_size": 16,
        "embed_dim": 192,
        "num_heads": 3,
        "depth": 2,
        "num_classes": 100,
        "global_pool": "map",
    }
    RATIOS.append(agree(options, part, batch=2, count=1, rates={"drop_path": 0.2}))


def draw(dice: Dice) -> tuple[dict[str, Any], dict[str, Any]]:
    """A model that trains, and how it is trained."""
    while True:
        options = configuration(dice)
        kinds = ("Block", "ResPostBlock")
        plain = options["block_fn"] in kinds and options["attn_layer"] == "attn"
        if plain and options["num_classes"] and options["global_pool"]:
            break
    depth = options["depth"] = max(1, options["depth"])
    rates = {
        name: rate * dice.integer(1, 3)
        for name, rate in {
            "drop": 0.1,
            "pos_drop": 0.1,
            "patch_drop": 0.2,
            "proj_drop": 0.1,
            "attn_drop": 0.1,
            "drop_path": 0.2,
        }.items()
        if dice.sometimes()
    }
    part = dice.pick("head", "pool", dice.integer(0, depth), "all", "all")
    door = dice.pick(ours, public)
    image = dice.integer(0, 1000)
    size = input_size(options)
    if door is public:
        image = 0  # and rates of what is frozen are refused
        acting = {"head": 1, "pool": 1, 0: 1, "all": 6}.get(part, 4)
        names = (
            "drop",
            "proj_drop",
            "attn_drop",
            "drop_path",
            "pos_drop",
            "patch_drop",
        )
        rates = {name: rates[name] for name in names[:acting] if name in rates}
    elif part == "all" and options["pos_embed"] == "learn":
        # The core is given positions of another grid, and does not make them.
        size = (options["in_chans"], *whole_patches(options))
    how = {
        "part": part,
        "loss": dice.pick(*autograd.GOALS),
        "batch": dice.integer(1, 5),
        "size": size,
        "rates": rates,
        "seed": dice.integer(0, 2**32),
        "image": image,
        "door": door,
        "checkpointing": dice.pick(False, True),
        "memory": dice.pick(2**28, 2**28, 1),
    }
    return options, how


@pytest.mark.parametrize("example", examples(100))
def test_a_random_model_trained_in_a_random_way(example: int) -> None:
    options, how = draw(Dice("gradients", example))
    print(f"{options = }\n{how = }")
    RATIOS.append(agree(options, **how))


def test_errors_are_no_larger_than_torchs_on_the_whole() -> None:
    """Over the comparisons that ran before in this session."""
    if len(RATIOS) < 100:
        pytest.fail("run this test together with the comparisons")
    print(f"our errors over torch's: {measure.mean_ratio(RATIOS):.3f}")
    assert measure.mean_ratio(RATIOS) < 1.1
