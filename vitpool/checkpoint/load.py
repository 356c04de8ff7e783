# SPDX-License-Identifier: Apache-2.0
"""Loads a weights file into a live model, or builds a model straight from one."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ..config import Dtype
from ..text import printable, warn_user
from .adapt import fitted_state_dict
from .beside import check_config
from .dtypes import check_dtypes
from .files import open_state_dict
from .fit import HEADS, Fit
from .formats import OF_TRANSFORMERS, find_format
from .lazy import Array, LazyTensor, Shape, StateDict, zeros
from .spec import Spec

if TYPE_CHECKING:
    from ..model import PlainViT

_log = logging.getLogger("vitpool")


def load_checkpoint(
    model: PlainViT,
    path: str | os.PathLike[str],
    strict: bool = True,
    *,
    variant: str | None = None,
) -> Any:
    """Load a weights file, of any layout that is read, into `model`.

    Positions, patches and channels are adapted to the model; a head of another number
    of classes is an error, or with strict=False left out.
    strict: every tensor of the model is in the file, and no other; a config.json of
        transformers' beside the file describes such a model.
    variant: timm's name of the model, which for FlexiViT and RADIO decides how their
        embeddings are resized; None takes it from model.pretrained_cfg.
    Returns (missing_keys, unexpected_keys). Raises OSError, and ValueError with the
    keys, the shapes and what would fit; the model is then as it was. LeftOutWarning: a
    trained pool, or norm, is not loaded, as the model has no such part.
    """
    spec = Spec.from_model(model, variant)
    weights, said = fitted_state_dict(_open(path, spec, strict), spec, new_head=False)
    fit = _checked(weights, spec, strict, said)
    return model.load_state_dict(fit.without_wrong(weights), strict=strict)


def build_with_checkpoint(
    options: Mapping[str, Any],
    pretrained_cfg: Mapping[str, Any] | None,
    path: str | os.PathLike[str],
    *,
    variant: str = "",
    dtype: Dtype | None = None,
    dtypes: Mapping[str, str] | None = None,
    seed: int | None = None,
    strict: bool = True,
    stored_pool: str = "",
    family: str = "VisionTransformer",
) -> PlainViT:
    """Build a model of a class, with `options`, straight from a weights file.

    Tensors are read one at a time into the model's own storage: no random weights are
    made first, and no second copy is held.
    pretrained_cfg: timm's configuration of the checkpoint. Where its `num_classes` is
        not the model's, the head is new, and random as timm's constructor makes it.
    variant: timm's name of the model, as in load_checkpoint.
    dtype: of the model; None: what dtypes say, else float32, whatever the file has.
    dtypes: what config.json says that tensors of the file are of, where that is not
        float32: the model keeps them so, integers to the bit, unless dtype is another.
        ValueError where the file has others.
    strict: see load_checkpoint; with False, what is missing is random too.
    stored_pool: the global_pool that the file's head was trained with, where the caller
        knows it: a UserWarning says where the model has another.
    family: the name of the class.
    """
    from ..model import CLASSES

    spec = Spec.from_options(
        options, pretrained_cfg, variant, stored_pool=stored_pool, family=family
    )
    build = CLASSES[family]
    opened = _open(path, spec, strict)
    if dtypes is not None:
        check_dtypes(opened, dtypes)
    weights, said = fitted_state_dict(opened, spec)
    # A new head, which comes after, is float32.
    weights.dtypes = {k: v for k, v in (dtypes or {}).items() if k in weights.tensors}
    stored = spec.pretrained_cfg.get("num_classes")
    if stored is not None and stored != spec.options["num_classes"]:
        _add_head(weights, spec, seed)
    fit = _checked(weights, spec, strict, said)
    if fit.missing or fit.unexpected or fit.wrong:
        model = build(**options, dtype="float32", seed=seed)
        kept = fit.without_wrong(weights)
        model._replace(None, kept.kept(), kept.untrained, kept.dtypes)
    else:
        first = dtype if dtypes is None else None  # else what dtypes say
        model = build(**options, dtype=first, seed=seed, weights=weights)
    if dtype == "float32" or dtype not in (None, model.dtype):
        model = model.to(dtype)
    if pretrained_cfg:
        model.pretrained_cfg = model.default_cfg = dict(pretrained_cfg)
    return model


def _open(path: str | os.PathLike[str], spec: Spec, strict: bool) -> StateDict:
    """The weights of a file; where they are transformers', its config is looked at."""
    weights = open_state_dict(path)
    try:
        found = find_format(weights.tensors, spec) if strict else None
        if found and found[0] in OF_TRANSFORMERS:
            check_config(Path(weights.source), spec)
    except ValueError as error:
        raise ValueError(printable(f"{weights.source}: {error}")) from None
    return weights


def _checked(weights: StateDict, spec: Spec, strict: bool, said: list[Warning]) -> Fit:
    """How the weights fit; then the warnings, which a filter may turn into errors."""
    fit = Fit.of(weights, spec)
    fit.check(weights, spec, strict)
    for warning in (*said, *fit.left_out(weights)):
        warn_user(warning)
    return fit


def _add_head(weights: StateDict, spec: Spec, seed: int | None) -> None:
    """New heads where the file has none, as timm's constructor makes them."""
    new: list[str] = []
    for number, head in enumerate(HEADS):
        names = (f"{head}.weight", f"{head}.bias")
        if any(key in weights.tensors or key not in spec.shapes for key in names):
            continue
        shape = spec.shapes[names[0]]
        scale = np.float32(0.02 * (spec.options.get("head_init_scale") or 1.0))
        own = [seed, number] if seed is not None and number else seed
        draw = partial(_normal, shape, scale, own)
        weights.tensors[names[0]] = LazyTensor(shape, draw)
        weights.tensors[names[1]] = zeros(*spec.shapes[names[1]])
        new += names
        _log.warning("the %s of %d classes is new and untrained", head, shape[0])
    if new:
        weights.untrained = tuple(new)


def _normal(shape: Shape, scale: np.float32, seed: Any) -> Array:
    return np.random.default_rng(seed).standard_normal(shape, np.float32) * scale
