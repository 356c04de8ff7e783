# SPDX-License-Identifier: Apache-2.0
"""Relative position bias, and the blocks of timm.models.vision_transformer_relpos, to
whose scores it is added.

The bias of a model is of its own grid: parts take the tokens of that alone.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from ... import _core
from ..tensors import like
from .attention import Heads, Mlp
from .blocks import computed_block
from .layers import Dropout, Identity, LayerNorm, LayerScale, Linear
from .module import Child, Fact, Module, Option, Weight
from .sizes import grid_of, prefix_tokens_of
from .walk import Float32

_TABLE = "relative_position_bias_table"
# Where the root has what all blocks share.
_SHARED = {"Beit": "rel_pos_bias", "VisionTransformerRelPos": "shared_rel_pos"}


def bias_of(now: _core.VisionTransformer, path: str) -> Float32:
    """(H, N, N): what is added to the scores, of the module at this path.

    Sources: timm.layers.RelPosMlp.get_bias, gen_relative_log_coords, and
    gen_relative_position_index of timm.layers.pos_embed_rel and of timm.models.beit.
    """
    options = now._options()
    rows, columns = grid_of(options)
    prefix = prefix_tokens_of(options)
    if options["rel_pos"] == "bias":
        table = now.get_parameter(f"{path}.{_TABLE}")
    else:
        table = _of_mlp(now, path, options)
    y, x = (axis.ravel() for axis in np.mgrid[:rows, :columns])
    apart_y = y[:, None] - y + rows - 1
    apart_x = x[:, None] - x + columns - 1
    index = apart_y * (2 * columns - 1) + apart_x
    bias = np.zeros((table.shape[1], prefix + len(y), prefix + len(y)), np.float32)
    bias[:, prefix:, prefix:] = table[index].transpose(2, 0, 1)
    if prefix and options["rel_pos"] == "bias":
        from_token, to_token, itself = table[-3:]
        bias[:, 0, :] = from_token[:, None]
        bias[:, :, 0] = to_token[:, None]
        bias[:, 0, 0] = itself
    return bias


def _of_mlp(
    now: _core.VisionTransformer, path: str, options: Mapping[str, Any]
) -> Float32:
    """RelPosMlp's table, ((2 rows - 1) (2 columns - 1), H)."""
    swin = options["rel_pos"] == "mlpswin"
    coordinates = now._run_part(f"{path}.mlp.fc1", log_coords(options))
    hidden = np.maximum(coordinates, 0)
    table = now._run_part(f"{path}.mlp.fc2", hidden)
    table = table.reshape(-1, table.shape[-1])
    if swin:  # 16 sigmoid(table)
        table = 8 + 8 * np.tanh(table / 2)
    return np.asarray(table, np.float32)


def log_coords(options: Mapping[str, Any]) -> Float32:
    """(2 rows - 1, 2 columns - 1, 2): how far keys are away, in logarithms."""
    swin = options["rel_pos"] == "mlpswin"
    axes = [_logs(n, swin) for n in grid_of(options)]
    return np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1)


def _logs(n: int, swin: bool) -> Float32:
    """Of the 2 n - 1 distances of one axis."""
    way = np.arange(1 - n, n, dtype=np.float32)
    if not swin:
        return np.asarray(np.sign(way) * np.log(1 + abs(way)))
    way = way / np.float32(n - 1) * 8
    return np.asarray(np.sign(way) * np.log2(1 + abs(way)) / np.float32(3))


class WindowBias(Module):
    """What adds to scores by where query and key lie in the grid of patches."""

    __slots__ = ()

    @Fact
    def window_size(self) -> tuple[int, int]:
        """(rows, columns) of patches."""
        return grid_of(self._now()._options())

    @Fact
    def window_area(self) -> int:
        """Patches."""
        rows, columns = grid_of(self._now()._options())
        return rows * columns

    def _bias(self, now: _core.VisionTransformer) -> Float32:
        return bias_of(now, self._path)


class _AddedRelPos(WindowBias):
    __slots__ = ()

    @Fact
    def prefix_tokens(self) -> int:
        """Tokens before the patches."""
        return prefix_tokens_of(self._now()._options())

    def get_bias(self) -> Float32:
        """(1, H, N, N): what is added to the scores."""
        return self._bias(self._now())[None]

    def _compute(self, now: _core.VisionTransformer, x: Any) -> Float32:
        bias = self._bias(now)
        scores = _core.as_float32(x, "x")
        if scores.shape[-3:] != bias.shape:
            raise ValueError(
                f"x must be scores (B, {', '.join(map(str, bias.shape))}), "
                f"not {scores.shape}"
            )
        return scores + bias


class RelPosBias(_AddedRelPos):
    """Scores plus a table's biases. timm.layers.RelPosBias."""

    __slots__ = ()
    relative_position_bias_table = Weight(
        "((2 rows - 1) (2 columns - 1), + 3 with a class token; H)"
    )


class RelPosMlp(_AddedRelPos):
    """Scores plus biases of an MLP of the way from query to key.
    timm.layers.RelPosMlp."""

    __slots__ = ()
    bias_act = Child[Identity]()
    mlp = Child[Mlp]()

    @Fact
    def num_heads(self) -> int:
        """Heads, H."""
        return int(self._option("num_heads"))

    @Fact
    def mode(self) -> str:
        """'cr' or 'swin': the scale of the way, and what follows the MLP."""
        return "swin" if self._option("rel_pos") == "mlpswin" else "cr"

    @property
    def rel_coords_log(self) -> Float32:
        """(2 rows - 1, 2 columns - 1, 2): what the MLP is given."""
        return log_coords(self._now()._options())


class Placed(Module):
    """A part that looks from token to token by place: attention or a block."""

    __slots__ = ()

    def _with(self, x: Any, name: str, given: Any) -> Float32:
        """What comes of x. given: None, or what the model adds in every block."""
        now = self._now()
        if given is not None:
            bias = _core.as_float32(given, name)
            own = shared_of(now)
            if own is None:
                raise ValueError(f"{name} must be None: this model's blocks share none")
            same = bias.shape[-3:] == own.shape and bias.size == own.size
            if not same or not np.allclose(bias, own, rtol=1e-4, atol=1e-5):
                raise ValueError(
                    f"{name} must be None or the model's own, which is added in either "
                    f"case, {own.shape}; this is another, {bias.shape}"
                )
        return like(x, self._compute(now, x))


def shared_of(now: _core.VisionTransformer) -> Float32 | None:
    """(H, N, N), what is added to every block's scores, or None."""
    options = now._options()
    if not options["rel_pos_shared"]:
        return None
    return bias_of(now, _SHARED[options["family"]])


class _RelPosPart(Placed):
    __slots__ = ()

    def __call__(self, x: Any, shared_rel_pos: Any = None) -> Float32:
        """Tokens (B, N, C) of tokens x (B, N, C), with all that the model adds to the
        scores.

        shared_rel_pos: None, or model.shared_rel_pos.get_bias(), which is added in
        either case. ValueError: another; or x has other tokens than the model's own.
        """
        return self.forward(x, shared_rel_pos)

    def forward(self, x: Any, shared_rel_pos: Any = None) -> Float32:
        """The same as calling it."""
        return self._with(x, "shared_rel_pos", shared_rel_pos)


class PlacedBlock(Placed):
    """A whole block of that kind."""

    __slots__ = ()

    def _compute(self, now: _core.VisionTransformer, x: Any) -> Float32:
        return computed_block(now, self._path, x)


class RelPosAttention(_RelPosPart, Heads):
    """Self-attention with a relative position bias.
    timm.models.vision_transformer_relpos.RelPosAttention."""

    __slots__ = ()
    qkv = Child[Linear]()
    q_norm = Child[Identity]()
    k_norm = Child[Identity]()
    rel_pos = Option[RelPosMlp]()
    attn_drop = Child[Dropout]()
    proj = Child[Linear]()
    proj_drop = Child[Dropout]()


class RelPosBlock(_RelPosPart, PlacedBlock):
    """x + ls1(attn(norm1(x))), then x + ls2(mlp(norm2(x))).
    timm.models.vision_transformer_relpos.RelPosBlock."""

    __slots__ = ()
    norm1 = Child[LayerNorm]()
    attn = Child[RelPosAttention]()
    ls1 = Child[LayerScale]()
    drop_path1 = Child[Identity]()
    norm2 = Child[LayerNorm]()
    mlp = Child[Mlp]()
    ls2 = Child[LayerScale]()
    drop_path2 = Child[Identity]()


class ResPostRelPosBlock(_RelPosPart, PlacedBlock):
    """x + norm1(attn(x)), then x + norm2(mlp(x)).
    timm.models.vision_transformer_relpos.ResPostRelPosBlock."""

    __slots__ = ()
    attn = Child[RelPosAttention]()
    norm1 = Child[LayerNorm]()
    drop_path1 = Child[Identity]()
    mlp = Child[Mlp]()
    norm2 = Child[LayerNorm]()
    drop_path2 = Child[Identity]()
