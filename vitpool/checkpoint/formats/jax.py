# SPDX-License-Identifier: Apache-2.0
"""Google's JAX archives: the original ViT, AugReg and SAM, big_vision and FlexiViT.

Flax keeps a linear layer's kernel as (in, out), with the heads on an axis of their own:
query (C, H, D), out (H, D, C). A big_vision model may keep all its blocks in one array
with the block on axis 0.
"""

from __future__ import annotations

import re
from functools import partial
from math import isqrt, prod

from ..lazy import Array, LazyTensor, concatenate
from ..spec import Spec
from .keys import VITS, Tensors, take_below

FAMILIES = VITS

_BLOCKS = "Transformer/encoderblock"
_PREFIXES = ("", "opt/target/", "params/", "params/img/", "img/")
# The text tower of SigLIP with its temperature and bias; the optimizer's state.
UNUSED = re.compile(r"txt/|[tb]$|opt/(?!target/)")


def prefixes(tensors: Tensors) -> set[str]:
    """The prefix of a model of this layout, in a set."""
    return {p for p in _PREFIXES if f"{p}embedding/kernel" in tensors}


def head_pool(tensors: Tensors, prefix: str) -> str:
    """What the classifier was trained on."""
    if f"{prefix}MAPHead_0/probe" in tensors:
        return "map"
    return "token" if f"{prefix}cls" in tensors else "avg"


def _linear(kernel: LazyTensor) -> LazyTensor:
    """(in, out) to (out, in)."""
    return kernel.transpose(1, 0)


def _into_heads(kernel: LazyTensor) -> LazyTensor:
    """(C, H, D) to (H * D, C)."""
    width, *heads = kernel.shape
    return kernel.reshape(width, prod(heads)).transpose(1, 0)


def _out_of_heads(kernel: LazyTensor) -> LazyTensor:
    """(H, D, C) to (C, H * D)."""
    *heads, width = kernel.shape
    return kernel.reshape(prod(heads), width).transpose(1, 0)


def _flat(bias: LazyTensor) -> LazyTensor:
    return bias.reshape(prod(bias.shape))


def _rows(stack: LazyTensor) -> list[LazyTensor]:
    """The items of axis 0; the array is read once and freed with its last item."""
    rows: dict[int, Array] = {}

    def take(index: int) -> Array:
        if index not in rows:
            rows.update(enumerate(stack.read()))
        return rows.pop(index)

    return [
        LazyTensor(stack.shape[1:], partial(take, index))
        for index in range(stack.shape[0])
    ]


class _Tree:
    """The part of an archive below one path; what is asked for is taken out of it."""

    def __init__(self, tensors: Tensors, path: str) -> None:
        self.tensors = tensors
        self.path = path

    def __getitem__(self, name: str) -> LazyTensor:
        try:
            return self.tensors.pop(self.path + name)
        except KeyError:
            raise ValueError(f"JAX checkpoint: {name!r} is missing") from None

    def __contains__(self, name: str) -> bool:
        return self.path + name in self.tensors

    def below(self, path: str) -> _Tree:
        return _Tree(self.tensors, self.path + path)


def _attention(tree: _Tree, names: tuple[str, ...]) -> dict[str, LazyTensor]:
    """The joint weight and bias of the named projections."""
    return {
        "weight": concatenate([_into_heads(tree[f"{name}/kernel"]) for name in names]),
        "bias": concatenate([_flat(tree[f"{name}/bias"]) for name in names]),
    }


def _mlp(tree: _Tree) -> dict[str, LazyTensor]:
    return {
        f"fc{index + 1}.{ours}": tensor
        for index in (0, 1)
        for ours, tensor in (
            ("weight", _linear(tree[f"Dense_{index}/kernel"])),
            ("bias", tree[f"Dense_{index}/bias"]),
        )
    }


def convert(tensors: Tensors, prefix: str, spec: Spec) -> Tensors:
    """The tensors under timm's keys."""
    tree = _Tree(tensors, prefix)
    stacked = f"{_BLOCKS}/LayerNorm_0/scale" in tree
    big_vision = prefix.startswith("params/") or "pos_embedding" in tree or stacked
    if stacked:
        _unstack(tensors, prefix)

    out = {}
    if "cls" in tree:
        out["cls_token"] = tree["cls"]
    inside = "" if big_vision else "Transformer/posembed_input/"
    positions, kernel = tree[f"{inside}pos_embedding"], tree["embedding/kernel"]
    if len(kernel.shape) == 2:  # NaFlex: a linear layer of (row, column, channel)
        side = isqrt(kernel.shape[0] // 3)
        kernel = kernel.reshape(side, side, 3, kernel.shape[1])
    if positions.shape[0] != 1:  # NaFlex: on their grid
        positions = positions.reshape(1, -1, positions.shape[-1])
    out["pos_embed"] = positions
    out["patch_embed.proj.weight"] = kernel.transpose(3, 2, 0, 1)
    out["patch_embed.proj.bias"] = tree["embedding/bias"]

    # Flax numbers layers by type in the order they were made, which differs.
    attention, mlp, norm2 = (0, 0, 1) if big_vision else (1, 3, 2)
    index = 0
    while f"{_BLOCKS}_{index}/LayerNorm_0/scale" in tree:
        block = tree.below(f"{_BLOCKS}_{index}/")
        at = f"blocks.{index}."
        out[f"{at}norm1.weight"] = block["LayerNorm_0/scale"]
        out[f"{at}norm1.bias"] = block["LayerNorm_0/bias"]
        heads = block.below(f"MultiHeadDotProductAttention_{attention}/")
        for name, tensor in _attention(heads, ("query", "key", "value")).items():
            out[f"{at}attn.qkv.{name}"] = tensor
        out[f"{at}attn.proj.weight"] = _out_of_heads(heads["out/kernel"])
        out[f"{at}attn.proj.bias"] = heads["out/bias"]
        out[f"{at}norm2.weight"] = block[f"LayerNorm_{norm2}/scale"]
        out[f"{at}norm2.bias"] = block[f"LayerNorm_{norm2}/bias"]
        for name, tensor in _mlp(block.below(f"MlpBlock_{mlp}/")).items():
            out[f"{at}mlp.{name}"] = tensor
        index += 1

    out["norm.weight"] = tree["Transformer/encoder_norm/scale"]
    out["norm.bias"] = tree["Transformer/encoder_norm/bias"]
    if "MAPHead_0/probe" in tree:
        for name, tensor in _map_head(tree.below("MAPHead_0/")).items():
            out[f"attn_pool.{name}"] = tensor
    for ours, theirs in (("head", "head"), ("pre_logits.fc", "pre_logits")):
        if f"{theirs}/kernel" in tree:
            out[f"{ours}.weight"] = _linear(tree[f"{theirs}/kernel"])
            out[f"{ours}.bias"] = tree[f"{theirs}/bias"]
    return out


def _unstack(tensors: Tensors, prefix: str) -> None:
    """Put each block of arrays that hold all blocks under the key of its own."""
    stacks = take_below(tensors, f"{prefix}{_BLOCKS}/")
    depths = {stack.shape[0] if stack.shape else 0 for stack in stacks.values()}
    if len(depths) != 1:
        raise ValueError(f"JAX checkpoint: arrays of {sorted(depths)} blocks")
    for name, stack in stacks.items():
        for index, row in enumerate(_rows(stack)):
            tensors[f"{prefix}{_BLOCKS}_{index}/{name}"] = row


def _map_head(tree: _Tree) -> dict[str, LazyTensor]:
    heads = tree.below("MultiHeadDotProductAttention_0/")
    out = {"latent": tree["probe"]}
    for ours, names in (("q", ("query",)), ("kv", ("key", "value"))):
        for name, tensor in _attention(heads, names).items():
            out[f"{ours}.{name}"] = tensor
    out["proj.weight"] = _out_of_heads(heads["out/kernel"])
    out["proj.bias"] = heads["out/bias"]
    out["norm.weight"] = tree["LayerNorm_0/scale"]
    out["norm.bias"] = tree["LayerNorm_0/bias"]
    for name, tensor in _mlp(tree.below("MlpBlock_0/")).items():
        out[f"mlp.{name}"] = tensor
    return out
