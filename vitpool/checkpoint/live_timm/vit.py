# SPDX-License-Identifier: Apache-2.0
"""timm.models.vision_transformer.VisionTransformer, and deit's distilled one of it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ...config import mlp_ratio_of
from .blocks import read_blocks
from .reader import Reader
from .shared import (
    drop_rates,
    read_drops,
    read_head,
    read_latent_pool,
    read_norms,
    read_patch_embed,
    read_stem,
)


def _attn_pool(reader: Reader, pool: str, blocks: Mapping[str, Any]) -> None:
    """Check that the attention pool is the one that timm's constructor makes."""
    path = "attn_pool"
    kinds = {"map": "AttentionPoolLatent", "prr": "AttentionPoolPrr"}
    reader.take(path, kinds.get(pool, ""))
    if pool not in kinds:
        return
    module = reader.modules[path]
    reader.equal(path, "num_heads", module.num_heads, blocks["num_heads"])
    if pool == "prr":
        class_token = reader.root.cls_token is not None
        reader.equal(path, "pool", module.pool, "token" if class_token else "avg")
        include = bool(reader.root.pool_include_prefix)
        reader.equal("", "prr with pool_include_prefix", include, True)
        reader.take(f"{path}.pre_norm", "Identity")
        reader.take(f"{path}.post_norm", "Identity")
        return
    for key, value in read_latent_pool(reader, path).items():
        reader.equal(f"{path}.mlp", key, value, blocks[key])


def _read(reader: Reader) -> dict[str, Any]:
    module = reader.root
    embed = reader.take("patch_embed", "PatchEmbed", "HybridEmbed")
    pre_norm = reader.norm("norm_pre")  # on which the embedding's bias depends
    if embed == "PatchEmbed":
        out = read_patch_embed(reader, pre_norm)
    else:
        out = read_stem(reader)
    reader.width = out["embed_dim"]
    blocks = read_blocks(reader)
    read_drops(reader, "Identity", "PatchDropout")
    out |= {
        "pre_norm": pre_norm,
        **read_norms(reader),
        "num_classes": read_head(reader),
    }
    pool = module.global_pool
    _attn_pool(reader, pool, blocks)
    hidden = blocks.pop("hidden")
    return {
        **out,
        **blocks,
        **drop_rates(reader),
        "mlp_ratio": mlp_ratio_of(hidden, reader.width),
        "norm_layer": reader.norm_spec,
        "global_pool": pool,
    }


def read_vit(reader: Reader) -> dict[str, Any]:
    """The options of VisionTransformer."""
    out = _read(reader)
    module = reader.root
    class_token = module.cls_token is not None
    reg_tokens = 0 if module.reg_token is None else module.reg_token.shape[1]
    prefix = int(class_token) + reg_tokens
    reader.equal("", "num_prefix_tokens", module.num_prefix_tokens, prefix)
    return {
        **out,
        "class_token": class_token,
        "reg_tokens": reg_tokens,
        "pos_embed": "none" if module.pos_embed is None else "learn",
        "no_embed_class": bool(module.no_embed_class),
        # prr sets it whatever the constructor was told: what it was, is not to be seen.
        "pool_include_prefix": bool(module.pool_include_prefix)
        and out["global_pool"] != "prr",
    }


def read_distilled(reader: Reader) -> dict[str, Any]:
    """The options of VisionTransformerDistilled, which takes some of these alone."""
    out = _read(reader)
    module = reader.root
    reader.equal("", "global_pool", out["global_pool"], "token")
    reader.equal(
        "head_dist", "classes", read_head(reader, "head_dist"), out["num_classes"]
    )
    reader.equal("", "class_token", module.cls_token is not None, True)
    reader.equal("", "reg_tokens", module.reg_token, None)
    reader.equal("", "pos_embed", module.pos_embed is not None, True)
    reader.equal("", "no_embed_class", bool(module.no_embed_class), False)
    reader.equal("", "num_prefix_tokens", module.num_prefix_tokens, 2)
    return out
