# SPDX-License-Identifier: Apache-2.0
"""Loads a weights file into a live model, or builds a model straight from one."""

from __future__ import annotations

import logging
import math
import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from ..text import some
from .adapt import convert_state_dict
from .files import open_state_dict
from .lazy import LazyTensor, Shape, StateDict, zeros
from .spec import Spec

if TYPE_CHECKING:
    from ..model import VisionTransformer

_log = logging.getLogger("vitpool")

_HEAD = ("head.weight", "head.bias")


def load_checkpoint(
    model: VisionTransformer,
    path: str | os.PathLike[str],
    strict: bool = True,
    *,
    variant: str | None = None,
) -> Any:
    """Load a weights file, of any layout that is read, into `model`.

    Positions, patches and channels are adapted to the model; a head of another number
    of classes is an error, or with strict=False left out.
    strict: every tensor of the model is in the file, and no other.
    variant: timm's name of the model, which for FlexiViT and RADIO decides how their
        embeddings are resized; None takes it from model.pretrained_cfg.
    Returns (missing_keys, unexpected_keys). Raises OSError, and ValueError with the
    keys, the shapes and what would fit; the model is then as it was.
    """
    spec = Spec.from_model(model, variant)
    weights = convert_state_dict(open_state_dict(path), spec, new_head=False)
    fit = Fit.of(weights, spec)
    fit.check(weights, spec, strict)
    return model.load_state_dict(fit.without_wrong(weights), strict=strict)


def build_with_checkpoint(
    options: Mapping[str, Any],
    pretrained_cfg: Mapping[str, Any] | None,
    path: str | os.PathLike[str],
    *,
    variant: str = "",
    dtype: str = "float32",
    seed: int | None = None,
    strict: bool = True,
) -> VisionTransformer:
    """Build VisionTransformer(**options) straight from a weights file.

    Tensors are read one at a time into the model's own storage: no random weights are
    made first, and no second copy is held.
    pretrained_cfg: timm's configuration of the checkpoint. Where its `num_classes` is
        not the model's, the head is new, and random as timm's constructor makes it.
    variant: timm's name of the model, as in load_checkpoint.
    strict: see load_checkpoint; with False, what is missing is random too.
    """
    from ..model import VisionTransformer

    spec = Spec.from_options(options, pretrained_cfg, variant)
    weights = convert_state_dict(open_state_dict(path), spec)
    stored = spec.pretrained_cfg.get("num_classes")
    if stored is not None and stored != spec.options["num_classes"]:
        _add_head(weights, spec, seed)
    fit = Fit.of(weights, spec)
    fit.check(weights, spec, strict)
    if fit.missing or fit.unexpected or fit.wrong:
        model = VisionTransformer(**options, dtype=dtype, seed=seed)
        model.load_state_dict(fit.without_wrong(weights), strict=False)
    else:
        model = VisionTransformer(**options, dtype=dtype, seed=seed, weights=weights)
    if pretrained_cfg:
        model.pretrained_cfg = model.default_cfg = dict(pretrained_cfg)
    return model


def _add_head(weights: StateDict, spec: Spec, seed: int | None) -> None:
    """A new head where the file has none: normal weights of 0.02, zero bias."""
    if any(key in weights.tensors or key not in spec.shapes for key in _HEAD):
        return
    shape = spec.shapes["head.weight"]

    def draw() -> Any:
        values = np.random.default_rng(seed).standard_normal(shape, np.float32)
        return values * np.float32(0.02)

    weights.tensors["head.weight"] = LazyTensor(shape, draw)
    weights.tensors["head.bias"] = zeros(*spec.shapes["head.bias"])
    _log.warning("the head of %d classes is new and untrained", shape[0])


@dataclass(frozen=True)
class Fit:
    """How the keys and shapes of weights differ from a model's."""

    missing: list[str]
    unexpected: list[str]
    wrong: list[str]

    @classmethod
    def of(cls, weights: StateDict, spec: Spec) -> Fit:
        """Compare the shapes of `weights` with the model's."""
        stored = weights.shapes()
        return cls(
            [key for key in spec.shapes if key not in stored],
            [key for key in stored if key not in spec.shapes],
            [k for k, shape in spec.shapes.items() if stored.get(k, shape) != shape],
        )

    def without_wrong(self, weights: StateDict) -> StateDict:
        """The weights but for those of a wrong shape."""
        kept = {k: v for k, v in weights.tensors.items() if k not in self.wrong}
        return StateDict(kept, weights.source)

    def check(self, weights: StateDict, spec: Spec, strict: bool) -> None:
        """Raise ValueError, or without `strict` log, what does not fit.

        A wrong shape is an error either way, as in torch, except in the head.
        """
        wrong = [key for key in self.wrong if strict or key not in _HEAD]
        if not (wrong or self.wrong or self.missing or self.unexpected):
            return
        stored = weights.shapes()
        parts = []
        if self.missing:
            parts.append(f"missing are {_some(self.missing)}")
        if self.unexpected:
            named = [f"{key} {stored[key]}" for key in self.unexpected]
            parts.append(f"unexpected are {_some(named)}")
        if self.wrong:
            named = [f"{k} is {stored[k]}, not {spec.shapes[k]}" for k in self.wrong]
            parts.append(f"of a wrong shape are {_some(named)}")
        text = "; ".join(parts)
        hints = what_would_fit(stored, spec)
        if hints:
            text += f". The weights are those of a model with {', '.join(hints)}"
        message = f"{weights.source}: does not fit the model: {text}"
        if strict or wrong:
            raise ValueError(message)
        _log.warning("%s", message)


def _some(items: list[str]) -> str:
    """How many there are, and the first; names come from the file."""
    return f"{len(items)}: {some(items)}"


def what_would_fit(stored: Mapping[str, Shape], spec: Spec) -> list[str]:
    """The options, as 'name=value', in which the weights differ from the model."""
    seen = _seen_options(stored)
    # What the model has, by the same reading of its own keys.
    own = _seen_options(spec.shapes)
    return [
        f"{name}={value!r}"
        for name, value in seen.items()
        if name in own and value != own[name]
    ]


def _seen_options(shapes: Mapping[str, Shape]) -> dict[str, Any]:
    """The options that keys and shapes tell, as far as they do."""
    options: dict[str, Any] = {}
    patch = shapes.get("patch_embed.proj.weight", ())
    width = patch[0] if len(patch) == 4 else 0
    blocks = [key.split(".", 2)[1:] for key in shapes if key.startswith("blocks.")]
    inside = {rest[1] for rest in blocks if len(rest) == 2}
    if width:
        options["embed_dim"] = width
    if blocks:
        options["depth"] = len({rest[0] for rest in blocks})
    options["num_classes"] = (shapes.get("head.weight") or (0,))[0]
    options["class_token"] = "cls_token" in shapes
    registers = shapes.get("reg_token", ())
    options["reg_tokens"] = registers[1] if len(registers) == 3 else 0
    options["pre_norm"] = "norm_pre.weight" in shapes
    options["global_pool"] = "map" if "attn_pool.latent" in shapes else "not map"
    options["final_norm"] = "norm.weight" in shapes or "fc_norm.weight" in shapes
    options["embed_norm_layer"] = "patch_embed.norm.weight" in shapes
    options["norm_layer"] = _norm_layer(shapes)
    if "pos_embed" not in shapes:
        options["pos_embed"] = "none"
    positions = shapes.get("pos_embed", ())
    prefix = int(options["class_token"]) + options["reg_tokens"]
    if len(positions) == 3 and 0 < prefix < positions[1]:
        # A square grid with or without them; a grid of another form tells nothing.
        square = [
            math.isqrt(n) ** 2 == n for n in (positions[1], positions[1] - prefix)
        ]
        if square[0] != square[1]:
            options["no_embed_class"] = square[0]
    if not blocks:
        return options
    if any(name.startswith("attns.") for name in inside):
        options["block_fn"] = "ParallelThingsBlock"
    elif "in_proj.weight" in inside:
        diff = "Diff" if "sub_norm.weight" in inside else ""
        options["block_fn"] = f"{diff}ParallelScalingBlock"
    else:
        options["block_fn"] = "Block or ResPostBlock"
        options["attn_layer"] = "diff" if "attn.sub_norm.weight" in inside else "attn"
        options["qkv_bias"] = "attn.qkv.bias" in inside
        options["qk_norm"] = "attn.q_norm.weight" in inside
        options["scale_attn_norm"] = "attn.norm.weight" in inside
        options["scale_mlp_norm"] = "mlp.norm.weight" in inside
        options["init_values"] = "set" if "ls1.gamma" in inside else None
        options.update(_mlp_options(shapes, width))
    return options


def _norm_layer(shapes: Mapping[str, Shape]) -> str:
    for key in shapes:
        if key.endswith(("norm1.weight", "in_norm.weight", ".0.norm.weight")):
            biased = key.replace(".weight", ".bias") in shapes
            return "layernorm" if biased else "rmsnorm"
    return "layernorm"


def _mlp_options(shapes: Mapping[str, Shape], width: int) -> dict[str, Any]:
    """The MLP's kind and ratio, from the first block."""
    for name in ("fc1", "fc1_g"):
        first = shapes.get(f"blocks.0.mlp.{name}.weight", ())
        second = shapes.get("blocks.0.mlp.fc2.weight", ())
        if width and len(first) == len(second) == 2:
            gated = first[0] != second[1]
            layer = "SwiGLU" if name == "fc1_g" else "GluMlp or SwiGLUPacked"
            plain = "Mlp" if name == "fc1" else layer
            ratio = round(first[0] / width, 6)
            return {"mlp_layer": layer if gated else plain, "mlp_ratio": ratio}
    return {}
