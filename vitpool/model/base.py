# SPDX-License-Identifier: Apache-2.0
"""What timm's classes share: their interface on the C core.

Source: timm.models.vision_transformer.VisionTransformer (timm 1.0.31), whose methods
its Eva, Beit and others have too. Shapes: B
images, N tokens (class and register tokens, then patches), C embed_dim, H heads, K
num_classes. Inputs are anything that NumPy, ``__dlpack__`` (CPU) or ``__array__`` can
give, float32 or converted from float16, float64, bfloat16; outputs are new float32
arrays, or torch tensors where x is one.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple, SupportsIndex, overload

from .. import _core
from ..config import Pool, as_int, as_pair
from ..text import some
from .attention import named_maps, wanted_maps
from .constructor import random_seed, untrained_of
from .dtypes import Given, counters
from .heads import head_numbers, label_names
from .intermediates import arrange, check_format, take_indices
from .linear import linear_head
from .parts import Float32, prefix_tokens_of
from .pictures import Pictures
from .positions import (
    pos_embed_for,
    resized_weights,
    rope_for,
    rope_of_tokens,
    with_positions,
)
from .pruning import prune
from .tensors import Tensor, like

# Which output _core's _run is asked for.
_NOTHING, _FEATURES, _PRE_LOGITS, _LOGITS = range(4)


class IncompatibleKeys(NamedTuple):
    """What load_state_dict found, as torch names it."""

    missing_keys: list[str]
    unexpected_keys: list[str]


class PlainViT(Pictures):
    """The base of VisionTransformer, Eva, Beit, VisionTransformerRelPos and NaFlexVit:
    forward passes, and changes of the model. It is no model by itself."""

    # The name that pickles hold: the package's, not this file's.
    __module__ = "vitpool.model"
    #: The classifiers: what reset_classifier and set_head make anew.
    _heads: ClassVar[tuple[str, ...]] = ("head",)

    def __init__(self, **options: Any) -> None:
        raise TypeError(
            "PlainViT is what the classes share: make a VisionTransformer or an Eva"
        )

    # -- forward --

    @overload
    def forward(
        self,
        x: Tensor,
        attn_mask: Any = ...,
        is_causal: bool = ...,
        return_attn: None = ...,
    ) -> Tensor: ...
    @overload
    def forward(
        self,
        x: Tensor,
        attn_mask: Any = ...,
        is_causal: bool = ...,
        *,
        return_attn: Sequence[int | str],
    ) -> tuple[Tensor, dict[int | str, Tensor]]: ...
    @overload
    def forward(
        self,
        x: Any,
        attn_mask: Any = ...,
        is_causal: bool = ...,
        return_attn: None = ...,
    ) -> Float32: ...
    @overload
    def forward(
        self,
        x: Any,
        attn_mask: Any = ...,
        is_causal: bool = ...,
        *,
        return_attn: Sequence[int | str],
    ) -> tuple[Float32, dict[int | str, Float32]]: ...
    @overload
    def forward(
        self,
        x: Any,
        attn_mask: Any,
        is_causal: bool,
        return_attn: Sequence[int | str] | None,
    ) -> Any: ...
    def forward(
        self,
        x: Any,
        attn_mask: Any = None,
        is_causal: bool = False,
        return_attn: Sequence[int | str] | None = None,
    ) -> Any:
        """Logits (B, K) of images x, shape (B, in_chans, height, width).

        Without a head pooled features (B, C); without a pool the same for each token.
        attn_mask: bool (False: not seen) or float (added to the scores), broadcast to
        (B, H, N, N). return_attn: blocks by index and 'attn_pool'; then gives (logits,
        {key: weights (B, H, N, N)}); the 'map' pool's are (B, H, 1, patches), and Eva's
        are of all tokens.
        """
        now = self._snapshot()
        if return_attn is None:
            return like(x, self._forward(now, x, _LOGITS, attn_mask, is_causal)[0])
        keys, maps = wanted_maps(now._options(), return_attn)
        out, _, arrays, _ = self._forward(
            now, x, _LOGITS, attn_mask, is_causal, maps=maps
        )
        return like(x, (out, named_maps(now, keys, maps, arrays)))

    if TYPE_CHECKING:  # with forward's overloads
        __call__ = forward
    else:

        def __call__(
            self,
            x: Any,
            attn_mask: Any = None,
            is_causal: bool = False,
            return_attn: Sequence[int | str] | None = None,
        ) -> Any:
            """The same as forward."""
            return self.forward(x, attn_mask, is_causal, return_attn)

    @overload
    def forward_features(
        self, x: Tensor, attn_mask: Any = ..., is_causal: bool = ...
    ) -> Tensor: ...
    @overload
    def forward_features(
        self, x: Any, attn_mask: Any = ..., is_causal: bool = ...
    ) -> Float32: ...
    def forward_features(
        self, x: Any, attn_mask: Any = None, is_causal: bool = False
    ) -> Any:
        """Tokens (B, N, C) after the last block and `norm`, of images x."""
        now = self._snapshot()
        features: Float32 = self._forward(now, x, _FEATURES, attn_mask, is_causal)[0]
        return like(x, features)

    @overload
    def forward_blocks(
        self,
        x: Tensor,
        start: SupportsIndex = ...,
        stop: SupportsIndex | None = ...,
        attn_mask: Any = ...,
        is_causal: bool = ...,
        grid: tuple[int, int] | None = ...,
    ) -> Tensor: ...
    @overload
    def forward_blocks(
        self,
        x: Any,
        start: SupportsIndex = ...,
        stop: SupportsIndex | None = ...,
        attn_mask: Any = ...,
        is_causal: bool = ...,
        grid: tuple[int, int] | None = ...,
    ) -> Float32: ...
    def forward_blocks(
        self,
        x: Any,
        start: SupportsIndex = 0,
        stop: SupportsIndex | None = None,
        attn_mask: Any = None,
        is_causal: bool = False,
        grid: tuple[int, int] | None = None,
    ) -> Any:
        """Tokens (B, N, C) that blocks start, start + 1, ... before stop make of x.

        x: tokens (B, N, C), as forward_intermediates gives them, or _pos_embed and then
        norm_pre; N may be any. stop: None is after the last block. The bits are those
        of a whole forward pass; `norm` does not follow. Masks as forward's. grid: rows
        and columns of the patches, for rotary positions; None: of the model's own
        images. A model with relative positions takes the tokens of these alone.

        ValueError: not 0 <= start <= stop <= depth, or another shape. TypeError: no
        integer, or no array of floats.
        """
        now = self._snapshot()
        depth = now._options()["depth"]
        end = depth if stop is None else as_int(stop, "stop")
        begin = as_int(start, "start")
        if not begin <= end <= depth:
            raise ValueError(
                f"start and stop must be blocks, 0 <= start <= stop <= {depth}, "
                f"not {begin} and {end}"
            )
        tokens = _core.as_float32(x, "x")
        rope = rope_of_tokens(now, tokens, grid, self._pos_embeds)
        _, arrays, _, _ = now._run(
            tokens,
            _NOTHING,
            attn_mask,
            is_causal,
            first=begin,
            depth=end,
            taps=[(end - 1, 0)] if begin < end else [],
            rope=rope,
        )
        return like(x, arrays[0] if arrays else tokens.copy())

    @overload
    def forward_head(self, x: Tensor, pre_logits: bool = ...) -> Tensor: ...
    @overload
    def forward_head(self, x: Any, pre_logits: bool = ...) -> Float32: ...
    def forward_head(self, x: Any, pre_logits: bool = False) -> Any:
        """Logits (B, K) of tokens x (B, N, C); pre_logits: the pooled features (B, C).

        Without a head pooled features; without a pool the same for each token.
        """
        return like(x, super().forward_head(x, pre_logits))

    @overload
    def pool(self, x: Tensor, pool_type: Pool | None = ...) -> Tensor: ...
    @overload
    def pool(self, x: Any, pool_type: Pool | None = ...) -> Float32: ...
    def pool(self, x: Any, pool_type: Pool | None = None) -> Any:
        """Features (B, C) of tokens x (B, N, C); tokens as they are without a pool.

        pool_type: another pool than the model's. ValueError: one that is unknown, or
        that needs an attention pool which the model lacks.
        """
        return like(x, super().pool(x, pool_type))

    def _pos_embed(self, x: Any) -> Any:
        """Tokens (B, N, C) of patch_embed's patches x: class and register tokens before
        them, positions added. timm's own name for it, for a forward written out.

        ValueError: patches of another grid than the model's.
        """
        return like(x, with_positions(self._snapshot(), x))

    def _forward(
        self,
        now: _core.VisionTransformer,
        x: Any,
        output: int,
        attn_mask: Any = None,
        is_causal: bool = False,
        **kwargs: Any,
    ) -> Any:
        """_run of a snapshot, with the positions of the images' own grid."""
        pos_embed = None
        if now._options()["dynamic_img_size"]:
            x = _core.as_float32(x, "x")
            pos_embed = pos_embed_for(now, x, self._pos_embeds)
            kwargs["rope"] = rope_for(now, x, self._pos_embeds)
        return now._run(x, output, attn_mask, is_causal, pos_embed, **kwargs)

    def forward_intermediates(
        self,
        x: Any,
        indices: int | Sequence[int] | None = None,
        return_prefix_tokens: bool = False,
        norm: bool = False,
        stop_early: bool = False,
        output_fmt: str = "NCHW",
        intermediates_only: bool = False,
        output_dict: bool = False,
        attn_mask: Any = None,
        is_causal: bool = False,
    ) -> Any:
        """Outputs of chosen blocks, and the final features.

        indices: the last n blocks, these blocks, or all (None). norm: apply the final
        norm to each (with fc_norm there is none, as in timm). output_fmt: 'NCHW' for
        (B, C, rows, columns), 'NLC' for (B, patches, C). return_prefix_tokens: pairs
        (spatial, prefix), where there are any. stop_early: run no block after the last
        that is wanted. Gives (features (B, N, C), list), the list alone
        (intermediates_only), or a dict (output_dict) of 'image_intermediates',
        'image_intermediates_prefix' and 'image_features'.
        """
        check_format(output_fmt)
        now = self._snapshot()
        options = now._options()
        depth = options["depth"]
        taken, last = take_indices(depth, indices)
        images = _core.as_float32(x, "x")
        blocks = sorted(set(taken))
        output = _NOTHING if intermediates_only else _FEATURES
        final, arrays, _, _ = self._forward(
            now,
            images,
            output,
            attn_mask,
            is_causal,
            depth=last + 1 if stop_early or intermediates_only else depth,
            taps=[(i, int(bool(norm))) for i in blocks],
        )
        grid = None
        if output_fmt == "NCHW":
            grid = now._grid(images.shape[2], images.shape[3])
        answer = arrange(
            final,
            arrays,
            prefix_tokens_of(options),
            grid,
            return_prefix_tokens=return_prefix_tokens,
            intermediates_only=intermediates_only,
            output_dict=output_dict,
        )
        return like(x, answer)

    def profile(self, x: Any) -> dict[str, Any]:
        """Where one forward of x spends its time.

        Gives 'total' (seconds) and for each op 'seconds', 'flops' (of its matrix
        products) and 'calls'; and how often the outer loops ran: 'chunks' of the batch,
        'query_blocks' and 'key_blocks' of attention. Costs nothing when it is not asked
        for.
        """
        now = self._snapshot()
        profile: dict[str, Any] = self._forward(now, x, _LOGITS, profile=True)[3]
        return profile

    # -- changes --

    def reset_classifier(
        self,
        num_classes: SupportsIndex,
        global_pool: Pool | None = None,
        *,
        add_attn_pool: bool = False,
        seed: int | None = None,
    ) -> None:
        """New classifier of num_classes outputs (0: none), and another pool if given.

        The head is freshly initialised, as by weight_init=''. An attention pool is
        kept, bit for bit and as the same object, as long as the pool stays 'map' (or
        'prr'); another pool drops it. A pool that needs an attention pool the model
        lacks is refused, unless add_attn_pool=True makes a fresh one. Norms stay where
        they are. A call that raises changes nothing.

        TypeError: num_classes is not an integer, global_pool not a str. ValueError: a
        negative count, a pool that is unknown or not possible here.
        """
        bits = random_seed(seed)
        self._change(
            lambda model: model.reset_classifier(
                num_classes, global_pool, add_attn_pool=add_attn_pool, seed=bits
            ),
            fresh=self._heads,
        )

    def set_head(
        self,
        weight: Any,
        bias: Any = None,
        labels: Sequence[str] | None = None,
    ) -> None:
        """A classifier of these numbers, e.g. of a linear probe; the pool is kept.

        weight: (K, C) for K classes, as torch's and scikit-learn's ``coef_``; bias:
        (K,), zeros where None. labels: K names, which pretrained_cfg then has; None:
        it stays as it is. A call that raises changes nothing.

        ValueError: a shape or a number of labels that does not fit. TypeError: no
        array of floats, or labels that are not strings.
        """
        numbers = head_numbers(weight, bias, self.embed_dim)
        self._put_heads(dict.fromkeys(self._heads, numbers), labels)

    def _put_heads(
        self,
        numbers: Mapping[str, tuple[Float32, Float32]],
        labels: Sequence[str] | None,
    ) -> None:
        """Heads of these weights and biases, by their names."""
        count = len(numbers["head"][0])
        names = None if labels is None else label_names(labels, count)
        weights: dict[str, Float32] = {}
        for head, (weight, bias) in numbers.items():
            weights |= {f"{head}.weight": weight, f"{head}.bias": bias}

        def put(model: _core.VisionTransformer) -> None:
            model.reset_classifier(count, None)
            model._replace(None, weights)

        self._change(put, fresh=self._heads)
        if names is not None:
            cfg = {**self._pretrained_cfg, "num_classes": count, "label_names": names}
            cfg.pop("label_descriptions", None)
            self._pretrained_cfg = cfg

    def load_linear(
        self,
        coef_: Any,
        intercept_: Any = None,
        classes: Sequence[Any] | None = None,
        scaler: Any = None,
    ) -> None:
        """The head that scikit-learn has fitted on pooled features; the pool is kept.

        coef_: (K, C), a row for each class, or (1, C) or (C,) for two classes: then
        the head has two rows, 0 and coef_, so that softmax gives predict_proba of a
        LogisticRegression. intercept_: a number for each row; None: zeros. classes: a
        name for each class, which pretrained_cfg then has as text; None: it stays as
        it is. scaler: a fitted StandardScaler that stood before the classifier; its
        mean_ and scale_ are folded into the head, as far as with_mean and with_std
        say that it used them.

        Or coef_ is the fitted classifier itself (LogisticRegression, LinearSVC,
        RidgeClassifier, ...), alone or in a Pipeline behind a StandardScaler, and the
        rest comes from it. The largest logit is then what it predicts. All is computed
        in float64 and rounded once. A call that raises changes nothing.

        ValueError: a shape or a number of classes that does not fit, a classifier that
        is not fitted or not linear, numbers that are not finite in float32. TypeError:
        no numbers, no scaler, or an estimator beside other arguments.
        """
        self.set_head(*linear_head(coef_, intercept_, classes, scaler, self.embed_dim))

    def load_state_dict(
        self, state_dict: Mapping[str, Any], strict: bool = True
    ) -> IncompatibleKeys:
        """Takes the parameters of a mapping from timm's keys to arrays; atomic.

        strict: every key must be there and no other, but for the num_batches_tracked
        of ConvStem's BatchNorms, which may be there and is not read. Gives
        (missing_keys, unexpected_keys). Every parameter stays of the dtype that the
        model keeps it in: floats are rounded to it, int8 with its scale, NAME_scale,
        goes into a matrix of integers to the bit and into others as the numbers that it
        stands for.
        ValueError: keys (strict) or shapes that do not fit; TypeError: no mapping, or a
        dtype that is no float, as int8 without its scale. Then nothing has changed.
        """
        if not hasattr(state_dict, "keys") or not hasattr(state_dict, "__getitem__"):
            raise TypeError(
                f"state_dict must be a mapping, not {type(state_dict).__name__}"
            )

        def load(model: _core.VisionTransformer) -> IncompatibleKeys:
            expected = model.param_shapes()
            given = Given(state_dict)
            missing = [k for k in expected if k not in given]
            known = expected.keys() | given.scales() | counters(expected)
            unexpected = [k for k in given if k not in known]
            parts = []
            if missing:
                parts.append(f"missing keys: {some(map(repr, missing))}")
            if unexpected:
                named = some(repr(str(k)) for k in unexpected)
                parts.append(f"unexpected keys: {named}")
            if strict and parts:
                raise ValueError(f"state_dict does not fit; {'; '.join(parts)}")
            model._replace(None, given, untrained_of(state_dict))
            return IncompatibleKeys(missing, unexpected)

        return self._change(load)

    def set_input_size(
        self,
        img_size: int | tuple[int, int] | None = None,
        patch_size: int | tuple[int, int] | None = None,
    ) -> None:
        """Another image or patch size in pixels; embeddings resampled as in timm."""
        sizes = {}
        if img_size is not None:
            sizes["img_size"] = as_pair(img_size, "img_size")
        if patch_size is not None:
            sizes["patch_size"] = as_pair(patch_size, "patch_size")

        def resize(model: _core.VisionTransformer) -> None:
            options = model._options() | sizes
            weights = resized_weights(model, options)
            # What is resampled is as random as before.
            model._replace(options, weights, set(model.untrained()) & set(weights))

        self._change(resize)

    def prune_intermediate_layers(
        self,
        indices: int | Sequence[int] = 1,
        prune_norm: bool = False,
        prune_head: bool = True,
    ) -> list[int]:
        """Drops the blocks after the last of indices, and norm and head if wanted.

        Gives the indices that were kept. A dropped part that someone holds, as
        ``block = model.blocks[11]``, keeps its weights.
        """

        def shorten(model: _core.VisionTransformer) -> list[int]:
            taken, last = take_indices(model._options()["depth"], indices)
            prune(model, last + 1, prune_norm, prune_head)
            return taken

        return self._change(shorten)

    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """Nothing, for False. NotImplementedError for True: vitpool.train has
        checkpointing=True, of each pass."""
        if enable:
            raise NotImplementedError(
                "a model keeps nothing for gradients: vitpool.train.Trainer and "
                "gradients take checkpointing=True"
            )

    # -- files --

    def save_pretrained(
        self,
        save_directory: str | os.PathLike[str],
        *,
        label_names: Any = None,
        label_descriptions: Mapping[str, str] | None = None,
    ) -> None:
        """Writes config.json and model.safetensors: see vitpool.save_pretrained."""
        import vitpool

        vitpool.save_pretrained(
            self,
            save_directory,
            label_names=label_names,
            label_descriptions=label_descriptions,
        )
