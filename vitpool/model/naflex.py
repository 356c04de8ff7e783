# SPDX-License-Identifier: Apache-2.0
"""NaFlexVit: pictures of any shape, as images or as cut patches.

Source: timm.models.naflexvit (timm 1.0.31).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NoReturn, cast

from .. import _core
from ..config import (
    Dtype,
    NaFlexOptions,
    Pool,
    cfg_options,
    defaults_of,
    refuse_unknown,
)
from .attention import POOL_MAP, named_maps, wanted_maps
from .base import _FEATURES, _LOGITS, _NOTHING, PlainViT
from .intermediates import arrange, check_format, take_indices
from .naflex_positions import of_patch_size, positions_at, positions_on
from .parts import (
    Float32,
    NaFlexEmbeds,
    RotaryEmbeddingCat,
    RotaryEmbeddingDinoV3,
    RotaryEmbeddingMixed,
    prefix_tokens_of,
)
from .positions import kept_or_made
from .samples import Group, Samples, is_patches, patch_size_of
from .tensors import like

if TYPE_CHECKING:
    from typing_extensions import Unpack

# What stands in front of the blocks is one module, `embeds`, here.
_IN_EMBEDS = ("cls_token", "reg_token", "pos_embed", "pos_drop")


class NaFlexVit(PlainViT):
    """timm's NaFlexVit: a Vision Transformer of pictures of any size and shape.

    It takes images, of any height and width that patches fill, and batches of patches
    that were cut before, padded to one number of them: timm's dict of

    patches: (B, N, pixels) or (B, N, rows, columns, channels), the pixels of a patch in
        this order (patchify_channels_last);
    patch_coord: (B, N, 2) integers, (y, x) of each patch on its picture's grid;
    patch_valid: (B, N) bool, False for padding; None or missing: all are patches;
    attn_mask: as in VisionTransformer, of prefix tokens and patches; may be missing.

    Samples of one grid go through the model together and without their padding, which
    takes no part whatever attn_mask says: where an answer has rows for it, they are
    zeros. Patches need not fill their grid: each has the position of its coordinates.
    """

    __module__ = "vitpool.model"
    _family = "NaFlexVit"

    def __init__(
        self,
        cfg: Any = None,
        in_chans: int = 3,
        num_classes: int = 1000,
        img_size: int | tuple[int, int] | None = None,
        *,
        device: object = None,
        dtype: Dtype | None = None,
        seed: int | None = None,
        weights: Mapping[str, Any] | None = None,
        **options: Unpack[NaFlexOptions],
    ) -> None:
        """A model of timm's options, with random weights or with `weights`.

        cfg: a NaFlexVitCfg, timm's or vitpool's, or a mapping of such fields; None:
            the defaults. options: fields of it, which count more.
        in_chans: channels of an image.
        num_classes: outputs of the head, K; 0: no head.
        img_size: height and width of an image in pixels, or one number for both: the
            grid of positions where pos_embed_grid_size is None. Images may have any.
        device: None or 'cpu'.
        dtype: 'float32', 'bfloat16', 'float16' or 'int8', as for `to`; None: float32.
        seed: of random weights, below 2**64; None: a new one each time. Distributions
            are timm's, the bit stream is not torch's.
        weights: a mapping of exactly the state dict's keys to arrays, from which the
            model is built in place of random numbers.

        Of the options those that VisionTransformer has not, or has otherwise:

        class_token, global_pool, fix_init: their defaults are False, 'map' and True.
        scale_attn_inner_norm: VisionTransformer's scale_attn_norm.
        pos_embed: 'learned': a position for each place of a grid; 'factorized': one for
            each of its rows and one for each of its columns; 'none' or ''.
        pos_embed_grid_size: rows and columns of that grid. For other grids positions
            are resampled: pos_embed_interp_mode, 'bicubic' or 'bilinear', with
            pos_embed_antialias and pos_embed_align_corners, as torch's interpolate
            takes them; factorized ones always linearly.
        pos_embed_ar_preserving: resampled to a square of the longer side, then cut.
        pos_embed_use_grid_sample: cut patches get their positions by torch's
            grid_sample, which knows no antialiasing.
        dynamic_img_pad: is an image padded to whole patches?
        patchify_channels_last: are the pixels of a patch (rows, columns, channels), or
            (channels, rows, columns)?
        embed_proj_type: 'linear', or 'conv', which takes images alone.
        enable_patch_interpolator: may patches have another size? Then their shape is
            (B, N, rows, columns, channels), and the embedding is resampled for them.
        attn_pool_num_heads, attn_pool_mlp_ratio: of the pool 'map'; None: num_heads and
            mlp_ratio.
        rope_type: 'axial', 'mixed' or 'dinov3': queries and keys are rotated by their
            patches' places; '' or 'none'. rope_temperature, rope_grid_offset,
            rope_grid_indexing, rope_rotate_half and rope_ref_feat_shape are Eva's.
        attn_type, swiglu_mlp, swiglu_align_to, qkv_fused, num_kv_heads,
            attn_only_layer_scale: Eva's; with any of them, or a rope_type, the blocks
            are Eva's. num_kv_heads is the same in all blocks.
        use_key_only_attn_mask: no effect: padding takes no part.

        TypeError: an unknown option or a wrong type. ValueError: a wrong value, or one
        that is timm's and not computed here: attn_gated, rope_type 'mrope'.
        """
        given = {**defaults_of(self._family), **cfg_options(cfg), **options}
        given |= {"in_chans": in_chans, "num_classes": num_classes}
        given["img_size"] = img_size
        refuse_unknown(given, family=self._family)
        own = {"device": device, "dtype": dtype, "seed": seed, "weights": weights}
        self._build(given | own)

    # -- forward --

    def forward(  # type: ignore[override] # timm's class has another order, too
        self,
        x: Any,
        patch_coord: Any = None,
        patch_valid: Any = None,
        attn_mask: Any = None,
        is_causal: bool = False,
        return_attn: Sequence[int | str] | None = None,
    ) -> Any:
        """Logits (B, K) of images x (B, in_chans, height, width), of patches x with
        patch_coord, or of a dict of patches: see the class.

        Without a head pooled features (B, C); without a pool the same for each token.
        attn_mask: bool (False: not seen) or float (added to the scores), broadcast to
        (B, H, N, N). is_causal: no token sees those behind it. return_attn: blocks by
        index and 'attn_pool'; then gives (logits, {key: weights (B, H, N, N)}); the
        'map' pool's are (B, H, 1, patches).

        ValueError: a shape that does not fit, patches without patch_coord, a sample
        without a patch. TypeError: no array of floats, or coordinates that are not
        integers.
        """
        now = self._snapshot()
        keys, maps = wanted_maps(now._options(), return_attn or ())
        if is_patches(x, patch_coord):
            given = x, patch_coord, patch_valid, attn_mask, is_causal
            _, out, _, arrays = self._run_patches(now, _LOGITS, *given, maps=maps)
        else:
            mask = attn_mask, is_causal
            out, _, arrays, _ = self._forward(now, x, _LOGITS, *mask, maps=maps)
        if return_attn is None:
            return like(_first(x), out)
        return like(_first(x), (out, named_maps(now, keys, maps, arrays)))

    def __call__(  # type: ignore[override]
        self,
        x: Any,
        patch_coord: Any = None,
        patch_valid: Any = None,
        attn_mask: Any = None,
        is_causal: bool = False,
        return_attn: Sequence[int | str] | None = None,
    ) -> Any:
        """The same as forward."""
        given = patch_coord, patch_valid, attn_mask, is_causal, return_attn
        return self.forward(x, *given)

    def forward_features(  # type: ignore[override]
        self,
        patches: Any,
        patch_coord: Any = None,
        patch_valid: Any = None,
        attn_mask: Any = None,
        is_causal: bool = False,
    ) -> Any:
        """Tokens (B, N, C) after the last block and `norm`, of images.

        Of patches, or a dict of them: a dict of 'patches', the tokens, and
        'patch_valid' (B, patches) bool, which forward_head takes.
        """
        now = self._snapshot()
        if not is_patches(patches, patch_coord):
            mask = attn_mask, is_causal
            return like(patches, self._forward(now, patches, _FEATURES, *mask)[0])
        given = patches, patch_coord, patch_valid, attn_mask, is_causal
        samples, tokens, _, _ = self._run_patches(now, _FEATURES, *given)
        answer = {"patches": tokens, "patch_valid": samples.valid}
        return like(_first(patches), answer)

    def forward_head(
        self, patches: Any, pre_logits: bool = False, patch_valid: Any = None
    ) -> Any:
        """Logits (B, K) of tokens (B, N, C); pre_logits: the pooled features (B, C).

        patch_valid: (B, patches) bool, False for padding, which pools leave out.
        """
        if patch_valid is None:
            return super().forward_head(patches, pre_logits)
        now = self._snapshot()
        return _of_valid(
            now, patches, patch_valid, lambda x: now.forward_head(x, pre_logits)
        )

    def pool(
        self, x: Any, pool_type: Pool | None = None, patch_valid: Any = None
    ) -> Any:
        """Features (B, C) of tokens x (B, N, C); tokens as they are without a pool.

        pool_type: another pool than the model's. patch_valid: (B, patches) bool, False
        for padding, which is left out. ValueError: a pool that is unknown, or that
        needs an attention pool which the model lacks.
        """
        if patch_valid is None:
            return super().pool(x, pool_type)
        now = self._snapshot()
        return _of_valid(now, x, patch_valid, lambda rows: now.pool(rows, pool_type))

    def forward_intermediates(  # type: ignore[override]
        self,
        x: Any,
        indices: int | Sequence[int] | None = None,
        return_prefix_tokens: bool = False,
        norm: bool = False,
        stop_early: bool = False,
        output_fmt: str = "NCHW",
        intermediates_only: bool = False,
        output_dict: bool = False,
        patch_coord: Any = None,
        patch_valid: Any = None,
        attn_mask: Any = None,
        is_causal: bool = False,
    ) -> Any:
        """Outputs of chosen blocks, and the final features: see VisionTransformer.

        Of patches, output_fmt is 'NLC', since their grids differ, and a dict
        (output_dict) has 'patch_valid' as well.
        """
        if not is_patches(x, patch_coord):
            return super().forward_intermediates(
                x,
                indices,
                return_prefix_tokens,
                norm,
                stop_early,
                output_fmt,
                intermediates_only,
                output_dict,
                attn_mask,
                is_causal,
            )
        check_format(output_fmt)
        if output_fmt == "NCHW":
            raise ValueError(
                "output_fmt must be 'NLC' for patches: the samples' grids differ"
            )
        now = self._snapshot()
        options = now._options()
        depth = options["depth"]
        taken, last = take_indices(depth, indices)
        samples, final, arrays, _ = self._run_patches(
            now,
            _NOTHING if intermediates_only else _FEATURES,
            x,
            patch_coord,
            patch_valid,
            attn_mask,
            is_causal,
            depth=last + 1 if stop_early or intermediates_only else depth,
            taps=[(i, int(bool(norm))) for i in sorted(set(taken))],
        )
        answer = arrange(
            final,
            arrays,
            prefix_tokens_of(options),
            None,
            return_prefix_tokens=return_prefix_tokens,
            intermediates_only=intermediates_only,
            output_dict=output_dict,
        )
        if output_dict:
            answer["patch_valid"] = samples.valid
        return like(_first(x), answer)

    def preprocess(
        self, images: Any, *, max_seq_len: int | None = None, **kwargs: Any
    ) -> Any:
        """Pictures to a batch (B, in_chans, height, width) for this model, all of one
        size; or with max_seq_len to a dict of patches, each picture in its own shape
        and resized to at most so many.

        images: paths, bytes, open files, PIL images, uint8 arrays, or a folder. See
        vitpool.transforms.preprocess.
        """
        return super().preprocess(images, max_seq_len=max_seq_len, **kwargs)

    def profile(self, x: Any) -> dict[str, Any]:
        """Where one forward of images x spends its time: see VisionTransformer."""
        if isinstance(x, Mapping):
            raise TypeError("profile takes images, not a dict of patches")
        return super().profile(x)

    def _run_patches(
        self,
        now: _core.VisionTransformer,
        output: int,
        x: Any,
        patch_coord: Any,
        patch_valid: Any,
        attn_mask: Any,
        is_causal: bool,
        *,
        depth: int = -1,
        taps: Sequence[tuple[int, int]] = (),
        maps: Sequence[tuple[int, int]] = (),
    ) -> tuple[Samples, Any, list[Any], list[Any]]:
        """_run of a batch of patches, group by group: the batch, and its output, taps
        and maps, in which what is padding is zero."""
        size, model = patch_size_of(now._options(), x), now
        if size != now._options()["patch_size"] and min(size) > 0:
            model = kept_or_made(
                self._pos_embeds, now, ("size", size), lambda: of_patch_size(now, size)
            )
        given = x, patch_coord, patch_valid, attn_mask
        samples = Samples.of_patches(model._options(), *given)
        out = None
        tapped: list[Any] = [None] * len(taps)
        mapped: list[Any] = [None] * len(maps)
        for group in samples.groups:
            part, tap_parts, map_parts, _ = model._run(
                samples.patches_of(group),
                output,
                samples.mask_of(group),
                is_causal,
                self._positions_of(now, group),
                depth,
                taps,
                maps,
                rope=self._rope_of(now, group),
                patches=True,
            )
            if part is not None:
                out = samples.put(group, part, out)
            for i, tap in enumerate(tap_parts):
                tapped[i] = samples.put(group, tap, tapped[i])
            for i, weights in enumerate(map_parts):
                pool = maps[i][0] == POOL_MAP
                mapped[i] = samples.put_weights(group, weights, mapped[i], pool)
        return samples, out, tapped, mapped

    def _positions_of(
        self, now: _core.VisionTransformer, group: Group
    ) -> Float32 | None:
        """The positions of a group's patches."""
        options, grid = now._options(), group.grid
        if not options["pos_embed"]:
            return None
        if group.coord is not None:
            return positions_at(now, grid, group.coord)
        what = "cut" if options["pos_grid_sample"] else "pos_embed"
        return kept_or_made(
            self._pos_embeds, now, (what, grid), lambda: positions_on(now, grid, True)
        )

    def _rope_of(self, now: _core.VisionTransformer, group: Group) -> Float32 | None:
        """The rotary table of a group's patches; None: there is no rope.

        ValueError: patches far apart, whose grid's table would be too large.
        """
        if now._options()["rope"] == "none":
            return None
        height, width = group.grid
        if group.coord is not None and height * width > 1 << 20:
            raise ValueError(
                f"patch_coord spans a grid of {height} x {width}: with rope it may "
                f"have up to {1 << 20} places"
            )
        table = kept_or_made(
            self._pos_embeds, now, ("rope", group.grid), lambda: now._rope(*group.grid)
        )
        if group.coord is not None:
            table = table[..., group.coord[:, 0] * width + group.coord[:, 1], :]
        return table

    # -- what timm's class has otherwise --

    @property
    def embeds(self) -> NaFlexEmbeds:
        """What makes tokens of pictures: proj, positions, class and register tokens."""
        return cast("NaFlexEmbeds", self._part("embeds"))

    @property
    def rope(
        self,
    ) -> RotaryEmbeddingCat | RotaryEmbeddingMixed | RotaryEmbeddingDinoV3 | None:
        """The rotary position embedding, or None."""
        return cast("RotaryEmbeddingCat | None", self._part_or_none("rope"))

    def no_weight_decay(self) -> set[str]:
        """Parameters that training should not decay."""
        names = {"embeds.pos_embed", "embeds.cls_token", "embeds.reg_token"}
        mixed = self._options()["rope"] == "mixed"
        return names | ({"rope.freqs"} if mixed else set())

    def group_matcher(self, coarse: bool = False) -> dict[str, Any]:
        """Patterns that sort parameters into stem and blocks, for layer-wise rates."""
        return {
            "stem": r"^embeds",
            "blocks": [(r"^blocks\.(\d+)", None), (r"^norm", (99999,))],
        }

    def get_patch_size(self) -> tuple[int, int]:
        """(height, width) of a patch in pixels."""
        size: tuple[int, int] = self._options()["patch_size"]
        return size

    @property
    def has_class_token(self) -> bool:
        """Is there a class token?"""
        return bool(self._options()["class_token"])

    @property
    def num_reg_tokens(self) -> int:
        """Register tokens."""
        return int(self._options()["reg_tokens"])


def _first(x: Any) -> Any:
    """What says whether the answer is of tensors."""
    return x["patches"] if isinstance(x, Mapping) and "patches" in x else x


def _of_valid(
    now: _core.VisionTransformer,
    x: Any,
    patch_valid: Any,
    compute: Callable[[Float32], Float32],
) -> Any:
    """What compute makes of the tokens (B, N, C) without the padding's."""
    tokens = _core.as_float32(x, "patches")
    samples = Samples.of_tokens(now._options(), tokens, patch_valid)
    out: Float32 | None = None
    for group in samples.groups:
        part = compute(samples.tokens_in(group, tokens))
        out = samples.put(group, part, out)
    return like(x, out)


def _moved(name: str) -> property:
    """What other classes have under this name, and this one in `embeds`."""

    def read(self: NaFlexVit) -> NoReturn:
        raise AttributeError(
            f"NaFlexVit has no {name!r}: embeds.{name} is in its place"
        )

    return property(read)


for _name in _IN_EMBEDS:
    setattr(NaFlexVit, _name, _moved(_name))
