# SPDX-License-Identifier: Apache-2.0
"""timm.models.beit.Beit as constructor options."""

from __future__ import annotations

from typing import Any

from ...config import mlp_ratio_of
from .blocks import read_mlp
from .reader import Reader
from .relative import check_index
from .shared import (
    drop_rates,
    read_drops,
    read_head,
    read_norms,
    read_patch_embed,
    same_in_blocks,
    zero_k_bias,
)


def _table(reader: Reader, path: str) -> None:
    """Check the table of relative positions that the module at `path` has."""
    module, grid = reader.modules[path], tuple(reader.root.patch_embed.grid_size)
    reader.equal(path, "window_size", tuple(module.window_size), grid)
    check_index(path, module.relative_position_index, grid, prefix=1)


def _attention(reader: Reader, path: str) -> dict[str, Any]:
    reader.take(path, "BeitAttention")
    module = reader.modules[path]
    width, _, qkv_bias = reader.linear(f"{path}.qkv")
    reader.equal(f"{path}.qkv", "bias", qkv_bias, False)
    _, outputs, _ = reader.linear(f"{path}.qkv")
    reader.equal(path, "attention width", outputs, 3 * width)
    zero_k_bias(reader, path)
    bias = module.q_bias is not None
    reader.equal(path, "v_bias", module.v_bias is not None, bias)
    _, _, proj_bias = reader.linear(f"{path}.proj")
    reader.equal(f"{path}.proj", "bias", proj_bias, True)
    reader.skip(f"{path}.attn_drop", "Dropout")
    reader.skip(f"{path}.proj_drop", "Dropout")
    table = module.relative_position_bias_table is not None
    if table:
        _table(reader, path)
    return {
        "num_heads": module.num_heads,
        "qkv_bias": bias,
        "use_rel_pos_bias": table,
    }


def _block(reader: Reader, path: str, kind: str) -> dict[str, Any]:
    reader.required_norm(f"{path}.norm1")
    reader.required_norm(f"{path}.norm2")
    out = _attention(reader, f"{path}.attn")
    mlp = read_mlp(reader, f"{path}.mlp", proj_bias=True)
    swiglu = mlp["mlp_layer"] == "SwiGLU"
    if not swiglu:
        reader.equal(f"{path}.mlp", "kind", mlp["mlp_layer"], "Mlp")
    reader.equal(
        f"{path}.mlp.act", "act", mlp["act_layer"], "silu" if swiglu else "gelu"
    )
    for i in (1, 2):
        reader.skip(f"{path}.drop_path{i}", "DropPath")
    block = reader.modules[path]
    scales = block.gamma_1 is not None, block.gamma_2 is not None
    reader.equal(path, "(gamma_1, gamma_2)", scales, (scales[0], scales[0]))
    return {
        **out,
        "hidden": mlp["hidden"],
        "swiglu_mlp": swiglu,
        "scale_mlp": mlp["scale_mlp_norm"],
        "init_values": float(block.init_values or 1e-5) if scales[0] else None,
    }


def read_beit(reader: Reader) -> dict[str, Any]:
    """The options of Beit."""
    module = reader.root
    out = read_patch_embed(reader, pre_norm=False)
    for name, usual in (
        ("embed_norm_layer", None),
        ("dynamic_img_size", False),
        ("dynamic_img_pad", False),
    ):
        reader.equal("patch_embed", name, out.pop(name), usual)
    reader.width = out["embed_dim"]
    reader.equal("", "num_prefix_tokens", module.num_prefix_tokens, 1)
    reader.equal("", "cls_token", module.cls_token is not None, True)
    reader.take("blocks", "ModuleList")
    blocks = same_in_blocks(reader, _block, "BeitBlock")
    shared = reader.take("rel_pos_bias", "", "RelativePositionBias") != ""
    if shared:
        _table(reader, "rel_pos_bias")
    read_drops(reader)
    norms = read_norms(reader)
    return {
        **out,
        "num_classes": read_head(reader),
        "global_pool": module.global_pool,
        "mlp_ratio": mlp_ratio_of(blocks.pop("hidden"), reader.width),
        **blocks,
        **drop_rates(reader),
        "norm_layer": reader.norm_spec,
        "use_abs_pos_emb": module.pos_embed is not None,
        "use_shared_rel_pos_bias": shared,
        "use_fc_norm": norms["fc_norm"],
        "final_norm": norms["final_norm"],
        "head_init_scale": float(module.head_init_scale or 0.0),
    }
