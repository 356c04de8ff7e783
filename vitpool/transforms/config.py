# SPDX-License-Identifier: Apache-2.0
"""How pictures must be prepared for a model: timm's `resolve_data_config`."""

from __future__ import annotations

import copy
import logging
from collections.abc import Mapping
from typing import Any

from ..config import as_int, as_pair, plain

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
CROP_PCT = 0.875
CROP_MODE = "center"

# More than any picture has; a config's claim is not believed beyond it.
_MOST_CHANNELS = 4096


def _number(value: Any, name: str) -> float:
    """A float; ValueError where it is too large to be one."""
    try:
        return float(value)
    except OverflowError as error:
        raise ValueError(f"{name}: {value!s:.40} is too large") from error


def as_size(value: Any, name: str) -> tuple[int, int]:
    """(height, width) from H, (H, W) or (C, H, W), of any sequence."""
    value = plain(value)
    if hasattr(value, "__len__"):
        value = tuple(value)
        value = value[1:] if len(value) == 3 else value
    return as_pair(value, name)


def _image_shape(value: Any) -> tuple[int, int, int]:
    """(C, H, W) of any sequence of three."""
    if not hasattr(value, "__len__") or len(value) != 3:
        raise ValueError(f"input_size: {value!r:.40}, allowed is (C, H, W)")
    channels, height, width = (as_int(side, "input_size", 1) for side in value)
    return channels, height, width


def as_channels(values: Any, channels: int, name: str) -> tuple[float, ...]:
    """One value for each channel; one value serves all, as in timm."""
    values = plain(values)
    numbers = (values,) if isinstance(values, (int, float)) else tuple(values)
    if len(numbers) not in (1, channels):
        raise ValueError(
            f"{name}: {len(numbers)} values, allowed are 1 or one for each of "
            f"{channels} channels"
        )
    out = tuple(_number(v, name) for v in numbers)
    return out if len(out) == channels else out * channels


# What may be said in place of a model's configuration.
_KNOWN = {
    "input_size", "img_size", "in_chans", "interpolation", "mean", "std",
    "crop_pct", "crop_mode",
}  # fmt: skip


def resolve_data_config(
    args: Any = None,
    pretrained_cfg: Mapping[str, Any] | None = None,
    model: Any = None,
    use_test_size: bool = False,
    verbose: bool = False,
    **overrides: Any,
) -> dict[str, Any]:
    """How pictures must be prepared for a model: timm's `resolve_data_config`.

    args: a mapping of what is to be otherwise, as overrides; other keys in it are not
    for this function, as in timm (it may be a command's whole arguments). Where it is
    all that is given it may as well be a model's `default_cfg`; and it may be the
    model. pretrained_cfg: in place of the model's own. model: a model of any
    class, or what `features_only` gives. use_test_size: prefer the config's
    test_input_size and test_crop_pct. verbose: log the result at level INFO, to the
    logger 'vitpool'.

    overrides (None means "not given"): input_size (C, H, W), img_size (H or (H, W)),
    in_chans (in args also chans), interpolation, mean, std, crop_pct, crop_mode.

    Returns input_size, interpolation, mean, std, crop_pct and crop_mode; timm's
    defaults where nothing says otherwise. Unlike timm the size and the channels are
    those of the model itself where it has been built for others than its config names,
    so that the result always fits the model; and a mean of three for a model of another
    channel count becomes their average.
    """
    unknown = sorted(set(overrides) - _KNOWN)
    if unknown:
        raise TypeError(f"unknown option {unknown[0]!r}, allowed: {sorted(_KNOWN)}")
    told, cfg, built = _sources(args, pretrained_cfg, model)
    given = {k: v for k, v in {**told, **_given(overrides)}.items() if k in _KNOWN}

    size: Any = cfg.get("input_size") or (3, 224, 224)
    if use_test_size and cfg.get("test_input_size"):
        size = cfg["test_input_size"]
    channels, height, width = _image_shape(size)
    if built is not None:
        channels = built.in_chans
        if not (built.dynamic_img_size and cfg.get("input_size")):
            height, width = built.img_size
    channels = as_int(given.get("in_chans", channels), "in_chans", 1)
    if "img_size" in given:
        height, width = as_size(given["img_size"], "img_size")
    if "input_size" in given:
        channels, height, width = _image_shape(given["input_size"])
    if channels > _MOST_CHANNELS:
        raise ValueError(
            f"input_size: {channels} channels, allowed are 1 to {_MOST_CHANNELS}"
        )

    out: dict[str, Any] = {"input_size": (channels, height, width)}
    out["interpolation"] = given.get(
        "interpolation", cfg.get("interpolation") or "bicubic"
    )
    for key, default in (("mean", IMAGENET_MEAN), ("std", IMAGENET_STD)):
        values = given.get(key)
        if values is None:
            values = cfg.get(key) or default
            if not isinstance(values, (int, float)) and len(values) != channels:
                values = sum(_number(v, key) for v in values) / len(values)
        out[key] = as_channels(values, channels, key)
    crop_pct = cfg.get("crop_pct") or CROP_PCT
    if use_test_size and cfg.get("test_crop_pct"):
        crop_pct = cfg["test_crop_pct"]
    out["crop_pct"] = _number(given.get("crop_pct", crop_pct), "crop_pct")
    out["crop_mode"] = given.get("crop_mode", cfg.get("crop_mode") or CROP_MODE)
    if verbose:
        logging.getLogger("vitpool").info("pictures are prepared with %s", out)
    return out


def resolve_model_data_config(
    model: Any,
    args: Mapping[str, Any] | None = None,
    pretrained_cfg: Mapping[str, Any] | None = None,
    use_test_size: bool = False,
    verbose: bool = False,
) -> dict[str, Any]:
    """`resolve_data_config` with the model first, as timm's."""
    return resolve_data_config(args, pretrained_cfg, model, use_test_size, verbose)


def _sources(
    args: Any, pretrained_cfg: Any, model: Any
) -> tuple[dict[str, Any], dict[str, Any], Any]:
    """(what is told, the configuration, the model), by whatever place each came."""
    if args is not None and not isinstance(args, Mapping):
        if model is not None:
            raise TypeError(f"args must be a mapping, not {type(args).__name__}")
        args, model = None, args
    if isinstance(model, Mapping):
        if pretrained_cfg is not None:
            raise TypeError("model must be a model where a pretrained_cfg is given")
        pretrained_cfg, model = model, None
    told = _given(args or {})
    if "chans" in told:
        told.setdefault("in_chans", told["chans"])
    built = None
    if model is not None and not hasattr(model, "pretrained_cfg"):
        raise TypeError(f"expected a model or a mapping, not {type(model).__name__}")
    if model is not None:
        built = copy.copy(model)  # one state of it for all that follows
        pretrained_cfg = pretrained_cfg or built.pretrained_cfg
    elif pretrained_cfg is None and args:
        # A configuration, perhaps; in it a size goes before what it is made of.
        pretrained_cfg = args
        sizes = () if "input_size" in told else ("img_size", "in_chans")
        told = {key: told[key] for key in sizes if key in told}
    return told, {k: plain(v) for k, v in (pretrained_cfg or {}).items()}, built


def _given(options: Mapping[str, Any]) -> dict[str, Any]:
    return {k: plain(v) for k, v in options.items() if v is not None}
