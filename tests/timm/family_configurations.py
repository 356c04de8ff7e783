# SPDX-License-Identifier: Apache-2.0
"""timm's other classes from vitpool's option names, and random options of each."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from configurations import ACTS, MLP, NORMS
from dice import Dice
from reference import norm_class
from timm import layers
from timm.models import beit, deit, eva, naflexvit, vision_transformer
from timm.models import vision_transformer_relpos as relpos

CLASSES: dict[str, Any] = {
    "Eva": eva.Eva,
    "Beit": beit.Beit,
    "VisionTransformerDistilled": deit.VisionTransformerDistilled,
    "VisionTransformerRelPos": relpos.VisionTransformerRelPos,
    "NaFlexVit": naflexvit.NaFlexVit,
}
# Options of ours alone: what stands for pruned norms.
_OURS = ("final_norm",)


def timms(kind: str, options: Mapping[str, Any]) -> Any:
    """timm's model of the class of that name, in evaluation mode."""
    given = dict(options)
    for name in ("norm_layer", "embed_norm_layer"):
        if name in given:
            given[name] = norm_class(given[name])
            if given[name] is None and kind in ("Eva", "Beit"):
                del given[name]
    if kind == "VisionTransformerRelPos" and given.get("act_layer"):
        given["act_layer"] = layers.get_act_layer(given["act_layer"])
    if kind in ("Beit", "VisionTransformerRelPos"):
        for name in _OURS:
            assert given.pop(name, True)
    if kind == "NaFlexVit":
        if given.get("mlp_layer"):
            given["mlp_layer"] = getattr(layers, given["mlp_layer"])
        if given.get("block_fn"):
            given["block_fn"] = getattr(vision_transformer, given["block_fn"])
    elif "block_fn" in given:
        home = relpos if kind == "VisionTransformerRelPos" else vision_transformer
        given["block_fn"] = getattr(home, given["block_fn"])
    if kind == "VisionTransformerDistilled" and "mlp_layer" in given:
        given["mlp_layer"] = getattr(layers, given["mlp_layer"])
        given.pop("embed_layer", None)
    return CLASSES[kind](**given).eval()


# ----------------------------------------------------------------------- random options


def _sizes(dice: Dice, least: int = 1) -> tuple[tuple[int, int], tuple[int, int]]:
    """An image's size, of at least so many patches a side, and a patch's."""
    patch = dice.pick((4, 4), (8, 8), (16, 16), (8, 4), (3, 5))
    size = (dice.integer(least, 5) * patch[0], dice.integer(least, 5) * patch[1])
    return size, patch


def _width(dice: Dice, *heads_of: int) -> tuple[int, int]:
    """A width and its number of heads, each of one of these numbers of channels.

    Not narrower: a norm over few numbers that happen to be close is ill-conditioned.
    """
    heads = dice.pick(1, 2, 3, 4)
    return heads * dice.pick(*(d for d in heads_of if heads * d >= 24)), heads


def _common(dice: Dice, *heads_of: int, least: int = 1) -> dict[str, Any]:
    """What all of these classes take; a grid of at least so many patches a side."""
    size, patch = _sizes(dice, least)
    width, heads = _width(dice, *heads_of)
    return {
        "img_size": size,
        "patch_size": patch,
        "in_chans": dice.pick(3, 3, 1, 2),
        "num_classes": dice.pick(0, 8, 11),
        "embed_dim": width,
        "depth": dice.integer(1, 3),
        "num_heads": heads,
        "mlp_ratio": dice.pick(*MLP),
        "qkv_bias": not dice.sometimes(),
        "norm_layer": dice.pick(*NORMS),
    }


def _pool_with(dice: Dice, class_token: bool, *pools: str) -> str:
    return dice.pick(*(p for p in pools if class_token or p != "token"))


def _rope(dice: Dice, options: dict[str, Any]) -> None:
    kind = dice.pick("cat", "cat", "mixed", "dinov3")
    options |= {
        "use_rot_pos_emb": True,
        "rope_type": kind,
        "rope_grid_indexing": dice.pick("ij", "xy"),
        "rope_temperature": dice.pick(10.0, 100.0, 10000.0),
    }
    if kind != "mixed":
        options["rope_rotate_half"] = dice.pick(False, True)
        options["rope_grid_offset"] = dice.pick(0.0, 0.0, 1.0, 0.25)
    if kind == "cat":
        options["ref_feat_shape"] = dice.pick(None, 4, (3, 7))


def eva_options(dice: Dice) -> dict[str, Any]:
    pick, sometimes = dice.pick, dice.sometimes
    roped = pick(False, True, True)
    # a quarter of a head goes to each of sine, cosine, rows and columns
    options = _common(dice, *((8, 16, 24, 32) if roped else (8, 10, 16, 24)))
    class_token, post = pick(False, True), sometimes()
    options |= {
        "class_token": class_token,
        "global_pool": _pool_with(
            dice, class_token, "", "avg", "avgmax", "max", "token", "map"
        ),
        "qkv_fused": pick(False, True),
        "attn_type": pick("eva", "rope"),
        "swiglu_mlp": pick(False, True),
        "swiglu_align_to": pick(0, 0, 8),
        "scale_mlp": sometimes(),
        "scale_attn_inner": sometimes(),
        "init_values": pick(None, 1e-5, 1.0, 0.0),
        "num_reg_tokens": dice.integer(0, 3),
        "no_embed_class": sometimes(),
        "use_abs_pos_emb": pick(False, True),
        "use_post_norm": post,
        "use_pre_transformer_norm": sometimes(),
        "use_post_transformer_norm": pick(None, None, True, False),
        "use_fc_norm": pick(None, None, True, False),
        "attn_pool_num_heads": pick(None, 1, 2 if options["embed_dim"] % 2 == 0 else 1),
        "attn_pool_mlp_ratio": pick(None, 1.5),
        "dynamic_img_size": sometimes(),
        "dynamic_img_pad": sometimes(),
    }
    if roped:
        _rope(dice, options)
    if not post:
        options["qk_norm"] = sometimes()
        options["attn_only_layer_scale"] = sometimes()
        grouped = options["attn_type"] == "rope" and not options["qkv_fused"]
        if grouped and options.get("rope_type") != "mixed":
            few = pick(*(n for n in (1, 2) if options["num_heads"] % n == 0))
            whole = (None,) * (options["depth"] - 1)
            options["num_kv_heads"] = pick(None, few, (*whole, few), (few, *whole))
    return options


def beit_options(dice: Dice) -> dict[str, Any]:
    pick, sometimes = dice.pick, dice.sometimes
    return _common(dice, 8, 10, 16, 24) | {
        "global_pool": pick("", "avg", "token"),
        "swiglu_mlp": pick(False, True),
        "scale_mlp": sometimes(),
        "init_values": pick(None, 1e-5, 1.0, 0.0),
        "use_abs_pos_emb": pick(False, True),
        "use_rel_pos_bias": pick(False, True, True),
        "use_shared_rel_pos_bias": sometimes(),
        "use_fc_norm": pick(None, True, False),
    }


def distilled_options(dice: Dice) -> dict[str, Any]:
    pick, sometimes = dice.pick, dice.sometimes
    return _common(dice, 8, 10, 16, 24) | {
        "init_values": pick(None, 1e-5, 1.0),
        "qk_norm": sometimes(),
        "proj_bias": not sometimes(),
        "pre_norm": sometimes(),
        "act_layer": pick(*ACTS),
        "dynamic_img_size": sometimes(),
        "dynamic_img_pad": sometimes(),
    }


def relpos_options(dice: Dice) -> dict[str, Any]:
    pick, sometimes = dice.pick, dice.sometimes
    kind = pick("mlp", "mlp", "mlpswin", "bias")
    class_token = pick(False, True)
    # 'mlpswin' divides by the largest distance: NaN with one patch
    return _common(dice, 8, 10, 16, 24, least=2) | {
        "global_pool": _pool_with(dice, class_token, "", "avg", "token"),
        "qk_norm": sometimes(),
        "init_values": pick(None, 1e-6, 1.0),
        "class_token": class_token,
        "fc_norm": sometimes(),
        "rel_pos_type": kind,
        "rel_pos_dim": None if kind == "bias" else pick(None, 5, 24),
        "shared_rel_pos": sometimes(),
        "act_layer": pick(*ACTS),
        "block_fn": pick("RelPosBlock", "RelPosBlock", "ResPostRelPosBlock"),
    }


def naflex_options(dice: Dice) -> dict[str, Any]:
    pick, sometimes = dice.pick, dice.sometimes
    kind = pick("", "", "axial", "mixed", "dinov3")
    options = _common(dice, *((8, 16, 24, 32) if kind else (8, 10, 16, 24)))
    del options["img_size"]
    class_token, blocks_of_eva = pick(False, True), bool(kind) or sometimes()
    options |= {
        "class_token": class_token,
        "reg_tokens": dice.integer(0, 3),
        "global_pool": _pool_with(
            dice, class_token, "", "avg", "avgmax", "max", "token", "map"
        ),
        "pool_include_prefix": sometimes(),
        "embed_proj_type": pick("linear", "linear", "conv"),
        "embed_norm_layer": pick(*NORMS),
        "act_layer": pick(*ACTS),
        "pre_norm": sometimes(),
        "final_norm": not sometimes(),
        "fc_norm": pick(None, None, True, False),
        "init_values": pick(None, 1e-5, 1.0),
        "qk_norm": sometimes(),
        "scale_mlp_norm": sometimes(),
        "scale_attn_inner_norm": sometimes(),
        "pos_embed": pick("learned", "learned", "factorized", "none"),
        "pos_embed_grid_size": (dice.integer(1, 5), dice.integer(1, 5)),
        "pos_embed_interp_mode": pick("bicubic", "bilinear"),
        "pos_embed_ar_preserving": sometimes(),
        "pos_embed_antialias": pick(False, True),
        "pos_embed_align_corners": sometimes(),
        "dynamic_img_pad": sometimes(),
        "attn_pool_num_heads": pick(None, 1),
        "attn_pool_mlp_ratio": pick(None, 1.5),
    }
    if not blocks_of_eva:
        return options | {"proj_bias": not sometimes()}
    options |= {
        "attn_type": pick("eva", "rope"),
        "rope_type": kind,
        "rope_temperature": pick(10.0, 100.0),
        "rope_grid_indexing": pick("ij", "xy"),
        "rope_rotate_half": kind in ("axial", "dinov3") and pick(False, True),
        "swiglu_mlp": pick(False, True),
        "swiglu_align_to": pick(0, 8),
        "qkv_fused": pick(False, True),
        "attn_only_layer_scale": sometimes(),
    }
    return options


OPTIONS = {
    "Eva": eva_options,
    "Beit": beit_options,
    "VisionTransformerDistilled": distilled_options,
    "VisionTransformerRelPos": relpos_options,
    "NaFlexVit": naflex_options,
}


def input_size(dice: Dice, options: Mapping[str, Any]) -> tuple[int, int]:
    """Height and width of a picture: not the model's where it takes another."""
    patch = options["patch_size"]
    if "img_size" in options and not options.get("dynamic_img_size"):
        return options["img_size"]
    size = (dice.integer(1, 5) * patch[0], dice.integer(1, 5) * patch[1])
    rest = (1, 2) if options.get("dynamic_img_pad") else (0, 0)
    return size[0] + rest[0], size[1] + rest[1]
