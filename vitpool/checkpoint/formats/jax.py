# SPDX-License-Identifier: Apache-2.0
"""Google's JAX archives: the original ViT, AugReg and SAM, big_vision and FlexiViT.

Flax keeps a linear layer's kernel as (in, out), with the heads on an axis of their own:
query (C, H, D), out (H, D, C). A big_vision model may keep all its blocks in one array
with the block on axis 0.
"""

from __future__ import annotations

from functools import partial
from math import prod

from ..lazy import Array, LazyTensor, concatenate
from ..spec import Spec

_PREFIXES = ("", "opt/target/", "params/", "params/img/", "img/")


def _prefix(tensors: dict[str, LazyTensor]) -> str | None:
    found = [p for p in _PREFIXES if f"{p}embedding/kernel" in tensors]
    return found[0] if found else None


def matches(tensors: dict[str, LazyTensor]) -> bool:
    """Whether the keys are of this layout."""
    return _prefix(tensors) is not None


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
    """A part of the archive, by the names below one path."""

    def __init__(self, tensors: dict[str, LazyTensor]) -> None:
        self.tensors = tensors

    def __getitem__(self, name: str) -> LazyTensor:
        try:
            return self.tensors[name]
        except KeyError:
            raise ValueError(f"JAX checkpoint: {name!r} is missing") from None

    def __contains__(self, name: str) -> bool:
        return name in self.tensors

    def below(self, path: str) -> _Tree:
        at = len(path)
        return _Tree({k[at:]: v for k, v in self.tensors.items() if k.startswith(path)})


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


def convert(tensors: dict[str, LazyTensor], spec: Spec) -> dict[str, LazyTensor]:
    """The tensors under timm's keys."""
    prefix = _prefix(tensors)
    assert prefix is not None
    tree = _Tree(tensors).below(prefix)
    stacked = "Transformer/encoderblock/LayerNorm_0/scale" in tree
    big_vision = prefix.startswith("params/") or "pos_embedding" in tree or stacked

    out = {}
    if "cls" in tree:
        out["cls_token"] = tree["cls"]
    inside = "" if big_vision else "Transformer/posembed_input/"
    out["pos_embed"] = tree[f"{inside}pos_embedding"]
    out["patch_embed.proj.weight"] = tree["embedding/kernel"].transpose(3, 2, 0, 1)
    out["patch_embed.proj.bias"] = tree["embedding/bias"]

    # Flax numbers layers by type in the order they were made, which differs.
    attention, mlp, norm2 = (0, 0, 1) if big_vision else (1, 3, 2)
    for index, block in enumerate(_blocks(tree, stacked)):
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

    out["norm.weight"] = tree["Transformer/encoder_norm/scale"]
    out["norm.bias"] = tree["Transformer/encoder_norm/bias"]
    if "MAPHead_0/probe" in tree:
        for name, tensor in _map_head(tree.below("MAPHead_0/")).items():
            out[f"attn_pool.{name}"] = tensor
    if "head/kernel" in tree:
        out["head.weight"] = _linear(tree["head/kernel"])
        out["head.bias"] = tree["head/bias"]
    return out


def _blocks(tree: _Tree, stacked: bool) -> list[_Tree]:
    if stacked:
        stacks = tree.below("Transformer/encoderblock/").tensors
        rows = {name: _rows(stack) for name, stack in stacks.items() if stack.shape}
        depth = min(map(len, rows.values()))
        return [
            _Tree({name: row[i] for name, row in rows.items()}) for i in range(depth)
        ]
    blocks: list[_Tree] = []
    while f"Transformer/encoderblock_{len(blocks)}/LayerNorm_0/scale" in tree:
        blocks.append(tree.below(f"Transformer/encoderblock_{len(blocks)}/"))
    return blocks


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
