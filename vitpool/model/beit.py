# SPDX-License-Identifier: Apache-2.0
"""Beit. Source: timm.models.beit (timm 1.0.31)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast

from ..config import (
    Dtype,
    NormLayer,
    PlainPool,
)
from .base import PlainViT
from .constructor import with_hints
from .parts import BeitBlock, ModuleList, RelativePositionBias


class Beit(PlainViT):
    """timm's Beit: a Vision Transformer whose attention knows where tokens lie to each
    other, by a table of biases in each block, shared by all, or both.

    The constructor has timm's options under timm's names and defaults; norm_layer, a
    class in timm, is a name here. There is always a class token.
    """

    __module__ = "vitpool.model"
    _family = "Beit"

    @with_hints
    def __init__(
        self,
        img_size: int | tuple[int, int] = 224,
        patch_size: int | tuple[int, int] = 16,
        in_chans: int = 3,
        num_classes: int = 1000,
        global_pool: PlainPool = "avg",
        embed_dim: int = 768,
        depth: int = 12,
        num_heads: int = 12,
        qkv_bias: bool = True,
        mlp_ratio: float = 4.0,
        swiglu_mlp: bool = False,
        scale_mlp: bool = False,
        drop_rate: float = 0.0,
        pos_drop_rate: float = 0.0,
        proj_drop_rate: float = 0.0,
        attn_drop_rate: float = 0.0,
        drop_path_rate: float = 0.0,
        norm_layer: NormLayer | None = None,
        init_values: float | None = None,
        use_abs_pos_emb: bool = True,
        use_rel_pos_bias: bool = False,
        use_shared_rel_pos_bias: bool = False,
        head_init_scale: float = 0.001,
        use_fc_norm: bool | None = None,
        *,
        final_norm: bool = True,
        device: object = None,
        dtype: Dtype | None = None,
        seed: int | None = None,
        weights: Mapping[str, Any] | None = None,
    ) -> None:
        """A model of timm's options, with random weights or with `weights`.

        img_size: height and width of an image in pixels, or one number for both.
        patch_size: height and width of a patch in pixels, or one number for both.
        in_chans: channels of an image.
        num_classes: outputs of the head, K; 0: no head.
        global_pool: how tokens become one vector: 'avg' takes the patches' mean,
            'token' the class token; '': no pool.
        embed_dim: width of a token, C.
        depth: blocks.
        num_heads: attention heads of a block, H; a divisor of embed_dim.
        qkv_bias: have the query and value projections a bias? The keys' has none.
        mlp_ratio: width of an MLP's hidden layer, in units of embed_dim.
        swiglu_mlp: is the MLP a SwiGLU, of two first layers?
        scale_mlp: is there a norm in the MLP, before its second layer?
        drop_rate, pos_drop_rate, proj_drop_rate, attn_drop_rate, drop_path_rate: rates
            of dropout from 0 to 1, for vitpool.train alone.
        norm_layer: 'layernorm', 'rmsnorm' or (name, eps); None: layernorm of eps 1e-6.
        init_values: LayerScale's first value; None or 0: no LayerScale.
        use_abs_pos_emb: is there a learned position embedding?
        use_rel_pos_bias: has each block a table of relative positions' biases?
        use_shared_rel_pos_bias: is there one for all blocks?
        head_init_scale: a fresh model's head is multiplied with this.
        use_fc_norm: is the last norm behind the pool? None: for 'avg'.
        final_norm: is there a norm after the blocks, before or behind the pool? timm's
            class has no such option, and always one until its model is pruned.
        device: None or 'cpu'.
        dtype: 'float32', 'bfloat16', 'float16' or 'int8', as for `to`; None: float32.
        seed: of random weights, below 2**64; None: a new one each time. Distributions
            are timm's, the bit stream is not torch's.
        weights: a mapping of exactly the state dict's keys to arrays, from which the
            model is built in place of random numbers, one tensor at a time, and never
            as float32 as a whole where dtype is bfloat16 or float16.

        TypeError: an unknown option or a wrong type. ValueError: a wrong value.
        """
        self._build(locals())

    # -- what timm's class has otherwise --

    @property
    def blocks(self) -> ModuleList[BeitBlock]:  # type: ignore[override] # timm's, too
        """The blocks, by index and as slices."""
        return cast("ModuleList[BeitBlock]", self._part("blocks"))

    @property
    def rel_pos_bias(self) -> RelativePositionBias | None:
        """The biases that all blocks share, or None."""
        return cast("RelativePositionBias | None", self._part_or_none("rel_pos_bias"))

    def no_weight_decay(self) -> set[str]:
        """Parameters that training should not decay."""
        tables = {n for n in self.param_shapes() if n.endswith("bias_table")}
        return {"pos_embed", "cls_token"} | tables

    def group_matcher(self, coarse: bool = False) -> dict[str, Any]:
        """Patterns that sort parameters into stem and blocks, for layer-wise rates."""
        stem = r"^cls_token|pos_embed|patch_embed|rel_pos_bias"
        return super().group_matcher(coarse) | {"stem": stem}
