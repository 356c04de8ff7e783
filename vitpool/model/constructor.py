# SPDX-License-Identifier: Apache-2.0
"""timm's constructor, option by option."""

from __future__ import annotations

import functools
import inspect
import os
from collections.abc import Callable, Container, Mapping
from typing import Any, Literal, ParamSpec

from ..config import (
    DEFAULTS,
    INIT_MODES,
    ActLayer,
    AttnLayer,
    BlockFn,
    MlpLayer,
    NormLayer,
    Pool,
    PosEmbed,
    WeightInit,
    as_int,
    refuse_unknown,
    resolve,
)
from ..text import some
from .copying import Copying

P = ParamSpec("P")


def with_hints(init: Callable[P, None]) -> Callable[P, None]:
    """`init`, which says of an unknown option what was probably meant.

    Python's own message for it has no hint before 3.13. The signature stays init's, for
    inspect, editors and type checkers.
    """
    known = list(inspect.signature(init).parameters)[1:]

    @functools.wraps(init)
    def checked(*args: P.args, **kwargs: P.kwargs) -> None:
        refuse_unknown(kwargs, known)
        init(*args, **kwargs)

    return checked


class Constructed(Copying):
    """The part of VisionTransformer that builds it from timm's options."""

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
        embed_norm_layer: NormLayer | None = None,
        norm_layer: NormLayer | None = None,
        act_layer: ActLayer | None = None,
        block_fn: BlockFn = "Block",
        mlp_layer: MlpLayer = "Mlp",
        attn_layer: AttnLayer = "attn",
        *,
        dtype: Literal["float32"] = "float32",
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
            drop_path_rate: rates of dropout in training, from 0 to 1. They do nothing:
            this is inference.
        weight_init: how random weights are drawn: '' as timm does, 'jax', 'jax_nlhb',
            'moco', or 'reset' and 'skip' as torch's layers do.
        fix_init: are fresh projections scaled down by the depth of their block?
        embed_norm_layer: a norm in the patch embedding, named as norm_layer is.
        norm_layer: 'layernorm', 'rmsnorm' or (name, eps); None: layernorm of eps 1e-6.
        act_layer: the MLPs' 'gelu', 'gelu_tanh', 'quick_gelu', 'silu' or 'relu'; None:
            gelu.
        block_fn: 'Block', 'ResPostBlock', 'ParallelScalingBlock',
            'ParallelThingsBlock' or 'DiffParallelScalingBlock'.
        mlp_layer: 'Mlp', 'GluMlp', 'SwiGLUPacked' or 'SwiGLU'.
        attn_layer: 'attn' or 'diff', differential attention.
        dtype: of the weights in memory, 'float32'.
        seed: of random weights, below 2**64; None: a new one each time. Distributions
            are timm's, the bit stream is not torch's.
        weights: a mapping of exactly the state dict's keys to arrays, from which the
            model is built in place of random numbers, one tensor at a time.

        TypeError: an unknown option or a wrong type. ValueError: a wrong value.
        """
        given = locals()
        arguments = {name: given[name] for name in DEFAULTS}
        _check_dtype(dtype)
        if not isinstance(weight_init, str):
            raise TypeError(
                f"weight_init must be a str, not {type(weight_init).__name__}"
            )
        if weight_init not in INIT_MODES:
            raise ValueError(
                f"weight_init must be one of {', '.join(map(repr, INIT_MODES))}, "
                f"not {weight_init!r}"
            )
        options = resolve(arguments)
        if weights is not None and not hasattr(weights, "keys"):
            raise TypeError(f"weights must be a mapping, not {type(weights).__name__}")
        super().__init__(
            options,
            weights=weights,
            seed=random_seed(seed),
            weight_init="reset" if weight_init == "skip" else weight_init,
            fix_init=bool(fix_init),
        )
        if weights is not None:
            extra = sorted(set(weights.keys()) - set(self.param_shapes()))
            if extra:
                raise ValueError(
                    f"weights has unexpected keys: {some(map(repr, extra))}"
                )
            untrained = untrained_of(weights)
            if untrained:
                self._replace(None, {}, untrained)
        self._init_state()


def untrained_of(weights: Mapping[str, Any]) -> Container[str]:
    """The keys of a mapping that it says hold random numbers."""
    untrained: Container[str] = getattr(weights, "untrained", ())
    return untrained


def random_seed(seed: int | None) -> int:
    """64 bits: the caller's, or random ones."""
    if seed is None:
        return int.from_bytes(os.urandom(8), "little")
    number = as_int(seed, "seed")
    if number >= 2**64:
        raise ValueError(f"seed must be below 2**64, not {number}")
    return number


def _check_dtype(dtype: Any) -> None:
    if not isinstance(dtype, str):
        raise TypeError(f"dtype must be a str ('float32'), not {type(dtype).__name__}")
    if dtype != "float32":
        raise ValueError(f"dtype must be 'float32', not {dtype!r}")
