# SPDX-License-Identifier: Apache-2.0
"""What a model says of itself: parameters, parts and options."""

from __future__ import annotations

import weakref
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from .. import _core
from ..config import arguments_of
from .parts import FcNorm, Float32, Module, PatchEmbed


class Facts(_core.VisionTransformer):
    """The part of VisionTransformer that reads, and neither computes nor changes."""

    def _init_state(self) -> None:
        self._pretrained_cfg: dict[str, Any] = {}
        self._held: weakref.WeakSet[Module] = weakref.WeakSet()  # every part there is
        self._head = Module(self, "head")
        self._pool_module: tuple[int, Module] | None = None
        self._pos_embeds: dict[tuple[int, tuple[int, int]], Float32] = {}

    def _keep_lost_parts(
        self, before: _core.VisionTransformer, *, new_head: bool
    ) -> None:
        """After a change: who holds a part that is gone keeps it as it was before."""
        lost = []
        if new_head:
            lost.append("head")
            self._head = Module(self, "head")
        if self._pool_serial != before._pool_serial:
            lost.append("attn_pool")
            self._pool_module = None
        names = list(self.param_shapes())
        for part in self._parts():
            if part is self._head or part._model is not self:
                continue
            start = f"{part._path}."
            gone = any(map(part._is_at, lost))
            if gone or not any(n.startswith(start) for n in names):
                part._model = before

    def _parts(self) -> list[Module]:
        """The parts that somebody holds."""
        while True:  # again where another thread has asked for one meanwhile
            try:
                return list(self._held)
            except RuntimeError:
                continue

    # -- parameters --

    def state_dict(self) -> dict[str, Float32]:
        """Every parameter by timm's key, as new float32 arrays."""
        now = self._snapshot()
        arrays = {name: now.get_parameter(name) for name in now.param_shapes()}
        for array in arrays.values():
            array.flags.writeable = True  # a copy of the caller's own
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
        try:
            return super().get_parameter(target)
        except KeyError:
            import difflib

            near = difflib.get_close_matches(target, self.param_shapes(), n=1)
            hint = f"; did you mean {near[0]!r}?" if near else ""
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
        return self.get_parameter(name) if name in self.param_shapes() else None

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
        return PatchEmbed(self, "patch_embed")

    @property
    def norm_pre(self) -> Module:
        """The norm before the blocks."""
        return Module(self, "norm_pre")

    @property
    def blocks(self) -> Module:
        """The blocks, by index."""
        return Module(self, "blocks")

    @property
    def norm(self) -> Module:
        """The norm after the blocks."""
        return Module(self, "norm")

    @property
    def fc_norm(self) -> FcNorm:
        """The norm after the pool; it can be called on (B, C)."""
        return FcNorm(self, "fc_norm")

    @property
    def head(self) -> Module:
        """The classifier: one object until reset_classifier makes another."""
        return self._head

    def get_classifier(self) -> Module:
        """The classifier, model.head."""
        return self.head

    @property
    def attn_pool(self) -> Module | None:
        """The attention pool: one object for as long as the pool lives, or None."""
        serial = self._pool_serial
        if serial == 0:
            return None
        held = self._pool_module
        if held is None or held[0] != serial:
            held = self._pool_module = (serial, Module(self, "attn_pool"))
        return held[1]

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
        return bool(self._options()["pool_include_prefix"] or self.global_pool == "prr")

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
        options = self._options()
        return int(options["class_token"]) + int(options["reg_tokens"])

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
