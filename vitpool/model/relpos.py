# SPDX-License-Identifier: Apache-2.0
"""VisionTransformerRelPos. Source: timm.models.vision_transformer_relpos (1.0.31)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast

from ..config import (
    ActLayer,
    Dtype,
    NormLayer,
    PlainPool,
    RelPosBlockFn,
    RelPosType,
    WeightInit,
)
from .base import PlainViT
from .constructor import with_hints
from .parts import ModuleList, RelPosBias, RelPosBlock, RelPosMlp


class VisionTransformerRelPos(PlainViT):
    """timm's VisionTransformerRelPos: a Vision Transformer without absolute positions,
    whose attention has a bias for where tokens lie to each other.

    The constructor has timm's options under timm's names and defaults; what is a class
    in timm (norm_layer, act_layer, block_fn) is a name here.
    """

    __module__ = "vitpool.model"
    _family = "VisionTransformerRelPos"

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
        mlp_ratio: float = 4.0,
        qkv_bias: bool = True,
        qk_norm: bool = False,
        init_values: float | None = 1e-6,
        class_token: bool = False,
        fc_norm: bool = False,
        rel_pos_type: RelPosType = "mlp",
        rel_pos_dim: int | None = None,
        shared_rel_pos: bool = False,
        drop_rate: float = 0.0,
        proj_drop_rate: float = 0.0,
        attn_drop_rate: float = 0.0,
        drop_path_rate: float = 0.0,
        weight_init: WeightInit = "reset",
        fix_init: bool = False,
        norm_layer: NormLayer | None = None,
        act_layer: ActLayer | None = None,
        block_fn: RelPosBlockFn = "RelPosBlock",
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
        mlp_ratio: width of an MLP's hidden layer, in units of embed_dim.
        qkv_bias: have the query, key and value projections a bias?
        qk_norm: are queries and keys normed, head by head?
        init_values: LayerScale's first value; None or 0: no LayerScale. Of
            'ResPostRelPosBlock' the first value of its norms' weights.
        class_token: is there a class token?
        fc_norm: is the last norm behind the pool?
        rel_pos_type: 'mlp' makes the biases of distances' logarithms by a small MLP,
            'mlpswin' as Swin V2 has it; 'bias' has a table.
        rel_pos_dim: hidden width of that MLP; None: 128.
        shared_rel_pos: is there one for all blocks, not one for each?
        drop_rate, proj_drop_rate, attn_drop_rate, drop_path_rate: rates of dropout from
            0 to 1, for vitpool.train alone.
        weight_init: how random weights are drawn: 'reset' and 'skip' as torch's layers
            do, '' as timm's VisionTransformer does, 'jax', 'jax_nlhb' or 'moco'.
        fix_init: are fresh projections scaled down by the depth of their block?
        norm_layer: 'layernorm', 'rmsnorm' or (name, eps); None: layernorm of eps 1e-6.
        act_layer: the MLPs' 'gelu', 'gelu_tanh', 'quick_gelu', 'silu' or 'relu'; None:
            gelu.
        block_fn: 'RelPosBlock' or 'ResPostRelPosBlock'.
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
    def blocks(self) -> ModuleList[RelPosBlock]:  # type: ignore[override] # timm's, too
        """The blocks, RelPosBlock or ResPostRelPosBlock, by index and as slices."""
        return cast("ModuleList[RelPosBlock]", self._part("blocks"))

    @property
    def shared_rel_pos(self) -> RelPosMlp | RelPosBias | None:
        """The biases that all blocks share, or None."""
        return cast("RelPosMlp | None", self._part_or_none("shared_rel_pos"))

    def no_weight_decay(self) -> set[str]:
        """Parameters that training should not decay."""
        return {"cls_token"}

    def group_matcher(self, coarse: bool = False) -> dict[str, Any]:
        """Patterns that sort parameters into stem and blocks, for layer-wise rates.

        The stem's is timm's: what shared_rel_pos has counts with the head.
        """
        return super().group_matcher(coarse) | {"stem": r"^cls_token|patch_embed"}
