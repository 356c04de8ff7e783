# SPDX-License-Identifier: Apache-2.0
"""The constructor's options that describe a live timm model as it stands."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ...config import mlp_ratio_of
from .blocks import read_blocks, read_mlp
from .reader import TRY, Reader, alike_among, class_name, refuse


def _patch_embed(reader: Reader) -> dict[str, Any]:
    reader.take("patch_embed", "PatchEmbed")
    reader.take("patch_embed.proj", "Conv2d")
    embed, proj = reader.root.patch_embed, reader.root.patch_embed.proj
    patch = tuple(embed.patch_size)
    plain = (patch, patch, (0, 0), (1, 1), 1)
    conv = (proj.kernel_size, proj.stride, proj.padding, proj.dilation, proj.groups)
    what = "kernel, stride, padding, dilation and groups"
    reader.equal("patch_embed.proj", what, conv, plain)
    dynamic = bool(reader.root.dynamic_img_size)
    reader.equal("patch_embed", "strict_img_size", embed.strict_img_size, not dynamic)
    return {
        "img_size": tuple(embed.img_size),
        "patch_size": patch,
        "in_chans": proj.in_channels,
        "embed_dim": proj.out_channels,
        "dynamic_img_size": dynamic,
        "dynamic_img_pad": bool(embed.dynamic_img_pad),
        "embed_norm_layer": reader.any_norm("patch_embed.norm"),
    }


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
    reader.equal(path, "pool", module.pool, "token")
    reader.equal(path, "latent_len", module.latent_len, 1)
    reader.equal(path, "latent_dim", module.latent_dim, reader.width)
    if module.pos_embed is not None:
        refuse(path, "a position embedding in the pool is not supported")
    for name, outputs in (("q", 1), ("kv", 2), ("proj", 1)):
        got = reader.linear(f"{path}.{name}")
        want = (reader.width, outputs * reader.width, True)
        reader.equal(f"{path}.{name}", "(in, out, bias)", got, want)
    for name in ("q_norm", "k_norm"):
        reader.take(f"{path}.{name}", "Identity")
    reader.skip(f"{path}.proj_drop", "Dropout")
    reader.required_norm(f"{path}.norm")
    mlp = read_mlp(reader, f"{path}.mlp", proj_bias=True)
    same = {key: blocks[key] for key in ("hidden", "act_layer")}
    usual = {"mlp_layer": "Mlp", "scale_mlp_norm": False, **same}
    reader.equal(f"{path}.mlp", "options", mlp, usual)


def _norms_and_head(reader: Reader) -> dict[str, Any]:
    reader.skip("pos_drop", "Dropout")
    reader.skip("patch_drop", "PatchDropout")
    reader.skip("head_drop", "Dropout")
    pre_norm = reader.norm("norm_pre")
    conv_bias = reader.root.patch_embed.proj.bias is not None
    reader.equal("patch_embed.proj", "bias", conv_bias, not pre_norm)
    norm, fc_norm = reader.norm("norm"), reader.norm("fc_norm")
    if norm and fc_norm:
        refuse("fc_norm", "a norm here beside the one at norm is not supported")
    num_classes = 0
    if reader.take("head", "Identity", "Linear") == "Linear":
        _, num_classes, bias = reader.linear("head")
        reader.equal("head", "bias", bias, True)
    return {
        "pre_norm": pre_norm,
        "final_norm": norm or fc_norm,
        "fc_norm": fc_norm,
        "num_classes": num_classes,
    }


def read_options(module: Any, like_timm: bool = False) -> dict[str, Any]:
    """The constructor's options that describe a live timm VisionTransformer.

    like_timm: classes of these names are taken from anywhere, and subclasses; whether
    they compute the same is for the caller to find out.
    TypeError for anything else; ValueError, naming the path, for what is not supported.
    """
    name = class_name(module)
    alike = alike_among(module, ("VisionTransformer",))
    known = name == "VisionTransformer" or (like_timm and alike)
    if not known or not hasattr(module, "named_modules"):
        raise TypeError(
            f"from_timm takes a timm VisionTransformer, got {name}; "
            + (
                TRY
                if alike
                else "a wrapper's own module (of torch.compile, DataParallel) has to "
                "be taken out first"
            )
        )
    try:
        return _read_options(Reader(module, like_timm))
    except AttributeError as error:
        if not like_timm:
            raise
        raise ValueError(f"from_timm: not built as timm's is: {error}") from None


def _read_options(reader: Reader) -> dict[str, Any]:
    module = reader.root
    reader.take("", "VisionTransformer")
    out = _patch_embed(reader)
    reader.width = out["embed_dim"]
    blocks = read_blocks(reader)
    out |= _norms_and_head(reader)
    pool = module.global_pool
    _attn_pool(reader, pool, blocks)
    reader.finish()

    class_token = module.cls_token is not None
    reg_tokens = 0 if module.reg_token is None else module.reg_token.shape[1]
    prefix = int(class_token) + reg_tokens
    reader.equal("", "num_prefix_tokens", module.num_prefix_tokens, prefix)
    hidden = blocks.pop("hidden")
    return {
        **out,
        **blocks,
        "mlp_ratio": mlp_ratio_of(hidden, reader.width),
        "norm_layer": reader.norm_spec,
        "global_pool": pool,
        "class_token": class_token,
        "reg_tokens": reg_tokens,
        "pos_embed": "none" if module.pos_embed is None else "learn",
        "no_embed_class": bool(module.no_embed_class),
        # prr sets it whatever the constructor was told: what it was, is not to be seen.
        "pool_include_prefix": bool(module.pool_include_prefix) and pool != "prr",
    }
