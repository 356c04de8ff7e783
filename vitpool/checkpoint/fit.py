# SPDX-License-Identifier: Apache-2.0
"""Compares a checkpoint's keys and shapes with a model's, and says what would fit."""

from __future__ import annotations

import functools
import logging
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ..text import printable, some
from .lazy import Shape, StateDict
from .spec import Spec

_log = logging.getLogger("vitpool")

HEAD = ("head.weight", "head.bias")
# What stands between the blocks and the head.
_BEHIND_BLOCKS = ("norm.", "fc_norm.", "attn_pool.", "pre_logits.")


class LeftOutWarning(UserWarning):
    """Trained weights of a checkpoint are not loaded: the model has no place for them.

    It is given after all that can be checked was, and before anything changes.
    """

    __module__ = "vitpool"


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
        return StateDict(kept, weights.source, weights.untrained)

    def check(self, weights: StateDict, spec: Spec, strict: bool) -> None:
        """Raise ValueError, or without `strict` log, what does not fit.

        A wrong shape is an error either way, as in torch, except in the head; so is a
        file of which nothing fits.
        """
        wrong = [key for key in self.wrong if strict or key not in HEAD]
        if not (wrong or self.wrong or self.missing or self.unexpected):
            return
        stored = weights.shapes()
        parts = []
        if self.missing:
            parts.append(f"missing are {_some(self.missing)}")
        if self.unexpected:
            named = [f"{key:.100} {stored[key]}" for key in self.unexpected]
            parts.append(f"unexpected are {_some(named)}")
        if self.wrong:
            named = [f"{k} is {stored[k]}, not {spec.shapes[k]}" for k in self.wrong]
            parts.append(f"of a wrong shape are {_some(named)}")
        nothing = len(self.missing) == len(spec.shapes)
        text = f"{'; '.join(parts)}{'' if nothing else _hint(self, stored, spec)}"
        what = "holds no weight of the model" if nothing else "does not fit the model"
        source = weights.source or "the checkpoint"
        message = printable(f"{source}: {what}: {text}")
        if strict or wrong or nothing:
            raise ValueError(message)
        _log.warning("%s", message)

    def left_out(self, weights: StateDict) -> list[LeftOutWarning]:
        """A warning of trained norms and pools that `strict` would have refused."""
        keys = [key for key in self.unexpected if key.startswith(_BEHIND_BLOCKS)]
        if not keys:
            return []
        text = f"{_some(keys)} left out: the model has no such parts"
        source = weights.source or "the checkpoint"
        return [LeftOutWarning(printable(f"{source}: of its weights {text}"))]


def _some(items: list[str]) -> str:
    """How many there are, and the first; names come from the file."""
    return f"{len(items)}: {some(items)}"


def _hint(fit: Fit, stored: Mapping[str, Shape], spec: Spec) -> str:
    """The options of a model that would fit, where the weights are timm's at all."""
    foreign = [key for key in fit.unexpected if form_of(key) not in known_forms()]
    if foreign:
        return f". No VisionTransformer of timm's has {foreign[0]!r:.100}"
    hints = what_would_fit(stored, spec)
    if not hints:
        return ""
    return f". The weights are those of a model with {', '.join(hints)}"


def form_of(key: str) -> str:
    """A key without the number of its block."""
    return re.sub(r"^blocks\.\d+\.", "blocks.0.", key)


@functools.cache
def known_forms() -> frozenset[str]:
    """The keys of models that together have all that timm's model can have."""
    small = {"embed_dim": 8, "num_heads": 2, "depth": 1, "img_size": 16}
    first = {"pre_norm": True, "reg_tokens": 1, "embed_norm_layer": "layernorm"}
    scaled = {"init_values": 1.0, "qk_norm": True}
    inner = {"scale_attn_norm": True, "scale_mlp_norm": True}
    keys: set[str] = set()
    for options in (
        first | scaled | inner | {"global_pool": "map"},
        {"global_pool": "avg", "attn_layer": "diff", "mlp_layer": "SwiGLU"},
        scaled | {"block_fn": "ParallelScalingBlock", "qkv_bias": True},
        {"block_fn": "ParallelScalingBlock", "qkv_bias": False},
        {"block_fn": "DiffParallelScalingBlock", "init_values": 1.0},
        {"block_fn": "ParallelThingsBlock", "init_values": 1.0},
    ):
        keys.update(Spec.from_options(small | options).shapes)
    return frozenset(map(form_of, keys))


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
