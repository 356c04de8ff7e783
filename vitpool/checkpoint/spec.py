# SPDX-License-Identifier: Apache-2.0
"""What the conversions have to know about the model that the weights are for."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from .._core import param_shapes
from ..config import resolve
from .lazy import Shape

# RADIO's models which resize their positions corner to corner (timm 1.0.31).
_ALIGN_CORNERS = ("base_patch16_radio_v3", "huge_patch16_radio_v3")


PATCH = "patch_embed.proj.weight"
# The first convolution of ConvStem, whose kernel is never another.
STEM = "patch_embed.backbone.0.conv.weight"


@dataclass(frozen=True)
class Spec:
    """A model's shapes and options, and how its checkpoints are resized.

    options: as `config.resolve` gives them.
    pretrained_cfg: timm's configuration of the checkpoint; its `input_size` tells the
    grid of the stored positions and the channels, its `num_classes` the stored head.
    stored_pool: the global_pool that the stored head was trained with; '' is unknown.
    """

    options: Mapping[str, Any]
    shapes: Mapping[str, Shape]
    pretrained_cfg: Mapping[str, Any] = field(default_factory=dict)
    interpolation: str = "bicubic"
    antialias: bool = True
    align_corners: bool | None = None
    stored_pool: str = ""

    @classmethod
    def from_options(
        cls,
        options: Mapping[str, Any],
        pretrained_cfg: Mapping[str, Any] | None = None,
        variant: str = "",
        shapes: Mapping[str, Shape] | None = None,
        stored_pool: str = "",
        family: str = "VisionTransformer",
    ) -> Spec:
        """From the constructor's options; `variant` is timm's name of the model.

        family: the name of the model's class.
        TypeError and ValueError for options that the constructor refuses.
        """
        resolved = resolve(options, family)
        return cls(
            resolved,
            dict(param_shapes(resolved) if shapes is None else shapes),
            dict(pretrained_cfg or {}),
            **resize_rule(variant),
            stored_pool=stored_pool,
        )

    @classmethod
    def from_model(cls, model: Any, variant: str | None = None) -> Spec:
        """From a live model, as it is after any reset_classifier."""
        model = copy.copy(model)  # options and shapes of one state
        cfg = dict(model.pretrained_cfg or {})
        if variant is None:
            variant = str(cfg.get("architecture") or "")
        return cls.from_options(
            model.config,
            cfg,
            variant,
            model.param_shapes(),
            family=model._family,
        )

    @property
    def family(self) -> str:
        """The name of the model's class."""
        return str(self.options.get("family", "VisionTransformer"))

    @property
    def grid_size(self) -> tuple[int, int]:
        """Rows and columns of patches."""
        height, width = self.options["img_size"]
        patch_height, patch_width = self.options["patch_size"]
        return height // patch_height, width // patch_width

    @property
    def convolution(self) -> Shape | None:
        """The shape of the patch embedding as a convolution's, or of a stem's first."""
        if self.family == "NaFlexVit":
            own = self.options
            return (own["embed_dim"], own["in_chans"], *own["patch_size"])
        return self.shapes.get(STEM if STEM in self.shapes else PATCH)

    @property
    def pos_prefix_tokens(self) -> int:
        """How many tokens before the patches have a row in pos_embed."""
        if self.options["no_embed_class"]:
            return 0
        tokens = ("class_token", "dist_token", "reg_tokens")
        return sum(int(self.options.get(name, 0)) for name in tokens)

    def source_grid(
        self, patch_size: tuple[int, int], tokens: int
    ) -> tuple[int, int] | None:
        """The grid of `tokens` stored positions, where input_size accounts for all."""
        rows, columns = self._input_grid(patch_size)
        return (rows, columns) if rows * columns == tokens else None

    def source_window(self, distances: int) -> tuple[int, int] | None:
        """The grid with so many distances of patches, where it is input_size's."""
        rows, columns = self._input_grid(self.options["patch_size"])
        own = (2 * rows - 1) * (2 * columns - 1)
        return (rows, columns) if own == distances else None

    def _input_grid(self, patch_size: tuple[int, int]) -> tuple[int, int]:
        size = (self.pretrained_cfg.get("input_size") or (3, 224, 224))[-2:]
        return size[0] // patch_size[0], size[1] // patch_size[1]


def resize_rule(variant: str) -> dict[str, Any]:
    """How timm resizes the checkpoints of this model.

    FlexiViT and RADIO were trained with plain bilinear resizing.
    """
    rule: dict[str, Any] = {}
    if "flexi" in variant or "radio" in variant:
        rule.update(interpolation="bilinear", antialias=False)
    if "radio" in variant:
        rule["align_corners"] = any(name in variant for name in _ALIGN_CORNERS)
    return rule
