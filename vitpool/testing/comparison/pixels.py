# SPDX-License-Identifier: Apache-2.0
"""Files of pictures to a model's input, by what the model itself says of them."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from ...model import PlainViT
from ...transforms import create_transform, load_image, resolve_data_config
from .side import Array

# The facts' names, in the order of what they do to a picture.
_KEYS = ("input_size", "interpolation", "crop_pct", "crop_mode", "mean", "std")


def pixels_of(
    model: Any, input_size: tuple[int, int, int], files: Sequence[Any]
) -> tuple[Array, dict[str, Any]]:
    """(B, channels, height, width) of files, by a model's own preprocessing, and facts.

    model: one of vitpool's, whose transform is vitpool's; or a torch module with
    timm's pretrained_cfg, whose transform is timm's where that is imported, and else
    vitpool's of the same configuration. input_size: channels, height and width of what
    it takes. files: pictures as `load_image` takes them. The facts are how they are
    prepared: 'preprocessing.interpolation', 'preprocessing.mean', ...

    TypeError: the model says nothing of its pictures, or they cannot have so many
    channels. ImageError, OSError: a picture that cannot be read.
    """
    config, prepare = _preprocessing(model, input_size)
    facts = {f"preprocessing.{key}": _plain(config[key]) for key in _KEYS}
    out = np.empty((len(files), *input_size), np.float32)
    for index, file in enumerate(files):
        out[index] = prepare(file)
    return out, facts


def _preprocessing(
    model: Any, input_size: tuple[int, int, int]
) -> tuple[dict[str, Any], Callable[[Any], Any]]:
    """How pictures are prepared for a model: in words, and what does it."""
    cfg = getattr(model, "pretrained_cfg", None)
    ours = isinstance(model, PlainViT)
    if not ours and not (isinstance(cfg, Mapping) and cfg):
        raise TypeError(
            f"{type(model).__name__} has no pretrained_cfg: nothing says how pictures "
            "are prepared for it"
        )
    if input_size[0] not in (1, 3):
        raise TypeError(
            f"pictures have 1 channel or 3, the model takes {input_size[0]}"
        )
    of: dict[str, Any] = {"model": model} if ours else {"pretrained_cfg": cfg}
    config = resolve_data_config(**of, input_size=input_size)
    if ours or "timm" not in sys.modules:
        return config, create_transform(**config)
    data = importlib.import_module("timm.data")
    told: dict[str, Any] = {"input_size": input_size}
    if input_size[0] != 3:  # for which timm has no mean of a configuration of three
        told |= {key: config[key] for key in ("mean", "std")}
    config = data.resolve_model_data_config(model, told)
    transform = data.create_transform(**config)
    mode = "RGB" if input_size[0] == 3 else "L"
    return config, lambda file: transform(load_image(file, mode)).numpy()


def _plain(value: Any) -> Any:
    """A list or a tuple, of whichever kind, as one that equals the other's."""
    return tuple(value) if isinstance(value, (list, tuple)) else value
