# SPDX-License-Identifier: Apache-2.0
"""timm.models.eva.Eva as constructor options; its blocks, which NaFlexVit takes too."""

from __future__ import annotations

from typing import Any

from ...config import mlp_ratio_of
from .blocks import read_mlp
from .reader import Reader, refuse
from .rope import read_rope
from .shared import (
    drop_rates,
    read_drops,
    read_head,
    read_latent_pool,
    read_patch_embed,
    same_in_blocks,
    zero_k_bias,
)


def _bias(reader: Reader, path: str, **want: bool | None) -> bool | None:
    """Whether the Linears of these names have a bias, as each should (None: either)."""
    found = None
    for name, bias in want.items():
        _, _, got = reader.linear(f"{path}.{name}")
        if bias is None:
            found = got if found is None else found
            bias = found
        reader.equal(f"{path}.{name}", "bias", got, bias)
    return found


def _qkv(reader: Reader, path: str, kind: str) -> dict[str, Any]:
    module = reader.modules[path]
    fused = module.qkv is not None
    heads = module.num_heads
    kv_heads = heads
    if kind == "EvaAttention":
        zero_k_bias(reader, path)
        if fused:
            _bias(reader, path, qkv=False)
            bias = module.q_bias is not None
            reader.equal(path, "v_bias", module.v_bias is not None, bias)
        else:
            bias = bool(_bias(reader, path, q_proj=None, k_proj=False, v_proj=None))
    elif fused:
        bias = bool(_bias(reader, path, qkv=None))
    else:
        bias = bool(_bias(reader, path, q_proj=None, k_proj=None, v_proj=None))
        kv_heads = module.num_kv_heads
    return {
        "attn_type": "eva" if kind == "EvaAttention" else "rope",
        "num_heads": heads,
        "kv_heads": kv_heads,
        "qkv_fused": fused,
        "qkv_bias": bias,
    }


def _attention(reader: Reader, path: str) -> dict[str, Any]:
    kind = reader.take(path, "EvaAttention", "AttentionRope")
    module = reader.modules[path]
    reader.equal(
        path, "attention width", module.num_heads * module.head_dim, reader.width
    )
    prefix = reader.root.num_prefix_tokens
    reader.equal(path, "num_prefix_tokens", module.num_prefix_tokens, prefix)
    reader.take(f"{path}.gate", "")
    out = _qkv(reader, path, kind)
    norms = reader.norm(f"{path}.q_norm"), reader.norm(f"{path}.k_norm")
    reader.equal(path, "(q_norm, k_norm)", norms, (norms[0], norms[0]))
    _, _, proj_bias = reader.linear(f"{path}.proj")
    reader.skip(f"{path}.attn_drop", "Dropout")
    reader.skip(f"{path}.proj_drop", "Dropout")
    return {
        **out,
        "qk_norm": norms[0],
        "scale_attn_inner": reader.norm(f"{path}.norm"),
        "proj_bias": proj_bias,
        "rotate_half": bool(module.rotate_half),
    }


def _mlp(reader: Reader, path: str, post: bool) -> dict[str, Any]:
    """The options that make timm build this MLP; `hidden`: int(width * mlp_ratio)."""
    mlp = read_mlp(reader, path, proj_bias=True)
    kind, norm = mlp["mlp_layer"], mlp["scale_mlp_norm"]
    packed, apart = kind == "SwiGLUPacked", kind == "SwiGLU"
    if kind == "GluMlp":
        refuse(path, "GluMlp with gate_last True; supported here: False")
    if packed and norm:
        refuse(f"{path}.norm", "a norm in GluMlp is not supported; SwiGLU takes one")
    if apart and post and not norm:
        refuse(f"{path}.norm", "SwiGLU without a norm behind norms is not supported")
    if packed or apart:
        reader.equal(f"{path}.act", "act", mlp["act_layer"], "silu")
    return {
        "act_layer": "gelu" if packed or apart else mlp["act_layer"],
        "hidden": mlp["hidden"] // (2 if packed else 1),
        "swiglu_mlp": packed or apart,
        # Any that leaves the width as it is, which is known.
        "swiglu_align_to": (1 if mlp["hidden"] % 8 else 8) if apart and not norm else 0,
        "scale_mlp": norm,
    }


def read_eva_block(reader: Reader, path: str, kind: str) -> dict[str, Any]:
    """EvaBlock and EvaBlockPostNorm."""
    post = kind == "EvaBlockPostNorm"
    reader.required_norm(f"{path}.norm1")
    reader.required_norm(f"{path}.norm2")
    out = _attention(reader, f"{path}.attn") | _mlp(reader, f"{path}.mlp", post)
    for i in (1, 2):
        reader.skip(f"{path}.drop_path{i}", "DropPath")
    out |= {"use_post_norm": post, "init_values": None, "attn_only_layer_scale": False}
    if post:
        reader.equal(path, "qk_norm", out["qk_norm"], False)
        return out
    block = reader.modules[path]
    scales = block.gamma_1 is not None, block.gamma_2 is not None
    if scales[0]:
        value = block.init_values
        out["init_values"] = 1e-5 if value is None else float(value)
        out["attn_only_layer_scale"] = not scales[1]
    elif scales[1]:
        refuse(path, "gamma_2 without gamma_1 is not supported")
    return out


def read_eva_blocks(reader: Reader, *kinds: str) -> dict[str, Any]:
    """What every EvaBlock shares; `num_kv_heads` as timm takes it, and `depth`."""
    kv_heads: list[int] = []

    def read(reader: Reader, path: str, kind: str) -> dict[str, Any]:
        block = read_eva_block(reader, path, kind)
        kv_heads.append(block.pop("kv_heads"))
        return block

    out = same_in_blocks(reader, read, *kinds)
    heads = out["num_heads"]
    out["num_kv_heads"] = None if set(kv_heads) == {heads} else tuple(kv_heads)
    return out


def read_eva(reader: Reader) -> dict[str, Any]:
    """The options of Eva."""
    module = reader.root
    pre_norm = reader.norm("norm_pre")
    out = read_patch_embed(reader, pre_norm)
    reader.equal("patch_embed.norm", "norm", out.pop("embed_norm_layer"), None)
    reader.width = out["embed_dim"]
    class_token = module.cls_token is not None
    reg_tokens = 0 if module.reg_token is None else module.reg_token.shape[1]
    prefix = int(class_token) + reg_tokens
    reader.equal("", "num_prefix_tokens", module.num_prefix_tokens, prefix)
    reader.take("blocks", "ModuleList")
    blocks = read_eva_blocks(reader, "EvaBlock", "EvaBlockPostNorm")
    reader.equal("blocks.0.attn.proj", "bias", blocks.pop("proj_bias"), True)
    reader.equal("blocks.0.mlp.act", "act", blocks.pop("act_layer"), "gelu")
    half = blocks.pop("rotate_half")
    rope = read_rope(reader, half, dynamic=out["dynamic_img_size"])
    pool: dict[str, Any] = {}
    if module.global_pool == "map":
        latent = read_latent_pool(reader)
        reader.equal("attn_pool.mlp.act", "act", latent["act_layer"], "gelu")
        pool = {
            "attn_pool_num_heads": latent["num_heads"],
            "attn_pool_mlp_ratio": mlp_ratio_of(latent["hidden"], reader.width),
        }
    else:
        reader.take("attn_pool", "")
    read_drops(reader, "", "PatchDropoutWithIndices")
    norms = {
        "use_post_transformer_norm": reader.norm("norm"),
        "use_fc_norm": reader.norm("fc_norm"),
    }
    return {
        **out,
        "num_classes": read_head(reader),
        "global_pool": module.global_pool,
        "mlp_ratio": mlp_ratio_of(blocks.pop("hidden"), reader.width),
        **blocks,
        **drop_rates(reader),
        **norms,
        "use_pre_transformer_norm": pre_norm,
        "norm_layer": reader.norm_spec,
        "class_token": class_token,
        "num_reg_tokens": reg_tokens,
        "no_embed_class": bool(module.no_embed_class),
        "use_abs_pos_emb": module.pos_embed is not None,
        "use_rot_pos_emb": bool(rope),
        **rope,
        **pool,
        "head_init_scale": float(module.head_init_scale or 0.0),
    }
