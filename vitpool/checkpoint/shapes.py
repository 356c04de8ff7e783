# SPDX-License-Identifier: Apache-2.0
"""Keys and shapes of a model's state dict, from its options alone.

A weights file is compared with them before the first tensor is read.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from .lazy import Shape

Options = Mapping[str, Any]


class _Table:
    """Collects shapes under a dotted path."""

    def __init__(self) -> None:
        self.shapes: dict[str, Shape] = {}

    def linear(self, name: str, inputs: int, outputs: int, bias: bool = True) -> None:
        self.shapes[f"{name}.weight"] = (outputs, inputs)
        if bias:
            self.shapes[f"{name}.bias"] = (outputs,)

    def norm(self, name: str, width: int, kind: str) -> None:
        self.shapes[f"{name}.weight"] = (width,)
        if kind == "layernorm":
            self.shapes[f"{name}.bias"] = (width,)


def param_shapes(options: Options) -> dict[str, Shape]:
    """Key to shape of a model, in timm's order; `options` as `config.resolve` gives."""
    o = options
    width, hidden, kind = o["embed_dim"], o["mlp_hidden"], o["norm_layer"]
    prefix = int(o["class_token"]) + o["reg_tokens"]
    rows, columns = (
        size // patch
        for size, patch in zip(o["img_size"], o["patch_size"], strict=True)
    )
    table = _Table()
    shapes = table.shapes

    if o["class_token"]:
        shapes["cls_token"] = (1, 1, width)
    if o["reg_tokens"]:
        shapes["reg_token"] = (1, o["reg_tokens"], width)
    if o["pos_embed"]:
        tokens = rows * columns + (0 if o["no_embed_class"] else prefix)
        shapes["pos_embed"] = (1, tokens, width)
    shapes["patch_embed.proj.weight"] = (width, o["in_chans"], *o["patch_size"])
    if not o["pre_norm"]:
        shapes["patch_embed.proj.bias"] = (width,)
    if o["embed_norm_layer"] != "identity":
        table.norm("patch_embed.norm", width, o["embed_norm_layer"])
    if o["pre_norm"]:
        table.norm("norm_pre", width, kind)
    for index in range(o["depth"]):
        _block(table, f"blocks.{index}.", o)
    if o["norm"]:
        table.norm("norm", width, kind)
    if o["global_pool"] == "map":
        shapes["attn_pool.latent"] = (1, 1, width)
        table.linear("attn_pool.q", width, width)
        table.linear("attn_pool.kv", width, 2 * width)
        table.linear("attn_pool.proj", width, width)
        table.norm("attn_pool.norm", width, kind)
        table.linear("attn_pool.mlp.fc1", width, hidden)
        table.linear("attn_pool.mlp.fc2", hidden, width)
    if o["fc_norm"]:
        table.norm("fc_norm", width, kind)
    if o["num_classes"]:
        table.linear("head", width, o["num_classes"])
    return shapes


def _block(table: _Table, at: str, o: Options) -> None:
    width, kind = o["embed_dim"], o["norm_layer"]
    block = o["block_fn"]
    # Layer scale: most blocks have none at 0.0, the two scaling blocks do.
    scaled = o["init_values"] != 0
    if block.endswith("ParallelScalingBlock"):
        _scaling_block(table, at, o)
        if o["has_init_values"]:
            table.shapes[f"{at}ls.gamma"] = (width,)
    elif block == "ParallelThingsBlock":
        for branch, part, name in (
            ("attns", _attention, "attn"),
            ("ffns", _mlp, "mlp"),
        ):
            for index in range(2):
                inner = f"{at}{branch}.{index}."
                table.norm(f"{inner}norm", width, kind)
                part(table, f"{inner}{name}.", o)
                if scaled:
                    table.shapes[f"{inner}ls.gamma"] = (width,)
    else:
        post = block == "ResPostBlock"  # its norms follow what they norm, and no scale
        for index, part, name in ((1, _attention, "attn"), (2, _mlp, "mlp")):
            if not post:
                table.norm(f"{at}norm{index}", width, kind)
            part(table, f"{at}{name}.", o)
            if post:
                table.norm(f"{at}norm{index}", width, kind)
            elif scaled:
                table.shapes[f"{at}ls{index}.gamma"] = (width,)


def _lambdas(table: _Table, at: str, head: int) -> None:
    for name in ("q1", "k1", "q2", "k2"):
        table.shapes[f"{at}lambda_{name}"] = (head,)


def _head_width(o: Options, diff: bool) -> int:
    width: int = o["embed_dim"] // o["num_heads"] // (2 if diff else 1)
    return width


def _qk_norm(table: _Table, at: str, o: Options, head: int) -> None:
    if o["qk_norm"]:
        table.norm(f"{at}q_norm", head, o["norm_layer"])
        table.norm(f"{at}k_norm", head, o["norm_layer"])


def _attention(table: _Table, at: str, o: Options) -> None:
    width = o["embed_dim"]
    diff = o["attn_layer"] == "diff"
    head = _head_width(o, diff)
    if diff:
        _lambdas(table, at, head)
    table.linear(f"{at}qkv", width, 3 * width, o["qkv_bias"])
    _qk_norm(table, at, o, head)
    if o["scale_attn_norm"]:
        table.norm(f"{at}norm", width, o["norm_layer"])
    table.linear(f"{at}proj", width, width, o["proj_bias"])
    if diff:
        table.norm(f"{at}sub_norm", 2 * head, "rmsnorm")


def _mlp(table: _Table, at: str, o: Options) -> None:
    width, hidden, bias = o["embed_dim"], o["mlp_hidden"], o["proj_bias"]
    inner = hidden
    if o["mlp_layer"] == "SwiGLU":
        table.linear(f"{at}fc1_g", width, hidden, bias)
        table.linear(f"{at}fc1_x", width, hidden, bias)
    else:
        table.linear(f"{at}fc1", width, hidden, bias)
        if o["mlp_layer"] in ("GluMlp", "SwiGLUPacked"):
            inner = hidden // 2
    if o["scale_mlp_norm"]:
        table.norm(f"{at}norm", inner, o["norm_layer"])
    table.linear(f"{at}fc2", inner, width, bias)


def _scaling_block(table: _Table, at: str, o: Options) -> None:
    """ParallelScalingBlock and its differential form: one joint input projection."""
    width, hidden, bias = o["embed_dim"], o["mlp_hidden"], o["proj_bias"]
    diff = o["block_fn"].startswith("Diff")
    head = _head_width(o, diff)
    if not o["qkv_bias"]:
        table.shapes[f"{at}mlp_bias"] = (hidden,)
    if diff:
        _lambdas(table, at, head)
    table.norm(f"{at}in_norm", width, o["norm_layer"])
    table.linear(f"{at}in_proj", width, hidden + 3 * width, o["qkv_bias"])
    _qk_norm(table, at, o, head)
    if diff:
        table.norm(f"{at}sub_norm", 2 * head, "rmsnorm")
        table.linear(f"{at}out_proj", width + hidden, width, bias)
    else:
        table.linear(f"{at}attn_out_proj", width, width, bias)
        table.linear(f"{at}mlp_out_proj", hidden, width, bias)
