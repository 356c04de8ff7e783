# SPDX-License-Identifier: Apache-2.0
"""Whatever a caller means by a model, as a side of a comparison."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ...model import PlainViT
from ...registry import create_model
from .ours import Ours
from .side import Side
from .torch_module import TorchModule, is_module

_ALLOWED = (
    "allowed are a vitpool model, a torch module with blocks, a name, a folder, a "
    "weights file with its config.json beside it, a mapping of create_model's "
    "arguments, and a record"
)


def opened(value: Any, what: str = "model", pretrained: bool = True) -> Side:
    """The side that a caller means.

    value: a model of vitpool's; a live torch module; a name that
    `create_model` takes ('vit_base_patch16_224', 'hf-hub:org/name', 'local-dir:path')
    or the path of a folder, with their weights; the path of a weights file with a
    config.json beside it, else of a record; a mapping of `create_model`'s arguments, as
    {'model_name': 'vit_base_patch16_224', 'checkpoint_path': 'weights.pth'}; or a side.
    what: the argument's name in an error. pretrained: False leaves out the weights of a
    name, a folder and a file.

    TypeError: anything else. ValueError and OSError: what cannot be opened.
    """
    if isinstance(value, PlainViT):
        return Ours(value)
    if is_module(value):
        return TorchModule(value)
    if isinstance(value, (str, os.PathLike)):
        return _named(os.fspath(value), pretrained)
    if isinstance(value, Mapping):
        return _made(value, what)
    if isinstance(value, Side):
        return value
    raise TypeError(f"{what}: {type(value).__name__}; {_ALLOWED}")


def _named(text: Any, pretrained: bool) -> Side:
    path = Path(os.fsdecode(text))
    if path.is_file() and not (path.parent / "config.json").is_file():
        from ..records import open_record  # which may be what imports this

        return open_record(path)
    name = f"local-dir:{path}" if path.exists() else os.fsdecode(text)
    return Ours(create_model(name, pretrained), os.fsdecode(text))


def _made(arguments: Mapping[str, Any], what: str) -> Side:
    model = create_model(**arguments)
    if not isinstance(model, PlainViT):
        raise TypeError(f"{what}: features_only makes no model to compare")
    return Ours(model)
