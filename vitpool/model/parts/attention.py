# SPDX-License-Identifier: Apache-2.0
"""Attention, MLPs and the attention pools, as timm.layers has them."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from ... import _core
from ..tensors import like
from .layers import GELU, Dropout, Identity, LayerNorm, Linear, RmsNorm
from .module import Child, Fact, Module, Weight
from .walk import Float32


class Masked(Module):
    """A part that looks from token to token, and takes a mask: attention or a block."""

    __slots__ = ()

    def __call__(
        self, x: Any, attn_mask: Any = None, is_causal: bool = False
    ) -> Float32:
        """Tokens (B, N, C) of tokens x (B, N, C).

        attn_mask: bool (False: not seen) or float (added to the scores), broadcast to
        (B, H, N, N); is_causal: a token sees itself and those before it. One or the
        other. Errors as Module's.
        """
        return self.forward(x, attn_mask, is_causal)

    def forward(
        self, x: Any, attn_mask: Any = None, is_causal: bool = False
    ) -> Float32:
        """The same as calling it."""
        y = self._compute(self._now(), x, attn_mask, is_causal)
        return like(x, y)

    def _compute(
        self,
        now: _core.VisionTransformer,
        x: Any,
        attn_mask: Any = None,
        is_causal: bool = False,
    ) -> Float32:
        return now._run_part(self._path, x, attn_mask, is_causal)


class Heads(Module):
    """What all that has heads tells of them."""

    __slots__ = ()

    @Fact
    def num_heads(self) -> int:
        """Heads, H."""
        return self._heads()

    @Fact
    def head_dim(self) -> int:
        """Numbers of a head's query and key, D."""
        return self._head_dim()

    @Fact
    def scale(self) -> float:
        """What scores are multiplied with: 1 / sqrt(D)."""
        return 1.0 / math.sqrt(self._head_dim())

    def _heads(self) -> int:
        return int(self._option("num_heads"))

    def _head_dim(self) -> int:
        return int(self._option("embed_dim")) // self._heads()


class DiffHeads(Heads):
    """Heads in pairs, each half as wide."""

    __slots__ = ()
    sub_norm = Child[RmsNorm]()
    lambda_q1 = Weight("(D,)")
    lambda_k1 = Weight("(D,)")
    lambda_q2 = Weight("(D,)")
    lambda_k2 = Weight("(D,)")

    def _head_dim(self) -> int:
        return super()._head_dim() // 2

    @Fact
    def lambda_init(self) -> float:
        """What the factor of the second attention map begins with, by depth."""
        return 0.8 - 0.6 * math.exp(-0.3 * int(self._path.split(".")[1]))


class Attention(Masked, Heads):
    """Multi-head self-attention. timm.layers.Attention."""

    __slots__ = ()
    qkv = Child[Linear]()
    q_norm = Child[LayerNorm]()
    k_norm = Child[LayerNorm]()
    attn_drop = Child[Dropout]()
    norm = Child[LayerNorm]()
    proj = Child[Linear]()
    proj_drop = Child[Dropout]()

    @Fact
    def attn_dim(self) -> int:
        """Heads times their width."""
        return int(self._option("embed_dim"))


class DiffAttention(Masked, DiffHeads):
    """The difference of two attentions. timm.layers.DiffAttention."""

    __slots__ = ()
    qkv = Child[Linear]()
    q_norm = Child[LayerNorm]()
    k_norm = Child[LayerNorm]()
    attn_drop = Child[Dropout]()
    norm = Child[LayerNorm]()
    proj = Child[Linear]()
    proj_drop = Child[Dropout]()


class Mlp(Module):
    """fc2(norm(act(fc1(x)))) of rows (..., C). timm.layers.Mlp."""

    __slots__ = ()
    fc1 = Child[Linear]()
    act = Child[GELU]()
    drop1 = Child[Dropout]()
    norm = Child[LayerNorm]()
    fc2 = Child[Linear]()
    drop2 = Child[Dropout]()

    def _compute(self, now: _core.VisionTransformer, x: Any) -> Float32:
        if not self._path.endswith("rel_pos.mlp"):
            return super()._compute(now, x)
        # which the core has read once, for its table
        for name in ("fc1", "act", "fc2"):
            x = now._run_part(f"{self._path}.{name}", x)
        return np.asarray(x)


class GluMlp(Mlp):
    """fc2 of one half of fc1(x), times act of the other. timm.layers.GluMlp."""

    __slots__ = ()

    @Fact
    def gate_last(self) -> bool:
        """Is the second half the gate? In 'SwiGLUPacked' the first is."""
        return bool(self._option("mlp_layer") == "GluMlp")


class SwiGLU(Module):
    """fc2(norm(act(fc1_g(x)) fc1_x(x))) of rows (..., C). timm.layers.SwiGLU."""

    __slots__ = ()
    fc1_g = Child[Linear]()
    fc1_x = Child[Linear]()
    act = Child[GELU]()
    drop1 = Child[Dropout]()
    norm = Child[LayerNorm]()
    fc2 = Child[Linear]()
    drop2 = Child[Dropout]()


class AttentionPoolLatent(Heads):
    """The 'map' pool: one latent query attends to tokens (B, N, C), which gives (B, C).
    timm.layers.AttentionPoolLatent."""

    __slots__ = ()
    latent = Weight("(1, 1, C)")
    q = Child[Linear]()
    kv = Child[Linear]()
    q_norm = Child[Identity]()
    k_norm = Child[Identity]()
    proj = Child[Linear]()
    proj_drop = Child[Dropout]()
    norm = Child[LayerNorm]()
    mlp = Child[Mlp]()

    @Fact
    def latent_len(self) -> int:
        """Queries: 1."""
        return 1

    @Fact
    def latent_dim(self) -> int:
        """Numbers of a query."""
        return int(self._option("embed_dim"))

    @Fact
    def out_features(self) -> int:
        """Numbers of what comes out."""
        return int(self._option("embed_dim"))

    @Fact
    def pool(self) -> str:
        """Which of the queries' answers is given: the first."""
        return "token"

    def _heads(self) -> int:
        options = self._now()._options()
        return int(options["attn_pool_heads"] or options["num_heads"])


class AttentionPoolPrr(Heads):
    """The 'prr' pool: tokens (B, N, C) attend to each other without parameters, then
    the class token or the mean is given, (B, C). timm.layers.AttentionPoolPrr."""

    __slots__ = ()
    pre_norm = Child[Identity]()
    post_norm = Child[Identity]()

    @Fact
    def out_features(self) -> int:
        """Numbers of what comes out."""
        return int(self._option("embed_dim"))

    @Fact
    def pool(self) -> str:
        """'token', or 'avg' in a model without a class token."""
        return "token" if self._option("class_token") else "avg"
