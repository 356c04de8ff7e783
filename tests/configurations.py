# SPDX-License-Identifier: Apache-2.0
"""Random small configurations of a model, as timm takes them too."""

from __future__ import annotations

from typing import Any

from dice import Dice

POOLS = ("", "avg", "avgmax", "max", "token", "map", "prr")
SCALING = ("ParallelScalingBlock", "DiffParallelScalingBlock")
NORMS = (None, None, "layernorm", "rmsnorm", ("layernorm", 1e-5), ("rmsnorm", 0.1))
ACTS = (None, "gelu", "gelu_tanh", "quick_gelu", "silu", "relu")
MLP = (4.0, 4.0, 2.0, 1.0, 2.67, 0.5)


def configuration(dice: Dice) -> dict[str, Any]:
    """Constructor options that timm takes, each away from its default now and then."""
    pick, sometimes = dice.pick, dice.sometimes
    heads = pick(1, 2, 3, 4)
    patch = pick((4, 4), (8, 8), (16, 16), (8, 4), (3, 5))
    rest = pick((0, 0), (0, 0), (1, 2))
    size = tuple(dice.integer(1, 5) * p + r for p, r in zip(patch, rest, strict=True))
    block = pick("Block", "Block", "ResPostBlock", "ParallelThingsBlock", *SCALING)
    # Not narrower: a norm over few numbers that happen to be close is ill-conditioned.
    width = heads * pick(*(d for d in (8, 10, 16, 24, 32) if heads * d >= 24))
    mlp = pick("Mlp", "Mlp", "GluMlp", "SwiGLUPacked", "SwiGLU")
    halves = mlp in ("GluMlp", "SwiGLUPacked")
    class_token = pick(False, True)
    options: dict[str, Any] = {
        "img_size": size,
        "patch_size": patch,
        "in_chans": pick(3, 3, 1, 2, 4),
        "num_classes": pick(0, 8, 11),
        "global_pool": pick(*(p for p in POOLS if class_token or p != "token")),
        "embed_dim": width,
        "depth": dice.integer(0, 3),
        "num_heads": heads,
        "mlp_ratio": pick(*(r for r in MLP if not halves or int(width * r) % 2 == 0)),
        "qkv_bias": not sometimes(),
        "qk_norm": sometimes(),
        "proj_bias": not sometimes(),
        "init_values": pick(None, 1e-5, 1.0),
        "class_token": class_token,
        "pos_embed": pick("learn", "learn", "none"),
        "no_embed_class": sometimes(),
        "reg_tokens": dice.integer(0, 3),
        "pre_norm": sometimes(),
        "final_norm": not sometimes(),
        "fc_norm": pick(None, None, True, False),
        "pool_include_prefix": sometimes(),
        "embed_norm_layer": pick(*NORMS),
        "norm_layer": pick(*NORMS),
        "act_layer": pick(*ACTS),
        "block_fn": block,
        "mlp_layer": mlp,
        "attn_layer": pick("attn", "attn", "diff"),
    }
    if block not in SCALING:
        options["scale_attn_norm"] = sometimes()
        options["scale_mlp_norm"] = sometimes()
    if sometimes():
        options["dynamic_img_size"] = True
        options["dynamic_img_pad"] = pick(False, True)
    return options


def whole_patches(options: dict[str, Any]) -> tuple[int, int]:
    """The largest image of the grid that has no rest, where timm takes no other."""
    if "dynamic_img_size" not in options:
        return options["img_size"]
    height, width = (
        s // p * p
        for s, p in zip(options["img_size"], options["patch_size"], strict=True)
    )
    return height, width


def input_size(options: dict[str, Any]) -> tuple[int, int, int]:
    """Channels, height, width of an image: not the model's where it takes another."""
    size = options["img_size"]
    if options.get("dynamic_img_pad"):
        size = (size[0] + 1, size[1] + 3)
    elif options.get("dynamic_img_size"):
        patch = options["patch_size"]
        size = tuple((s // p + 1) * p for s, p in zip(size, patch, strict=True))
    return options["in_chans"], *size
