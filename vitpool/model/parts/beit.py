# SPDX-License-Identifier: Apache-2.0
"""The blocks of timm.models.beit, their attention, and the bias that all may share."""

from __future__ import annotations

from typing import Any

from .attention import Heads, Mlp, SwiGLU
from .layers import Dropout, Identity, LayerNorm, Linear
from .module import Child, Fact, Weight
from .rel_pos import Placed, PlacedBlock, WindowBias
from .sizes import grid_of
from .walk import Float32

__all__ = ["Attention", "Block", "RelativePositionBias"]


class RelativePositionBias(WindowBias):
    """A table's biases of all blocks' scores. timm.models.beit.RelativePositionBias."""

    __slots__ = ()
    relative_position_bias_table = Weight("((2 rows - 1) (2 columns - 1) + 3, H)")

    def __call__(self) -> Float32:  # type: ignore[override] # as timm's
        """(H, N, N): what is added to the scores."""
        return self.forward()

    def forward(self) -> Float32:  # type: ignore[override]
        """The same as calling it."""
        return self._bias(self._now())


class _Part(Placed):
    __slots__ = ()

    def __call__(self, x: Any, shared_rel_pos_bias: Any = None) -> Float32:
        """Tokens (B, N, C) of tokens x (B, N, C), with all that the model adds to the
        scores.

        shared_rel_pos_bias: None, or model.rel_pos_bias(), which is added in either
        case. ValueError: another; or x has other tokens than the model's own.
        """
        return self.forward(x, shared_rel_pos_bias)

    def forward(self, x: Any, shared_rel_pos_bias: Any = None) -> Float32:
        """The same as calling it."""
        return self._with(x, "shared_rel_pos_bias", shared_rel_pos_bias)


class Attention(_Part, Heads):
    """Self-attention whose keys have no bias. timm.models.beit.Attention."""

    __slots__ = ()
    q_bias = Weight("(C,), or None")
    v_bias = Weight("(C,), or None")
    relative_position_bias_table = Weight(
        "((2 rows - 1) (2 columns - 1) + 3, H), or None"
    )
    qkv = Child[Linear]()
    attn_drop = Child[Dropout]()
    proj = Child[Linear]()
    proj_drop = Child[Dropout]()

    @Fact
    def window_size(self) -> tuple[int, int] | None:
        """(rows, columns) of patches; None without a table."""
        options = self._now()._options()
        return grid_of(options) if options["rel_pos_block"] else None


class Block(_Part, PlacedBlock):
    """x + gamma_1 attn(norm1(x)), then x + gamma_2 mlp(norm2(x)).
    timm.models.beit.Block."""

    __slots__ = ()
    gamma_1 = Weight("(C,), or None")
    gamma_2 = Weight("(C,), or None")
    norm1 = Child[LayerNorm]()
    attn = Child[Attention]()
    drop_path1 = Child[Identity]()
    norm2 = Child[LayerNorm]()
    mlp = Child[Mlp | SwiGLU]()
    drop_path2 = Child[Identity]()
