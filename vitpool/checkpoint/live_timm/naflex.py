# SPDX-License-Identifier: Apache-2.0
"""timm.models.naflexvit.NaFlexVit as constructor options, which are NaFlexVitCfg's."""

from __future__ import annotations

from typing import Any

from ...config import BLOCKS, mlp_ratio_of
from .blocks import read_blocks
from .eva import read_eva_blocks
from .reader import Reader
from .rope import read_rope
from .shared import drop_rates, read_conv, read_head, read_latent_pool, read_norms


def _embeds(reader: Reader, pre_norm: bool) -> dict[str, Any]:
    """The options of NaFlexEmbeds."""
    reader.take("embeds", "NaFlexEmbeds")
    embeds = reader.root.embeds
    patch = tuple(embeds.patch_size)
    if embeds.is_linear:
        inputs, width, bias = reader.linear("embeds.proj")
        wanted = patch[0] * patch[1] * embeds.in_chans
        reader.equal("embeds.proj", "inputs", inputs, wanted)
    else:
        read_conv(reader, "embeds.proj", patch)
        width, bias = embeds.proj.out_channels, embeds.proj.bias is not None
    reader.equal("embeds.proj", "bias", bias, not pre_norm)
    reader.take("embeds.norm_input", "")
    reader.take("embeds.patch_interpolator", "", "PatchEmbedInterpolator")
    reader.skip("embeds.pos_drop", "Dropout")
    grid = None
    if embeds.pos_embed is not None:
        grid = tuple(embeds.pos_embed.shape[1:3])
    elif embeds.pos_embed_y is not None:
        grid = embeds.pos_embed_y.shape[1], embeds.pos_embed_x.shape[1]
    elif embeds.pos_embed_grid_size is not None:
        grid = tuple(embeds.pos_embed_grid_size)
    return {
        "patch_size": patch,
        "in_chans": embeds.in_chans,
        "embed_dim": width,
        "patchify_channels_last": bool(embeds.channels_last),
        "embed_proj_type": "linear" if embeds.is_linear else "conv",
        "embed_norm_layer": reader.any_norm("embeds.norm"),
        "class_token": embeds.cls_token is not None,
        "reg_tokens": 0 if embeds.reg_token is None else embeds.reg_token.shape[1],
        "dynamic_img_pad": bool(embeds.dynamic_img_pad),
        "enable_patch_interpolator": bool(embeds.enable_patch_interpolator),
        "pos_embed": embeds.pos_embed_type,
        "pos_embed_grid_size": grid,
        "pos_embed_interp_mode": embeds.pos_embed_interp_mode,
        "pos_embed_ar_preserving": bool(embeds.pos_embed_ar_preserving),
        "pos_embed_antialias": bool(embeds.pos_embed_antialias),
        "pos_embed_align_corners": bool(embeds.pos_embed_align_corners),
        "pos_embed_use_grid_sample": bool(embeds.pos_embed_use_grid_sample),
    }


# Eva's names of options, and NaFlexVitCfg's where they differ.
_RENAMED = {
    "scale_mlp": "scale_mlp_norm",
    "scale_attn_inner": "scale_attn_inner_norm",
    "ref_feat_shape": "rope_ref_feat_shape",
    "scale_attn_norm": "scale_attn_inner_norm",
}


def _blocks(reader: Reader) -> dict[str, Any]:
    """The options of the blocks, Eva's or VisionTransformer's, and `hidden`."""
    reader.take("blocks", "Sequential")
    kind = reader.take("blocks.0", "EvaBlock", *BLOCKS)
    if kind != "EvaBlock":
        out = read_blocks(reader)
        reader.take("rope", "")
    else:
        out = read_eva_blocks(reader, "EvaBlock")
        reader.equal("blocks.0.attn.proj", "bias", out.pop("proj_bias"), True)
        half = out.pop("rotate_half")
        rope = read_rope(reader, half, dynamic=True)
        if rope.get("rope_type") == "cat":
            rope["rope_type"] = "axial"
        out |= rope
        del out["use_post_norm"]
    return {_RENAMED.get(name, name): value for name, value in out.items()}


def read_naflex(reader: Reader) -> dict[str, Any]:
    """The options of NaFlexVit."""
    module = reader.root
    pre_norm = reader.norm("norm_pre")
    out = _embeds(reader, pre_norm)
    reader.width = out["embed_dim"]
    prefix = int(out["class_token"]) + out["reg_tokens"]
    reader.equal("", "num_prefix_tokens", module.num_prefix_tokens, prefix)
    blocks = _blocks(reader)
    pool: dict[str, Any] = {}
    if module.global_pool == "map":
        latent = read_latent_pool(reader)
        if blocks.get("swiglu_mlp"):
            blocks["act_layer"] = latent["act_layer"]  # of nothing else
        act = blocks["act_layer"]
        reader.equal("attn_pool.mlp.act", "act", latent["act_layer"], act)
        pool = {
            "attn_pool_num_heads": latent["num_heads"],
            "attn_pool_mlp_ratio": mlp_ratio_of(latent["hidden"], reader.width),
        }
    else:
        reader.take("attn_pool", "")
    reader.skip("head_drop", "Dropout")
    reader.take("patch_drop", "", "PatchDropoutWithIndices")
    return {
        **out,
        "num_classes": read_head(reader),
        "mlp_ratio": mlp_ratio_of(blocks.pop("hidden"), reader.width),
        **blocks,
        **drop_rates(reader),
        **pool,
        "norm_layer": reader.norm_spec,
        "global_pool": module.global_pool,
        "pool_include_prefix": bool(module.pool_include_prefix),
        "use_key_only_attn_mask": bool(module.use_key_only_attn_mask),
        "pre_norm": pre_norm,
        **read_norms(reader),
    }
