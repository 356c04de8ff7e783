# SPDX-License-Identifier: Apache-2.0
"""BEiT-3: the vision expert (branch A) of the multimodal model."""

from __future__ import annotations

import re

from ..lazy import LazyTensor, concatenate
from ..spec import Spec

_UNUSED = ("beit3.text_embed.weight", "beit3.vision_embed.mask_token")
# Applied in this order.
_RENAMES = (
    (r"beit3\.", ""),
    (r"vision_embed\.cls_token", "cls_token"),
    (r"vision_embed\.", "patch_embed."),
    (r"embed_positions\.", "pos_embed."),
    (r"encoder\.", ""),
    (r"layers\.", "blocks."),
    (r"ffn_layernorm\.", "norm."),
    (r"ffn\.", "mlp."),
    (r"self_attn_layer_norm\.", "norm1."),
    (r"self_attn\.", "attn."),
    (r"final_layer_norm\.", "norm2."),
    (r"inner_attn_ln", "norm"),
    (r"out_proj", "proj"),
    (r"\.A\.", "."),
)


def matches(tensors: dict[str, LazyTensor]) -> bool:
    """Whether the keys are of this layout."""
    return any("beit3." in key for key in tensors)


def convert(tensors: dict[str, LazyTensor], spec: Spec) -> dict[str, LazyTensor]:
    """The tensors under timm's keys."""
    out = {}
    for key, tensor in tensors.items():
        if key in _UNUSED or ".B." in key:  # the text's side
            continue
        for pattern, new in _RENAMES:
            key = re.sub(pattern, new, key)
        if key == "pos_embed.weight":
            # fairseq keeps two rows for padding in front.
            rows, width = tensor[2:].shape
            key, tensor = "pos_embed", tensor[2:].reshape(1, rows, width)
        out[key] = tensor
    return fuse_qkv(out, r"(blocks\.\d+\.attn\.)([qkv])_proj\.(weight|bias)")


def fuse_qkv(tensors: dict[str, LazyTensor], pattern: str) -> dict[str, LazyTensor]:
    """Join separate query, key and value layers as `qkv`.

    `pattern` matches a whole key, with the groups: path, one that starts with q, k or
    v, and weight or bias. Incomplete triples stay as they are.
    """
    triples: dict[str, dict[str, str]] = {}
    for key in tensors:
        if match := re.fullmatch(pattern, key):
            path, which, kind = match.groups()
            triples.setdefault(f"{path}qkv.{kind}", {})[which[0]] = key
    out = dict(tensors)
    for joint, keys in triples.items():
        if len(keys) == 3:
            out[joint] = concatenate([out.pop(keys[which]) for which in "qkv"])
    return out
