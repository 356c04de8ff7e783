# SPDX-License-Identifier: Apache-2.0
"""Eva. Source: timm.models.eva (timm 1.0.31)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, cast

import numpy as np

from ..config import (
    Dtype,
    EvaAttn,
    EvaPool,
    NormLayer,
    RopeIndexing,
    RopeType,
)
from .base import PlainViT
from .constructor import with_hints
from .parts import (
    EvaBlock,
    Float32,
    ModuleList,
    RotaryEmbeddingCat,
    RotaryEmbeddingDinoV3,
    RotaryEmbeddingMixed,
    as_embed,
    grid_of,
)
from .positions import with_positions
from .tensors import like


class Eva(PlainViT):
    """timm's Eva: a Vision Transformer with rotary positions, SwiGLU and q, k and v of
    its own. EVA, EVA-02, Perception Encoder, DINOv3 and others are of this class.

    The constructor has timm's options under timm's names and defaults; norm_layer, a
    class in timm, is a name here. rope_type 'mrope' is not here.
    """

    __module__ = "vitpool.model"
    _family = "Eva"

    @with_hints
    def __init__(
        self,
        img_size: int | tuple[int, int] = 224,
        patch_size: int | tuple[int, int] = 16,
        in_chans: int = 3,
        num_classes: int = 1000,
        global_pool: EvaPool = "avg",
        embed_dim: int = 768,
        depth: int = 12,
        num_heads: int = 12,
        num_kv_heads: int | Sequence[int | None] | None = None,
        qkv_bias: bool = True,
        qkv_fused: bool = True,
        qk_norm: bool = False,
        mlp_ratio: float = 4.0,
        swiglu_mlp: bool = False,
        swiglu_align_to: int = 0,
        scale_mlp: bool = False,
        scale_attn_inner: bool = False,
        attn_type: EvaAttn = "eva",
        drop_rate: float = 0.0,
        pos_drop_rate: float = 0.0,
        patch_drop_rate: float = 0.0,
        proj_drop_rate: float = 0.0,
        attn_drop_rate: float = 0.0,
        drop_path_rate: float = 0.0,
        norm_layer: NormLayer | None = None,
        init_values: float | None = None,
        attn_only_layer_scale: bool = False,
        class_token: bool = True,
        num_reg_tokens: int = 0,
        no_embed_class: bool = False,
        use_abs_pos_emb: bool = True,
        use_rot_pos_emb: bool = False,
        rope_type: RopeType | None = "cat",
        rope_grid_offset: float = 0.0,
        rope_grid_indexing: RopeIndexing = "ij",
        rope_temperature: float = 10000.0,
        rope_rotate_half: bool = False,
        rope_shift_coords: float | None = None,
        rope_jitter_coords: float | None = None,
        rope_rescale_coords: float | None = None,
        rope_mrope_section: None = None,
        use_post_norm: bool = False,
        use_pre_transformer_norm: bool = False,
        use_post_transformer_norm: bool | None = None,
        use_fc_norm: bool | None = None,
        attn_pool_num_heads: int | None = None,
        attn_pool_mlp_ratio: float | None = None,
        dynamic_img_size: bool = False,
        dynamic_img_pad: bool = False,
        ref_feat_shape: int | tuple[int, int] | None = None,
        head_init_scale: float = 0.001,
        *,
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
        global_pool: how tokens become one vector: 'token' takes the class token, 'avg',
            'max' and 'avgmax' the patches' mean, maximum or the mean of both, 'map' an
            attention pool over all tokens; '': no pool.
        embed_dim: width of a token, C.
        depth: blocks.
        num_heads: attention heads of a block, H; a divisor of embed_dim.
        num_kv_heads: heads of keys and values, a divisor of num_heads; None: num_heads.
            Or one for each block, None or num_heads in some of the first and the last,
            one and the same number between. Needs attn_type 'rope', qkv_fused False.
        qkv_bias: have the query, key and value projections a bias? Of attn_type 'eva'
            the keys' has none.
        qkv_fused: are the three projections one matrix?
        qk_norm: are queries and keys normed, head by head?
        mlp_ratio: width of an MLP's hidden layer, in units of embed_dim.
        swiglu_mlp: is the MLP a SwiGLU? Its gate and value are one matrix, without
            scale_mlp and swiglu_align_to, else two.
        swiglu_align_to: a SwiGLU's hidden width is rounded up to a multiple of this.
        scale_mlp: is there a norm in the MLP, before its second layer?
        scale_attn_inner: is there a norm between attention and its projection?
        attn_type: 'eva', whose keys have no bias, or 'rope'.
        drop_rate, pos_drop_rate, patch_drop_rate, proj_drop_rate, attn_drop_rate,
            drop_path_rate: rates of dropout from 0 to 1, for vitpool.train alone.
        norm_layer: 'layernorm', 'rmsnorm' or (name, eps); None: layernorm of eps 1e-6.
        init_values: LayerScale's first value; None: no LayerScale.
        attn_only_layer_scale: is there LayerScale behind attention alone?
        class_token: is there a class token?
        num_reg_tokens: register tokens.
        no_embed_class: have the class and register tokens no position?
        use_abs_pos_emb: is there a learned position embedding?
        use_rot_pos_emb: are queries and keys of patches rotated by their positions?
        rope_type: 'cat', an angle of row or column; 'dinov3', of coordinates from -1 to
            1; 'mixed', learned, of both, for each block and head.
        rope_grid_offset: added to rows and columns.
        rope_grid_indexing: 'ij', rows first in a head's channels, or 'xy'.
        rope_temperature: the longest wave's length, about.
        rope_rotate_half: are a head's halves rotated, not neighbours?
        rope_shift_coords, rope_jitter_coords, rope_rescale_coords: how timm moves the
            coordinates at random in training; None: not. Checked and kept in `config`,
            for timm: neither a forward pass nor vitpool.train moves any.
        rope_mrope_section: None; timm's is of rope_type 'mrope', which is not here.
        use_post_norm: does the norm follow attention and MLP? Without qk_norm,
            num_kv_heads and attn_only_layer_scale; init_values then has no effect.
        use_pre_transformer_norm: is there a norm before the blocks? The patch embedding
            then has no bias.
        use_post_transformer_norm: is there a norm after the blocks? None: unless one is
            behind the pool.
        use_fc_norm: is there a norm behind the pool? None: for 'avg'.
        attn_pool_num_heads: heads of the pool 'map'; None: num_heads.
        attn_pool_mlp_ratio: mlp_ratio of the pool 'map'; None: mlp_ratio.
        dynamic_img_size: is any image size taken, with positions made for it?
        dynamic_img_pad: is an image padded to whole patches? With dynamic_img_size.
        ref_feat_shape: rows and columns of the grid on which rope_type 'cat' counts
            positions, or one number for both; None: the model's own.
        head_init_scale: a fresh model's head is multiplied with this.
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
    def blocks(self) -> ModuleList[EvaBlock]:  # type: ignore[override] # timm's, too
        """The blocks, EvaBlock or EvaBlockPostNorm, by index and as slices."""
        return cast("ModuleList[EvaBlock]", self._part("blocks"))

    @property
    def rope(
        self,
    ) -> RotaryEmbeddingCat | RotaryEmbeddingMixed | RotaryEmbeddingDinoV3 | None:
        """The rotary position embedding, or None."""
        return cast("RotaryEmbeddingCat | None", self._part_or_none("rope"))

    @property
    def rope_mixed(self) -> bool:
        """Are angles learned, of each block and head?"""
        return bool(self._options()["rope"] == "mixed")

    @property
    def patch_drop(self) -> None:  # type: ignore[override] # timm's, too
        """None: no patches are dropped."""
        return

    def _pos_embed(self, x: Any) -> tuple[Float32, Float32 | None]:
        """Tokens (B, N, C) of patch_embed's patches x, and what a block's rope= takes
        for their grid, or None: model.rope.get_embed. As timm's, for a forward written
        out; with mixed rope block i takes its [i].

        ValueError: patches of another grid than the model's.
        """
        now = self._snapshot()
        tokens, options = with_positions(now, x), now._options()
        rope = None
        if options["rope"] != "none":
            grid = np.shape(x)[1:3] if options["dynamic_img_size"] else grid_of(options)
            rope = as_embed(now._rope(*grid), options)
        return like(x, tokens), like(x, rope)

    def no_weight_decay(self) -> set[str]:
        """Parameters that training should not decay."""
        freqs = {"rope.freqs"} if self.rope_mixed else set()
        return {"pos_embed", "cls_token", "reg_token"} | freqs
