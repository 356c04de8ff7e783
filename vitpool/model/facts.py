# SPDX-License-Identifier: Apache-2.0
"""The parameters, parts and options of a model, for reading."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, cast

from ..config import arguments_of
from ..text import did_you_mean
from .parts import (
    AttentionPoolLatent,
    Block,
    Dropout,
    Float32,
    HasParts,
    Identity,
    LayerNorm,
    Linear,
    PatchEmbed,
    Sequential,
    exchange,
    prefix_tokens_of,
)
from .tree import children_of


class Facts(HasParts):
    """The part of a model that reads, and neither computes nor changes."""

    #: timm's class: what `config.FAMILIES` and `vitpool.model.CLASSES` call it. A
    #: user's subclass has its base's.
    _family: ClassVar[str]

    def _init_state(self) -> None:
        self._pretrained_cfg: dict[str, Any] = {}
        self._drop_rates: dict[str, float] = {}
        self._rope_moves: dict[str, float] = {}  # as timm's training moves coordinates
        self._init_parts()
        self._pos_embeds: dict[tuple[int, Any], Any] = {}

    # -- parameters --

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

    def _part_or_none(self, path: str) -> Any:
        """The part at this path, or None where the model has none there."""
        with exchange:
            has = path in children_of(self._options(), "")
            return self._part(path) if has else None

    def _array(self, name: str) -> Float32 | None:
        try:
            return super().get_parameter(name)
        except KeyError:
            return None

    @property
    def cls_token(self) -> Float32 | None:
        """(1, 1, C), or None; assigning an array loads it."""
        return self._array("cls_token")

    @cls_token.setter
    def cls_token(self, value: Any) -> None:
        self._load("cls_token", value)

    @property
    def reg_token(self) -> Float32 | None:
        """(1, reg_tokens, C), or None; assigning an array loads it."""
        return self._array("reg_token")

    @reg_token.setter
    def reg_token(self, value: Any) -> None:
        self._load("reg_token", value)

    @property
    def pos_embed(self) -> Float32 | None:
        """(1, N, C), or None; assigning an array loads it."""
        return self._array("pos_embed")

    @pos_embed.setter
    def pos_embed(self, value: Any) -> None:
        self._load("pos_embed", value)

    # -- parts, of the classes that timm's defaults give; see Module --

    @property
    def patch_embed(self) -> PatchEmbed:
        """The patch embedding: sizes and proj."""
        return cast("PatchEmbed", self._part("patch_embed"))

    @property
    def pos_drop(self) -> Dropout:
        """What follows the position embedding: nothing, at inference."""
        return cast("Dropout", self._part("pos_drop"))

    @property
    def patch_drop(self) -> Identity:
        """What drops patches: nothing, at inference."""
        return cast("Identity", self._part("patch_drop"))

    @property
    def norm_pre(self) -> LayerNorm:
        """The norm before the blocks, or Identity."""
        return cast("LayerNorm", self._part("norm_pre"))

    @property
    def blocks(self) -> Sequential[Block]:
        """The blocks, by index and as slices."""
        return cast("Sequential[Block]", self._part("blocks"))

    @property
    def norm(self) -> LayerNorm:
        """The norm after the blocks, or Identity."""
        return cast("LayerNorm", self._part("norm"))

    @property
    def fc_norm(self) -> LayerNorm:
        """The norm after the pool, or Identity."""
        return cast("LayerNorm", self._part("fc_norm"))

    @property
    def head_drop(self) -> Dropout:
        """What precedes the classifier: nothing, at inference."""
        return cast("Dropout", self._part("head_drop"))

    @property
    def head(self) -> Linear:
        """The classifier, or Identity: one object until another takes its place."""
        return cast("Linear", self._part("head"))

    def get_classifier(self) -> Linear:
        """The classifier, model.head."""
        return self.head

    @property
    def attn_pool(self) -> AttentionPoolLatent | None:
        """The attention pool: one object for as long as the pool lives, or None."""
        with exchange:
            has = self._pool_serial != 0
            return cast("AttentionPoolLatent", self._part("attn_pool")) if has else None

    # -- facts --

    @property
    def config(self) -> dict[str, Any]:
        """The constructor arguments that give this model, but those at default."""
        return arguments_of(self._options()) | self.drop_rates | self._rope_moves

    @property
    def drop_rates(self) -> dict[str, float]:
        """The constructor's rates of dropout that are not 0; training has them act."""
        return dict(self._drop_rates)

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
    def pretrained_cfg(self) -> dict[str, Any]:
        """timm's pretrained configuration: input size, mean, std, labels, ..."""
        return self._pretrained_cfg

    @pretrained_cfg.setter
    def pretrained_cfg(self, cfg: Mapping[str, Any]) -> None:
        self._pretrained_cfg = dict(cfg)

    default_cfg = pretrained_cfg
