# SPDX-License-Identifier: Apache-2.0
"""The blocks of timm.models.eva and their attention, which may rotate tokens."""

from __future__ import annotations

from typing import Any

from ... import _core
from ..tensors import like
from .attention import Heads, Mlp
from .blocks import computed_block
from .layers import Dropout, Identity, LayerNorm, Linear
from .module import Child, Fact, Module, Option, Weight
from .rope import table_of
from .sizes import prefix_tokens_of
from .walk import Float32


class Rotated(Module):
    """A part that looks from token to token by place: attention or a block."""

    __slots__ = ()

    def __call__(
        self,
        x: Any,
        rope: Any = "own",
        attn_mask: Any = None,
        is_causal: bool = False,
    ) -> Float32:
        """Tokens (B, N, C) of tokens x (B, N, C).

        rope: 'own', the model's own, of its own grid; model.rope.get_embed((rows,
        columns)) of another, (N - prefix tokens, 2 D), with RotaryEmbeddingMixed its
        [i] for block i; None: no rotation, which is timm's default. attn_mask: bool
        (False: not seen) or float (added to the scores), broadcast to (B, H, N, N);
        is_causal: a token sees itself and those before it. One or the other. Errors as
        Module's.
        """
        return self.forward(x, rope, attn_mask, is_causal)

    def forward(
        self,
        x: Any,
        rope: Any = "own",
        attn_mask: Any = None,
        is_causal: bool = False,
    ) -> Float32:
        """The same as calling it."""
        return like(x, self._compute(self._now(), x, rope, attn_mask, is_causal))

    def _compute(
        self,
        now: _core.VisionTransformer,
        x: Any,
        rope: Any = "own",
        attn_mask: Any = None,
        is_causal: bool = False,
    ) -> Float32:
        x = _core.as_float32(x, "x")
        tokens = x.shape[1] if x.ndim == 3 else 0
        index = int(self._path.split(".")[1])
        table = table_of(now, rope, index, tokens)
        return self._rotated(now, x, attn_mask, is_causal, table)

    def _rotated(
        self,
        now: _core.VisionTransformer,
        x: Float32,
        attn_mask: Any,
        is_causal: bool,
        table: Float32 | None,
    ) -> Float32:
        return now._run_part(self._path, x, attn_mask, is_causal, table)


class _EvaHeads(Rotated, Heads):
    __slots__ = ()
    qkv = Option[Linear]()
    q_proj = Option[Linear]()
    k_proj = Option[Linear]()
    v_proj = Option[Linear]()
    q_norm = Child[Identity]()
    k_norm = Child[Identity]()
    attn_drop = Child[Dropout]()
    norm = Child[Identity]()
    proj = Child[Linear]()
    proj_drop = Child[Dropout]()

    @Fact
    def num_prefix_tokens(self) -> int:
        """Tokens before the patches, which are not rotated."""
        return prefix_tokens_of(self._now()._options())

    @Fact
    def rotate_half(self) -> bool:
        """Are pairs half a head apart, or neighbours?"""
        return bool(self._option("rope_rotate_half"))


class EvaAttention(_EvaHeads):
    """Self-attention whose keys have no bias. timm.models.eva.EvaAttention.

    qkv, with q_bias and v_bias; or q_proj, k_proj and v_proj.
    """

    __slots__ = ()
    q_bias = Weight("(C,), or None")
    v_bias = Weight("(C,), or None")


class AttentionRope(_EvaHeads):
    """Self-attention, of q_proj, k_proj and v_proj with fewer heads of keys and values
    than of queries if so. timm.layers.AttentionRope."""

    __slots__ = ()

    @Fact
    def num_kv_heads(self) -> int:
        """Heads of keys and values: a divisor of num_heads."""
        return self._kv_heads()

    @Fact
    def num_kv_groups(self) -> int:
        """Heads of queries for each of them."""
        return int(self._option("num_heads")) // self._kv_heads()

    @Fact
    def attn_dim(self) -> int:
        """Heads of queries times their width."""
        return int(self._option("embed_dim"))

    @Fact
    def kv_dim(self) -> int:
        """Heads of keys times their width."""
        return self._kv_heads() * self._head_dim()

    def _kv_heads(self) -> int:
        shapes = self._now().param_shapes()
        rows = shapes.get(f"{self._path}.k_proj.weight")
        heads = int(self._option("num_heads"))
        return heads if rows is None else rows[0] // self._head_dim()


class _EvaBlock(Rotated):
    __slots__ = ()

    def _rotated(
        self,
        now: _core.VisionTransformer,
        x: Float32,
        attn_mask: Any,
        is_causal: bool,
        table: Float32 | None,
    ) -> Float32:
        return computed_block(now, self._path, x, attn_mask, is_causal, table)


class EvaBlock(_EvaBlock):
    """x + gamma_1 attn(norm1(x)), then x + gamma_2 mlp(norm2(x)).
    timm.models.eva.EvaBlock."""

    __slots__ = ()
    gamma_1 = Weight("(C,), or None")
    gamma_2 = Weight("(C,), or None")
    norm1 = Child[LayerNorm]()
    attn = Child[EvaAttention]()
    drop_path1 = Child[Identity]()
    norm2 = Child[LayerNorm]()
    mlp = Child[Mlp]()
    drop_path2 = Child[Identity]()


class EvaBlockPostNorm(_EvaBlock):
    """x + norm1(attn(x)), then x + norm2(mlp(x)). timm.models.eva.EvaBlockPostNorm."""

    __slots__ = ()
    attn = Child[EvaAttention]()
    norm1 = Child[LayerNorm]()
    drop_path1 = Child[Identity]()
    mlp = Child[Mlp]()
    norm2 = Child[LayerNorm]()
    drop_path2 = Child[Identity]()
