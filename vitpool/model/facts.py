# SPDX-License-Identifier: Apache-2.0
"""The parameters, parts and options of a model, for reading."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from ..config import arguments_of
from ..text import did_you_mean
from .parts import (
    FcNorm,
    Float32,
    HasParts,
    Module,
    PatchEmbed,
    exchange,
    prefix_tokens_of,
)


class Facts(HasParts):
    """The part of VisionTransformer that reads, and neither computes nor changes."""

    def _init_state(self) -> None:
        self._pretrained_cfg: dict[str, Any] = {}
        self._init_parts()
        self._pos_embeds: dict[tuple[int, tuple[int, int]], Float32] = {}

    # -- parameters --

    def state_dict(self) -> dict[str, Float32]:
        """Every parameter by timm's key, as new float32 arrays."""
        now = self._snapshot()
        arrays = {name: now.get_parameter(name) for name in now.param_shapes()}
        for array in arrays.values():
            array.flags.writeable = True  # it is the caller's own copy
        return arrays

    def named_parameters(self) -> Iterator[tuple[str, Float32]]:
        """(name, new read-only array) of every parameter, in timm's order."""
        now = self._snapshot()
        for name in now.param_shapes():
            yield name, now.get_parameter(name)

    def get_parameter(self, target: str) -> Float32:
        """The parameter of this dotted name, e.g. 'blocks.0.attn.qkv.weight'.

        A new read-only float32 array. KeyError: there is none; the message has the
        nearest name.
        """
        now = self._snapshot()
        try:
            return now.get_parameter(target)
        except KeyError:
            hint = did_you_mean(target, now.param_shapes())
            raise KeyError(f"no parameter {target!r}{hint}") from None

    def no_weight_decay(self) -> set[str]:
        """Parameters that training should not decay."""
        return {"pos_embed", "cls_token", "reg_token", "dist_token"}

    def group_matcher(self, coarse: bool = False) -> dict[str, Any]:
        """Patterns that sort parameters into stem and blocks, for layer-wise rates."""
        return {
            "stem": r"^cls_token|reg_token|pos_embed|patch_embed|norm_pre",
            "blocks": [(r"^blocks\.(\d+)", None), (r"^norm", (99999,))],
        }

    def _array(self, name: str) -> Float32 | None:
        try:
            return super().get_parameter(name)
        except KeyError:
            return None

    @property
    def cls_token(self) -> Float32 | None:
        """(1, 1, C), or None."""
        return self._array("cls_token")

    @property
    def reg_token(self) -> Float32 | None:
        """(1, reg_tokens, C), or None."""
        return self._array("reg_token")

    @property
    def pos_embed(self) -> Float32 | None:
        """(1, N, C), or None."""
        return self._array("pos_embed")

    @property
    def patch_embed(self) -> PatchEmbed:
        """The patch embedding: sizes and proj."""
        return self._part("patch_embed", PatchEmbed)

    @property
    def norm_pre(self) -> Module:
        """The norm before the blocks."""
        return self._part("norm_pre", Module)

    @property
    def blocks(self) -> Module:
        """The blocks, by index."""
        return self._part("blocks", Module)

    @property
    def norm(self) -> Module:
        """The norm after the blocks."""
        return self._part("norm", Module)

    @property
    def fc_norm(self) -> FcNorm:
        """The norm after the pool; it can be called on (B, C)."""
        return self._part("fc_norm", FcNorm)

    @property
    def head(self) -> Module:
        """The classifier: one object until reset_classifier makes another."""
        return self._part("head", Module)

    def get_classifier(self) -> Module:
        """The classifier, model.head."""
        return self.head

    @property
    def attn_pool(self) -> Module | None:
        """The attention pool: one object for as long as the pool lives, or None."""
        with exchange:
            return self._part("attn_pool", Module) if self._pool_serial != 0 else None

    # -- facts --

    @property
    def config(self) -> dict[str, Any]:
        """The constructor arguments that give this model, but those at default."""
        return arguments_of(self._options())

    @property
    def num_classes(self) -> int:
        """Outputs of the head; 0 without one."""
        return int(self._options()["num_classes"])

    @property
    def global_pool(self) -> str:
        """'', 'avg', 'avgmax', 'max', 'token', 'map' or 'prr'."""
        return str(self._options()["global_pool"])

    @property
    def pool_include_prefix(self) -> bool:
        """Does the pool see the class and register tokens?"""
        options = self._options()
        return bool(options["pool_include_prefix"] or options["global_pool"] == "prr")

    @property
    def embed_dim(self) -> int:
        """Width of a token, C."""
        return int(self._options()["embed_dim"])

    num_features = head_hidden_size = embed_dim

    @property
    def in_chans(self) -> int:
        """Channels of an image."""
        return int(self._options()["in_chans"])

    @property
    def img_size(self) -> tuple[int, int]:
        """(height, width) of an image in pixels."""
        size: tuple[int, int] = self._options()["img_size"]
        return size

    @property
    def has_class_token(self) -> bool:
        """Is there a class token?"""
        return bool(self._options()["class_token"])

    @property
    def num_reg_tokens(self) -> int:
        """Register tokens."""
        return int(self._options()["reg_tokens"])

    @property
    def num_prefix_tokens(self) -> int:
        """Class and register tokens."""
        return prefix_tokens_of(self._options())

    @property
    def no_embed_class(self) -> bool:
        """Do the prefix tokens go without position embedding?"""
        return bool(self._options()["no_embed_class"])

    @property
    def dynamic_img_size(self) -> bool:
        """Does the model take any image size?"""
        return bool(self._options()["dynamic_img_size"])

    @property
    def feature_info(self) -> list[dict[str, Any]]:
        """Module, channels and reduction (pixels a patch) of each block."""
        options = self._options()
        return [
            {
                "module": f"blocks.{i}",
                "num_chs": options["embed_dim"],
                "reduction": max(options["patch_size"]),
            }
            for i in range(options["depth"])
        ]

    @property
    def dtype(self) -> np.dtype[Any]:
        """What the model computes in."""
        return np.dtype(np.float32)

    @property
    def pretrained_cfg(self) -> dict[str, Any]:
        """timm's pretrained configuration: input size, mean, std, labels, ..."""
        return self._pretrained_cfg

    @pretrained_cfg.setter
    def pretrained_cfg(self, cfg: Mapping[str, Any]) -> None:
        self._pretrained_cfg = dict(cfg)

    default_cfg = pretrained_cfg
