# SPDX-License-Identifier: Apache-2.0
"""timm.models.vision_transformer_relpos.VisionTransformerRelPos as options."""

from __future__ import annotations

from typing import Any

from ...config import mlp_ratio_of
from .blocks import read_mlp
from .reader import Reader, refuse
from .relative import check_coordinates, check_index
from .shared import (
    drop_rates,
    read_head,
    read_norms,
    read_patch_embed,
    same_in_blocks,
)


def _rel_pos(reader: Reader, path: str) -> dict[str, Any]:
    """rel_pos_type and rel_pos_dim of the module at `path`."""
    kind = reader.take(path, "RelPosBias", "RelPosMlp")
    module, grid = reader.modules[path], tuple(reader.root.patch_embed.grid_size)
    prefix = reader.root.num_prefix_tokens
    reader.equal(path, "window_size", tuple(module.window_size), grid)
    reader.equal(path, "prefix_tokens", module.prefix_tokens, prefix)
    if kind == "RelPosBias":
        check_index(path, module.relative_position_index, grid, prefix)
        return {"rel_pos_type": "bias", "rel_pos_dim": None}
    swin = module.mode == "swin"
    reader.equal(path, "mode", module.mode, "swin" if swin else "cr")
    window = tuple(module.pretrained_window_size)
    reader.equal(path, "pretrained_window_size", window, (0, 0))
    reader.take(f"{path}.bias_act", "Sigmoid" if swin else "Identity")
    reader.equal(path, "bias_gain", module.bias_gain, 16 if swin else None)
    for name, biased in (("fc1", True), ("fc2", not swin)):
        _, _, bias = reader.linear(f"{path}.mlp.{name}")
        reader.equal(f"{path}.mlp.{name}", "bias", bias, biased)
    reader.take(f"{path}.mlp", "Mlp")
    reader.equal(f"{path}.mlp.act", "act", reader.act(f"{path}.mlp.act"), "relu")
    for name in ("drop1", "drop2"):
        reader.skip(f"{path}.mlp.{name}", "Dropout")
    reader.take(f"{path}.mlp.norm", "Identity")
    check_index(path, module.relative_position_index, grid, 0)
    check_coordinates(path, module.rel_coords_log, grid, swin)
    return {
        "rel_pos_type": "mlpswin" if swin else "mlp",
        "rel_pos_dim": module.mlp.fc1.out_features,
    }


def _block(reader: Reader, path: str, kind: str) -> dict[str, Any]:
    reader.required_norm(f"{path}.norm1")
    reader.required_norm(f"{path}.norm2")
    attn = f"{path}.attn"
    reader.take(attn, "RelPosAttention")
    module = reader.modules[attn]
    width = module.num_heads * module.head_dim
    reader.equal(attn, "attention width", width, reader.width)
    _, _, qkv_bias = reader.linear(f"{attn}.qkv")
    _, _, proj_bias = reader.linear(f"{attn}.proj")
    reader.equal(f"{attn}.proj", "bias", proj_bias, True)
    norms = reader.norm(f"{attn}.q_norm"), reader.norm(f"{attn}.k_norm")
    reader.equal(attn, "(q_norm, k_norm)", norms, (norms[0], norms[0]))
    reader.skip(f"{attn}.attn_drop", "Dropout")
    reader.skip(f"{attn}.proj_drop", "Dropout")
    own = module.rel_pos is not None
    mlp = read_mlp(reader, f"{path}.mlp", proj_bias=True)
    usual = {"mlp_layer": "Mlp", "scale_mlp_norm": False}
    reader.equal(f"{path}.mlp", "kind", {k: mlp[k] for k in usual}, usual)
    for i in (1, 2):
        reader.skip(f"{path}.drop_path{i}", "DropPath")
    scales: list[float | None]
    if kind == "RelPosBlock":
        scales = [reader.layer_scale(f"{path}.ls{i}") for i in (1, 2)]
        reader.equal(path, "LayerScale", scales, scales[:1] * 2)
    else:
        scales = [reader.modules[path].init_values] * 2
    return {
        "block_fn": kind,
        "num_heads": module.num_heads,
        "qkv_bias": qkv_bias,
        "qk_norm": norms[0],
        "hidden": mlp["hidden"],
        "act_layer": mlp["act_layer"],
        "init_values": None if scales[0] is None else float(scales[0]),
        "own": own,
        **(_rel_pos(reader, f"{attn}.rel_pos") if own else {}),
    }


def read_relpos(reader: Reader) -> dict[str, Any]:
    """The options of VisionTransformerRelPos."""
    module = reader.root
    out = read_patch_embed(reader, pre_norm=False)
    for name, usual in (
        ("embed_norm_layer", None),
        ("dynamic_img_size", False),
        ("dynamic_img_pad", False),
    ):
        reader.equal("patch_embed", name, out.pop(name), usual)
    reader.width = out["embed_dim"]
    class_token = module.cls_token is not None
    reader.equal("", "num_prefix_tokens", module.num_prefix_tokens, int(class_token))
    reader.take("blocks", "ModuleList")
    blocks = same_in_blocks(reader, _block, "RelPosBlock", "ResPostRelPosBlock")
    shared = module.shared_rel_pos is not None
    if blocks.pop("own") == shared:
        refuse(
            "shared_rel_pos",
            f"{'one' if shared else 'none'} here and in the blocks; supported here: "
            "either",
        )
    if shared:
        blocks |= _rel_pos(reader, "shared_rel_pos")
    reader.skip("head_drop", "Dropout")
    norms = read_norms(reader)
    return {
        **out,
        "num_classes": read_head(reader),
        "global_pool": module.global_pool,
        "mlp_ratio": mlp_ratio_of(blocks.pop("hidden"), reader.width),
        **blocks,
        **drop_rates(reader),
        "norm_layer": reader.norm_spec,
        "class_token": class_token,
        **norms,
        "shared_rel_pos": shared,
    }
