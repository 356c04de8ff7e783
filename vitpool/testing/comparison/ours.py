# SPDX-License-Identifier: Apache-2.0
"""A model of ours as a side: its parts one after the other, with the bits of the whole.

Of one thing the whole makes a shorter way, whose last bits are others: where a mean is
taken of what the last block gives, its last product follows the mean.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping, Sequence
from functools import partial
from typing import Any, TypeAlias

import numpy as np

from ... import _core
from ...checkpoint import StateDict
from ...checkpoint.drawn import drawn
from ...checkpoint.lazy import LazyTensor
from ...model import NaFlexVit, PlainViT, VisionTransformerDistilled
from ...model.positions import rope_for
from .facts import facts_of
from .pixels import pixels_of
from .side import Array, Side, Stages

# Blocks whose norms follow what a branch gives.
NORM_AFTER = ("ResPostBlock", "EvaBlockPostNorm", "ResPostRelPosBlock")
# The output that the core's _run is not asked for.
_NOTHING = 0
# Stages, and the output of the last of them.
_Output: TypeAlias = Generator[tuple[str, Array], Array | None, Any]


class Ours(Side):
    """A vitpool model, as it is at this moment."""

    def __init__(self, model: PlainViT, name: str | None = None) -> None:
        self.model = model.snapshot()
        architecture = model.pretrained_cfg.get("architecture")
        self.name = name or f"vitpool:{architecture or type(model).__name__}"
        self.input_size = (model.in_chans, *model.img_size)

    def facts(self) -> dict[str, Any]:
        """Its facts, by path."""
        return facts_of(self.model)

    def parameters(self) -> Mapping[str, Array]:
        """Its parameters."""
        return self._numbers(self.model.get_parameter)

    def pixels(self, files: Sequence[Any]) -> tuple[Array, dict[str, Any]]:
        """Pictures of files, by vitpool's transform for the model."""
        return pixels_of(self.model, self.input_size, files)

    def stages(self, images: Array) -> Stages:
        """Its parts, one after the other."""
        model = self.model
        rope = rope_for(model._snapshot(), _core.as_float32(images, "images"), {})
        x = yield from self._tokens(images)
        norm_pre = getattr(model, "norm_pre", None)  # Beit's class has none
        if norm_pre is not None and _is_there(norm_pre):
            x = yield from _stage("norm_pre", norm_pre(x))
        for index in range(len(model.blocks)):
            x = yield from self._block(index, x, rope)
        if _is_there(model.norm):
            x = yield from _stage("norm", model.norm(x))
        if isinstance(model, VisionTransformerDistilled):
            yield from _two_heads(model, x)
            return
        x = yield from _stage("pool", model.pool(x))
        if _is_there(model.fc_norm):
            x = yield from _stage("fc_norm", model.fc_norm(x))
        if model.num_classes:
            yield "head", model.head(x)

    def _tokens(self, images: Array) -> _Output:
        """The stages before norm_pre; the tokens with their positions."""
        model = self.model
        if isinstance(model, NaFlexVit):  # whose embeds are one part, as timm's
            return (yield from _stage("pos_embed", model.embeds(images)[0]))
        x = model.patch_embed(images)
        grid = x.shape[1:-1]
        given = yield "patch_embed", x.reshape(len(x), -1, x.shape[-1])
        if given is not None:
            x = _core.as_float32(given, "patch_embed").reshape(len(x), *grid, -1)
        tokens = model._pos_embed(x)  # of Eva with its rotary embedding
        own = tokens[0] if isinstance(tokens, tuple) else tokens
        return (yield from _stage("pos_embed", own))

    def _block(self, index: int, x: Any, rope: Any) -> _Output:
        """The stages of a block; its output."""
        path, block = f"blocks.{index}", self.model.blocks[index]
        split = hasattr(block, "mlp") or hasattr(block, "ffns")  # else both at once
        taps = [(index, 0, "attn"), (index, 0, "out")]
        *attn, out = self.model._run(
            x,
            _NOTHING,
            first=index,
            depth=index + 1,
            taps=taps if split else taps[1:],
            rope=rope,
        )[1]
        if not attn:
            return (yield from _stage(path, out))
        x = yield from _stage(f"{path}.attn", attn[0])
        if x is not attn[0]:
            out = x + _mlp_branch(block, x)
        return (yield from _stage(f"{path}.mlp", out))

    def exact(self) -> Side:
        """The same model in float64, in NumPy."""
        from .exact import ExactVit  # which is one of these

        return ExactVit(self.model, self.name)

    def drawn(self, seed: int) -> Side:
        """The same model with drawn weights."""
        model, shapes = self.model.snapshot(), self.model.param_shapes()
        model.load_state_dict(self._numbers(lambda key: drawn(key, shapes[key], seed)))
        return Ours(model, self.name)

    def _numbers(self, read: Callable[[str], Array]) -> StateDict:
        """Numbers for each of its parameters, read one at a time."""
        shapes = self.model.param_shapes().items()
        return StateDict({k: LazyTensor(s, partial(read, k)) for k, s in shapes})


def _stage(name: str, own: Any) -> _Output:
    """A stage, and what goes on from it: the same object unless other numbers came."""
    given = yield name, own
    if given is None or np.array_equal(given, own, equal_nan=True):
        return own
    return _core.as_float32(given, name)


def _two_heads(model: VisionTransformerDistilled, x: Any) -> Stages:
    """The heads of the class token and of the distillation token, and their mean."""
    one, other = (yield from _stage("pool", x[:, 0])), x[:, 1]
    if model.num_classes:
        one = yield from _stage("head", model.head(one))
        other = yield from _stage("head_dist", model.head_dist(other))
    yield from _stage("output", (one + other) / 2)


def _is_there(part: Any) -> bool:
    return type(part).__name__ != "Identity"


def _mlp_branch(block: Any, x: Any) -> Any:
    """What a block adds to x, the stream after attention: timm's line of its class."""
    if hasattr(block, "ffns"):
        return sum(ffn.ls(ffn.mlp(ffn.norm(x))) for ffn in block.ffns)
    if type(block).__name__ in NORM_AFTER:
        return block.norm2(block.mlp(x))
    y = block.mlp(block.norm2(x))
    if hasattr(block, "ls2"):
        return block.ls2(y)
    return y if block.gamma_2 is None else block.gamma_2 * y
