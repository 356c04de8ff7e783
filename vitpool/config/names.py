# SPDX-License-Identifier: Apache-2.0
"""Names that timm's options take, as types: an editor offers them, mypy checks them.

At run time other spellings of a name count too ('Swish', 'layer_norm', 'GELU').
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, TypedDict, get_args

Pool = Literal["", "avg", "avgmax", "max", "token", "map", "prr"]
PosEmbed = Literal["", "none", "learn"]
WeightInit = Literal["", "jax", "jax_nlhb", "moco", "reset", "skip"]
NormName = Literal["layernorm", "rmsnorm"]
NormLayer = NormName | tuple[NormName, float] | Mapping[str, Any]
ActLayer = Literal["gelu", "gelu_tanh", "quick_gelu", "silu", "relu"]
MlpLayer = Literal["Mlp", "GluMlp", "SwiGLUPacked", "SwiGLU"]
AttnLayer = Literal["attn", "diff"]
EmbedLayer = Literal["PatchEmbed", "ConvStem"]
BlockFn = Literal[
    "Block",
    "ResPostBlock",
    "ParallelScalingBlock",
    "ParallelThingsBlock",
    "DiffParallelScalingBlock",
]

# Those of timm's other classes.
EvaPool = Literal["", "avg", "avgmax", "max", "token", "map"]
PlainPool = Literal["", "avg", "token"]
EvaAttn = Literal["eva", "rope"]
RopeType = Literal["cat", "mixed", "dinov3"]
RopeIndexing = Literal["ij", "xy"]
RelPosType = Literal["mlp", "mlpswin", "bias"]
RelPosBlockFn = Literal["RelPosBlock", "ResPostRelPosBlock"]

# What create_model and model.to take: of the matrices, in memory and in products.
Dtype = Literal["float32", "bfloat16", "float16", "int8"]
# What one parameter is kept in: integers may meet 8-bit or 16-bit activations.
ParamDtype = Literal["float32", "bfloat16", "float16", "int8", "int8_a16"]

POOLS: tuple[Pool, ...] = get_args(Pool)
POS_EMBEDS: tuple[PosEmbed, ...] = get_args(PosEmbed)
INIT_MODES: tuple[WeightInit, ...] = get_args(WeightInit)
NORMS: tuple[NormName, ...] = get_args(NormName)
ACTS: tuple[ActLayer, ...] = get_args(ActLayer)
MLPS: tuple[MlpLayer, ...] = get_args(MlpLayer)
ATTNS: tuple[AttnLayer, ...] = get_args(AttnLayer)
EMBEDS: tuple[EmbedLayer, ...] = get_args(EmbedLayer)
BLOCKS: tuple[BlockFn, ...] = get_args(BlockFn)
EVA_ATTNS: tuple[EvaAttn, ...] = get_args(EvaAttn)
ROPES: tuple[RopeType, ...] = get_args(RopeType)
ROPE_INDEXINGS: tuple[RopeIndexing, ...] = get_args(RopeIndexing)
REL_POS_BLOCKS: tuple[RelPosBlockFn, ...] = get_args(RelPosBlockFn)
DTYPES: tuple[Dtype, ...] = get_args(Dtype)
PARAM_DTYPES: tuple[ParamDtype, ...] = get_args(ParamDtype)


class ModelOptions(TypedDict, total=False):
    """The constructor's options as the keywords of what builds a model by its name: all
    but the head's two. None is the model's own value."""

    img_size: int | tuple[int, int] | None
    patch_size: int | tuple[int, int] | None
    in_chans: int | None
    embed_dim: int | None
    depth: int | None
    num_heads: int | None
    mlp_ratio: float | None
    qkv_bias: bool | None
    qk_norm: bool | None
    scale_attn_norm: bool | None
    scale_mlp_norm: bool | None
    proj_bias: bool | None
    init_values: float | None
    class_token: bool | None
    pos_embed: PosEmbed | None
    no_embed_class: bool | None
    reg_tokens: int | None
    pre_norm: bool | None
    final_norm: bool | None
    fc_norm: bool | None
    pool_include_prefix: bool | None
    dynamic_img_size: bool | None
    dynamic_img_pad: bool | None
    drop_rate: float | None
    pos_drop_rate: float | None
    patch_drop_rate: float | None
    proj_drop_rate: float | None
    attn_drop_rate: float | None
    drop_path_rate: float | None
    weight_init: WeightInit | None
    fix_init: bool | None
    embed_layer: EmbedLayer | None
    embed_norm_layer: NormLayer | None
    norm_layer: NormLayer | None
    act_layer: ActLayer | None
    block_fn: BlockFn | None
    mlp_layer: MlpLayer | None
    attn_layer: AttnLayer | None
