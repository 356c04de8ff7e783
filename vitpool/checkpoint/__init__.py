# SPDX-License-Identifier: Apache-2.0
"""Weights: reading files, converting published layouts, loading into a model."""

from __future__ import annotations

from .adapt import convert_state_dict
from .beside import activation_of, vision_of
from .files import open_state_dict, shard_names
from .fit import LeftOutWarning
from .lazy import StateDict, lazy_tensors
from .load import build_with_checkpoint, load_checkpoint
from .safetensors_out import stored, write_safetensors
from .spec import Spec, resize_rule

__all__ = [
    "LeftOutWarning",
    "Spec",
    "StateDict",
    "activation_of",
    "build_with_checkpoint",
    "convert_state_dict",
    "lazy_tensors",
    "load_checkpoint",
    "open_state_dict",
    "resize_rule",
    "shard_names",
    "stored",
    "vision_of",
    "write_safetensors",
]
