# SPDX-License-Identifier: Apache-2.0
"""VisionTransformerDistilled. Source: timm.models.deit (timm 1.0.31)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

import numpy as np

from .. import _core
from .heads import head_numbers
from .parts import Float32, Linear
from .vit import VisionTransformer


class VisionTransformerDistilled(VisionTransformer):
    """timm's VisionTransformerDistilled: DeiT with a distillation token behind the
    class token, and a head that reads it, `head_dist`. Logits are the two heads' mean.

    The constructor is VisionTransformer's. ValueError: a pool other than 'token', no
    class token, register tokens, no positions (or none of the class token), or fc_norm.
    """

    __module__ = "vitpool.model"
    _family = "VisionTransformerDistilled"
    _heads = ("head", "head_dist")

    @property
    def dist_token(self) -> Float32 | None:
        """(1, 1, C); assigning an array loads it."""
        return self._array("dist_token")

    @dist_token.setter
    def dist_token(self, value: Any) -> None:
        self._load("dist_token", value)

    @property
    def head_dist(self) -> Linear:
        """The distillation token's classifier, or Identity."""
        return cast("Linear", self._part("head_dist"))

    def get_classifier(self) -> tuple[Linear, Linear]:  # type: ignore[override]
        """The classifiers, (model.head, model.head_dist)."""
        return self.head, self.head_dist

    def set_head(
        self,
        weight: Any,
        bias: Any = None,
        labels: Sequence[str] | None = None,
    ) -> None:
        """Classifiers of these numbers; the pool is kept.

        weight: (K, C) for K classes: both heads get it, and logits are then those of
        one linear layer on forward_head(x, pre_logits=True), as a linear probe's. Or
        (2, K, C), head's and head_dist's. bias: (K,) or (2, K), zeros where None.
        labels: K names, which pretrained_cfg then has; None: it stays as it is. A call
        that raises changes nothing.

        ValueError: a shape or a number of labels that does not fit. TypeError: no
        array of floats, or labels that are not strings.
        """
        rows = _core.as_float32(weight, "weight")
        if rows.ndim != 3:
            super().set_head(rows, bias, labels)
            return
        if bias is None:
            bias = np.zeros(rows.shape[:2], np.float32)
        offsets = _core.as_float32(bias, "bias")
        if len(rows) != 2 or offsets.shape != rows.shape[:2]:
            raise ValueError(
                f"weight must have shape (K, {self.embed_dim}) or (2, K, "
                f"{self.embed_dim}), and bias then (K,) or (2, K), not {rows.shape} "
                f"and {offsets.shape}"
            )
        head, dist = (
            head_numbers(*pair, self.embed_dim)
            for pair in zip(rows, offsets, strict=True)
        )
        self._put_heads({"head": head, "head_dist": dist}, labels)

    @property
    def distilled_training(self) -> bool:
        """Are the two heads' logits given apart, in training? Never here."""
        return False

    @distilled_training.setter
    def distilled_training(self, enable: bool) -> None:
        self.set_distilled_training(enable)

    def set_distilled_training(self, enable: bool = True) -> None:
        """Nothing, for False. NotImplementedError for True: a model computes inference
        alone, and there the heads' logits are one mean."""
        if enable:
            raise NotImplementedError(
                "a model here gives the mean of its heads: it has no training mode"
            )

    def group_matcher(self, coarse: bool = False) -> dict[str, Any]:
        """Patterns that sort parameters into stem and blocks, for layer-wise rates."""
        stem = r"^cls_token|pos_embed|patch_embed|dist_token"
        return super().group_matcher(coarse) | {"stem": stem}
