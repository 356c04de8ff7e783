# SPDX-License-Identifier: Apache-2.0
"""VisionTransformer. Source: timm.models.vision_transformer (timm 1.0.31)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ..config import (
    ActLayer,
    AttnLayer,
    BlockFn,
    Dtype,
    EmbedLayer,
    MlpLayer,
    NormLayer,
    Pool,
    PosEmbed,
    WeightInit,
)
from .base import PlainViT
from .constructor import with_hints


class VisionTransformer(PlainViT):
    """timm's VisionTransformer: forward passes, and changes of the model.

    The constructor has timm's options under timm's names and defaults; what is a class
    in timm (embed_layer, norm_layer, act_layer, mlp_layer, block_fn, attn_layer) is a
    name here.
    """

    __module__ = "vitpool.model"
    _family = "VisionTransformer"

    @with_hints
    def __init__(
        self,
        img_size: int | tuple[int, int] = 224,
        patch_size: int | tuple[int, int] = 16,
        in_chans: int = 3,
        num_classes: int = 1000,
        global_pool: Pool = "token",
        embed_dim: int = 768,
        depth: int = 12,
        num_heads: int = 12,
        mlp_ratio: float = 4.0,
        qkv_bias: bool = True,
        qk_norm: bool = False,
        scale_attn_norm: bool = False,
        scale_mlp_norm: bool = False,
        proj_bias: bool = True,
        init_values: float | None = None,
        class_token: bool = True,
        pos_embed: PosEmbed = "learn",
        no_embed_class: bool = False,
        reg_tokens: int = 0,
        pre_norm: bool = False,
        final_norm: bool = True,
        fc_norm: bool | None = None,
        pool_include_prefix: bool = False,
        dynamic_img_size: bool = False,
        dynamic_img_pad: bool = False,
        drop_rate: float = 0.0,
        pos_drop_rate: float = 0.0,
        patch_drop_rate: float = 0.0,
        proj_drop_rate: float = 0.0,
        attn_drop_rate: float = 0.0,
        drop_path_rate: float = 0.0,
        weight_init: WeightInit = "",
        fix_init: bool = False,
        embed_layer: EmbedLayer = "PatchEmbed",
        embed_norm_layer: NormLayer | None = None,
        norm_layer: NormLayer | None = None,
        act_layer: ActLayer | None = None,
        block_fn: BlockFn = "Block",
        mlp_layer: MlpLayer = "Mlp",
        attn_layer: AttnLayer = "attn",
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
            'max' and 'avgmax' the patches' mean, maximum or the mean of both, 'map' and
            'prr' an attention pool; '': no pool.
        embed_dim: width of a token, C.
        depth: blocks.
        num_heads: attention heads of a block, H; a divisor of embed_dim.
        mlp_ratio: width of an MLP's hidden layer, in units of embed_dim.
        qkv_bias: have the query, key and value projections a bias?
        qk_norm: are queries and keys normed, head by head?
        scale_attn_norm: is there a norm between attention and its projection?
        scale_mlp_norm: is there a norm in the MLP, before its second layer?
        proj_bias: have the projections of attention and MLP a bias?
        init_values: LayerScale's first value; None: no LayerScale.
        class_token: is there a class token?
        pos_embed: 'learn': a position embedding; 'none' or '': none.
        no_embed_class: have the class and register tokens no position?
        reg_tokens: register tokens.
        pre_norm: is there a norm before the blocks?
        final_norm: is there a norm after the blocks, before or behind the pool?
        fc_norm: is that norm behind the pool? None: for 'avg', 'avgmax' and 'max'.
        pool_include_prefix: does the pool see class and register tokens?
        dynamic_img_size: is any image size taken, with positions resampled to it?
        dynamic_img_pad: is an image padded to whole patches? With dynamic_img_size.
        drop_rate, pos_drop_rate, patch_drop_rate, proj_drop_rate, attn_drop_rate,
            drop_path_rate: rates of dropout from 0 to 1, for vitpool.train alone.
        weight_init: how random weights are drawn: '' as timm does, 'jax', 'jax_nlhb',
            'moco', or 'reset' and 'skip' as torch's layers do.
        fix_init: are fresh projections scaled down by the depth of their block?
        embed_layer: 'PatchEmbed' or 'ConvStem', three convolutions with BatchNorm
            between them, of strides 4, 2 and 2 and C / 4, C / 4 and C channels, as in
            'vit_base_mci_224' (timm: HybridEmbed of a ConvStem, proj=False). With it
            patch_size is 16. BatchNorm has its running statistics, also in training.
        embed_norm_layer: a norm in the patch embedding, named as norm_layer is.
        norm_layer: 'layernorm', 'rmsnorm' or (name, eps); None: layernorm of eps 1e-6.
        act_layer: the MLPs' 'gelu', 'gelu_tanh', 'quick_gelu', 'silu' or 'relu'; None:
            gelu.
        block_fn: 'Block', 'ResPostBlock', 'ParallelScalingBlock',
            'ParallelThingsBlock' or 'DiffParallelScalingBlock'.
        mlp_layer: 'Mlp', 'GluMlp', 'SwiGLUPacked' or 'SwiGLU'.
        attn_layer: 'attn' or 'diff', differential attention.
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

    def get_intermediate_layers(
        self,
        x: Any,
        n: int | Sequence[int] = 1,
        reshape: bool = False,
        return_prefix_tokens: bool = False,
        norm: bool = False,
        attn_mask: Any = None,
    ) -> list[Any]:
        """DINO's interface: forward_intermediates' list, 'NCHW' with reshape."""
        layers: list[Any] = self.forward_intermediates(
            x,
            n,
            return_prefix_tokens=return_prefix_tokens,
            norm=norm,
            output_fmt="NCHW" if reshape else "NLC",
            intermediates_only=True,
            attn_mask=attn_mask,
        )
        return layers
