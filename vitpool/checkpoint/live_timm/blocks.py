# SPDX-License-Identifier: Apache-2.0
"""The blocks of a live timm model, and what is in them, as constructor options."""

from __future__ import annotations

import math
from typing import Any

from ...config import BLOCKS
from .reader import Reader, refuse


def _qk_norm(reader: Reader, path: str) -> bool:
    both = reader.norm(f"{path}.q_norm"), reader.norm(f"{path}.k_norm")
    reader.equal(path, "(q_norm, k_norm)", both, (both[0], both[0]))
    return both[0]


def _check_differential(reader: Reader, path: str, index: int) -> None:
    """The lambdas of differential attention: timm's for this depth, in four vectors."""
    module = reader.modules[path]
    if module.lambda_a is not None:
        refuse(path, "dual_lambda is not supported")
    usual = 0.8 - 0.6 * math.exp(-0.3 * index)
    if not math.isclose(module.lambda_init, usual, rel_tol=1e-9):
        refuse(path, f"lambda_init {module.lambda_init}; block {index} has {usual}")
    spec = reader.any_norm(f"{path}.sub_norm")
    reader.equal(f"{path}.sub_norm", "norm", spec, ("rmsnorm", 1e-5))


def _attention(reader: Reader, path: str, index: int) -> dict[str, Any]:
    kind = reader.take(path, "Attention", "DiffAttention")
    module = reader.modules[path]
    heads = module.num_heads * (1 if kind == "Attention" else 2)
    reader.equal(path, "attention width", heads * module.head_dim, reader.width)
    reader.take(f"{path}.gate", "")
    _, _, qkv_bias = reader.linear(f"{path}.qkv")
    _, _, proj_bias = reader.linear(f"{path}.proj")
    reader.skip(f"{path}.attn_drop", "Dropout")
    reader.skip(f"{path}.proj_drop", "Dropout")
    if kind == "DiffAttention":
        _check_differential(reader, path, index)
    return {
        "attn_layer": "attn" if kind == "Attention" else "diff",
        "num_heads": module.num_heads,
        "qkv_bias": qkv_bias,
        "qk_norm": _qk_norm(reader, path),
        "scale_attn_norm": reader.norm(f"{path}.norm"),
        "proj_bias": proj_bias,
    }


def read_mlp(reader: Reader, path: str, proj_bias: bool) -> dict[str, Any]:
    """The options of an MLP of any kind, and `hidden`: its width."""
    kind = reader.take(path, "Mlp", "GluMlp", "SwiGLU")
    first = ("fc1_g", "fc1_x") if kind == "SwiGLU" else ("fc1",)
    for name in (*first, "fc2"):
        hidden = reader.modules[f"{path}.{first[0]}"].out_features
        _, _, bias = reader.linear(f"{path}.{name}")
        reader.equal(f"{path}.{name}", "bias", bias, proj_bias)
    reader.skip(f"{path}.drop1", "Dropout")
    reader.skip(f"{path}.drop2", "Dropout")
    if kind == "GluMlp" and not reader.modules[path].gate_last:
        kind = "SwiGLUPacked"
    return {
        "mlp_layer": kind,
        "hidden": hidden,
        "act_layer": reader.act(f"{path}.act"),
        "scale_mlp_norm": reader.norm(f"{path}.norm"),
    }


def _sequential_block(reader: Reader, path: str, index: int) -> dict[str, Any]:
    """Block and ResPostBlock."""
    reader.required_norm(f"{path}.norm1")
    reader.required_norm(f"{path}.norm2")
    out = _attention(reader, f"{path}.attn", index)
    out |= read_mlp(reader, f"{path}.mlp", out["proj_bias"])
    scales = []
    for i in (1, 2):
        reader.skip(f"{path}.drop_path{i}", "DropPath")
        if f"{path}.ls{i}" in reader.modules:
            scales.append(reader.layer_scale(f"{path}.ls{i}"))
    out["init_values"] = scales[0] if scales else None
    reader.equal(path, "LayerScale", scales, scales[:1] * len(scales))
    return out


def _parallel_things_block(reader: Reader, path: str, index: int) -> dict[str, Any]:
    """Two attentions side by side, then two MLPs."""
    reader.equal(path, "num_parallel", reader.modules[path].num_parallel, 2)
    reader.take(f"{path}.attns", "ModuleList")
    reader.take(f"{path}.ffns", "ModuleList")
    found = []
    for i in (0, 1):
        attn, ffn = f"{path}.attns.{i}", f"{path}.ffns.{i}"
        for part in (attn, ffn):
            reader.take(part, "Sequential")
            reader.required_norm(f"{part}.norm")
            reader.skip(f"{part}.drop_path", "DropPath")
        one = _attention(reader, f"{attn}.attn", index)
        one |= read_mlp(reader, f"{ffn}.mlp", one["proj_bias"])
        one["init_values"] = reader.layer_scale(f"{attn}.ls")
        other = reader.layer_scale(f"{ffn}.ls")
        reader.equal(f"{ffn}.ls", "LayerScale", other, one["init_values"])
        found.append(one)
    reader.equal(f"{path}.attns.1", "options", found[1], found[0])
    return found[0]


def _parallel_scaling_block(
    reader: Reader, path: str, index: int, differential: bool
) -> dict[str, Any]:
    """One projection in and one out (two, without differential attention)."""
    module = reader.modules[path]
    heads = module.num_heads * (2 if differential else 1)
    reader.equal(path, "attention width", heads * module.head_dim, reader.width)
    reader.required_norm(f"{path}.in_norm")
    _, _, qkv_bias = reader.linear(f"{path}.in_proj")
    if differential:
        _check_differential(reader, path, index)
        hidden, _, proj_bias = reader.linear(f"{path}.out_proj")
        hidden -= reader.width
    else:
        reader.take(f"{path}.out_proj", "")
        hidden, _, proj_bias = reader.linear(f"{path}.mlp_out_proj")
        _, _, bias = reader.linear(f"{path}.attn_out_proj")
        reader.equal(f"{path}.attn_out_proj", "bias", bias, proj_bias)
    for name, kind in (("attn_drop", "Dropout"), ("mlp_drop", "Dropout")):
        reader.skip(f"{path}.{name}", kind)
    reader.skip(f"{path}.drop_path", "DropPath")
    return {
        "num_heads": module.num_heads,
        "qkv_bias": qkv_bias,
        "qk_norm": _qk_norm(reader, path),
        "proj_bias": proj_bias,
        "hidden": hidden,
        "act_layer": reader.act(f"{path}.mlp_act"),
        "init_values": reader.layer_scale(f"{path}.ls"),
    }


def read_blocks(reader: Reader) -> dict[str, Any]:
    """The options that every block shares, `depth`, and `hidden`: the MLP's width."""
    reader.take("blocks", "Sequential")
    depth = len(reader.root.blocks)
    if not depth:
        refuse("blocks", "there are none")
    common: dict[str, Any] = {}
    for index in range(depth):
        path = f"blocks.{index}"
        kind = reader.take(path, *BLOCKS)
        if kind == "ParallelThingsBlock":
            own = _parallel_things_block(reader, path, index)
        elif kind.endswith("ParallelScalingBlock"):
            differential = kind.startswith("Diff")
            own = _parallel_scaling_block(reader, path, index, differential)
        else:
            own = _sequential_block(reader, path, index)
        own["block_fn"] = kind
        common = common or own
        for key, value in own.items():
            if key != "init_values" or (value is None) != (common[key] is None):
                reader.equal(path, key, value, common[key])
    return {**common, "depth": depth}
