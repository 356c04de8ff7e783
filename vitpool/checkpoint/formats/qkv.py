# SPDX-License-Identifier: Apache-2.0
"""q, k and v of a file, as timm's classes Eva and Beit keep them."""

from __future__ import annotations

import re

import numpy as np

from ..lazy import LazyTensor
from ..spec import Spec
from .keys import Tensors, fuse_qkv

_BIAS = re.compile(r"(blocks\.\d+\.attn\.)qkv\.bias")


def q_v_biases(out: Tensors, spec: Spec, masked: bool = False) -> Tensors:
    """`qkv.bias` of a model whose k has none as q_bias and v_bias.

    masked: k's third is not in use, whatever its numbers are. Else it has to be zero;
    and all of it, where the model has no biases: ValueError.
    """
    kept = {}
    for key, tensor in out.items():
        match = _BIAS.fullmatch(key)
        if not match or key in spec.shapes:
            kept[key] = tensor
            continue
        q, k, v = thirds(tensor)
        if not masked:
            _check_zero(k, f"k's bias in {key}", "the model's k has none")
        for name, part in (("q_bias", q), ("v_bias", v)):
            if match[1] + name in spec.shapes:
                kept[match[1] + name] = part
            else:
                _check_zero(part, key, "the model has no biases of q and v")
    return kept


def joined(out: Tensors, spec: Spec) -> Tensors:
    """Separate q_proj, k_proj and v_proj as the one matrix that the model has.

    The biases of q and v become q_bias and v_bias; where the model has none they have
    to be zero: ValueError.
    """
    if any(key.endswith(".attn.q_proj.weight") for key in spec.shapes):
        return out
    out = fuse_qkv(out, r"(blocks\.\d+\.attn\.)([qkv])_proj\.(weight|bias)")
    kept = {}
    for key, tensor in out.items():
        if match := re.fullmatch(r"(blocks\.\d+\.attn\.)([qv])_proj\.bias", key):
            ours = f"{match[1]}{match[2]}_bias"
            if ours not in spec.shapes:
                _check_zero(tensor, key, "the model has no biases of q and v")
                continue
            key = ours
        kept[key] = tensor
    return kept


def thirds(tensor: LazyTensor) -> tuple[LazyTensor, LazyTensor, LazyTensor]:
    """The parts of q, k and v of a joint weight or bias."""
    third = tensor.shape[0] // 3 if tensor.shape else 0
    if not third or tensor.shape[0] != 3 * third:
        raise ValueError(f"a q, k and v of the shape {tensor.shape} has no thirds")
    return tensor[:third], tensor[third : 2 * third], tensor[2 * third :]


def _check_zero(tensor: LazyTensor, what: str, why: str) -> None:
    if np.any(np.asarray(tensor.read(), np.float32)):
        raise ValueError(f"{what} is not zero, and {why}")
