"""VisionTransformer: timm's interface on the C core.

Source: timm.models.vision_transformer.VisionTransformer (timm 1.0.31). Shapes: B
images, N tokens (class and register tokens, then patches), C embed_dim, H heads, K
num_classes. Inputs are anything that NumPy, ``__dlpack__`` (CPU) or ``__array__`` can
give, float32 or converted from float16, float64, bfloat16; outputs are new float32
arrays.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from typing import (
    TYPE_CHECKING,
    Any,
    Literal,
    NamedTuple,
    SupportsIndex,
    overload,
)

import numpy as np
from numpy.typing import NDArray

from . import _core
from .config import DEFAULTS, INIT_MODES, arguments_of, as_int, as_pair, resolve

if TYPE_CHECKING:
    from typing_extensions import Self

Float32 = NDArray[np.float32]

# What _core's _run gives out.
_NOTHING, _FEATURES, _PRE_LOGITS, _LOGITS = range(4)
_POOL_MAP = -1
# Resampled position embeddings kept, one for each size of image.
_MOST_GRIDS = 16


class IncompatibleKeys(NamedTuple):
    """What load_state_dict found, as torch names it."""

    missing_keys: list[str]
    unexpected_keys: list[str]


class Module:
    """A part of a model by its path: parameters and parts as attributes.

    ``model.blocks[0].attn.qkv.weight`` is a new read-only float32 array.
    """

    def __init__(self, model: _core.VisionTransformer, path: str) -> None:
        self._model = model
        self._path = path

    def _names(self) -> list[str]:
        start = f"{self._path}."
        return [
            n[len(start) :] for n in self._model.param_shapes() if n.startswith(start)
        ]

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        names = self._names()
        if name in names:
            return self._model.get_parameter(f"{self._path}.{name}")
        if any(n.startswith(f"{name}.") for n in names):
            return Module(self._model, f"{self._path}.{name}")
        parts = ", ".join(dict.fromkeys(n.partition(".")[0] for n in names))
        raise AttributeError(
            f"{self._path} has no {name!r}; it has {parts or 'no parameters'}"
        )

    def __len__(self) -> int:
        indices = {n.partition(".")[0] for n in self._names()}
        return len(indices) if all(i.isdigit() for i in indices) else 0

    def __bool__(self) -> bool:
        return True

    def __getitem__(self, index: int) -> Module:
        count = len(self)
        number = index.__index__()
        if not -count <= number < count:
            raise IndexError(
                f"{self._path} has {count} items, not one of index {number}"
            )
        return Module(self._model, f"{self._path}.{number % count}")

    def __iter__(self) -> Iterator[Module]:
        return (self[i] for i in range(len(self)))

    def __dir__(self) -> list[str]:
        return sorted({n.partition(".")[0] for n in self._names()})

    def named_parameters(self) -> Iterator[tuple[str, Float32]]:
        """(name within this part, new read-only array), in timm's order."""
        for name in self._names():
            yield name, self._model.get_parameter(f"{self._path}.{name}")

    def __repr__(self) -> str:
        shapes = self._model.param_shapes()
        rows = [f"  {n}: {shapes[f'{self._path}.{n}']}" for n in self._names()]
        if not rows:
            return f"{self._path}: Identity()"
        return "\n".join([f"{self._path}:", *rows])


class FcNorm(Module):
    """The norm after the pool, which can be called on pooled features."""

    def __call__(self, x: Any) -> Float32:
        """fc_norm of x, shape (B, C); x itself, as float32, where there is none."""
        bare = _share(self._model)
        bare.reset_classifier(0, "")
        x = np.asarray(x)
        if x.ndim != 2:
            raise ValueError(f"x must have shape (batch, embed_dim), not {x.shape}")
        return bare.forward_head(x[:, None, :])[:, 0]


class PatchEmbed(Module):
    """The patch embedding, with the sizes that timm's has."""

    @property
    def img_size(self) -> tuple[int, int]:
        """(height, width) in pixels."""
        size: tuple[int, int] = self._model._options()["img_size"]
        return size

    @property
    def patch_size(self) -> tuple[int, int]:
        """(height, width) in pixels."""
        size: tuple[int, int] = self._model._options()["patch_size"]
        return size

    @property
    def grid_size(self) -> tuple[int, int]:
        """(rows, columns) of patches."""
        (h, w), (ph, pw) = self.img_size, self.patch_size
        return h // ph, w // pw

    @property
    def num_patches(self) -> int:
        """Rows times columns."""
        rows, columns = self.grid_size
        return rows * columns


def _share(model: _core.VisionTransformer) -> _core.VisionTransformer:
    """The core of `model` as it is now: a model of its own that shares the weights."""
    copy = _core.VisionTransformer.__new__(_core.VisionTransformer)
    copy._adopt(model)
    return copy


def _take_indices(
    count: int, indices: int | Sequence[int] | None
) -> tuple[list[int], int]:
    """Which blocks, and the last: timm.models._features.feature_take_indices."""
    if indices is None:
        taken = list(range(count))
    elif isinstance(indices, (tuple, list)):
        taken = []
        for i in indices:
            if isinstance(i, bool) or not hasattr(i, "__index__"):
                raise TypeError(f"indices must be integers, not {type(i).__name__}")
            number = i.__index__()
            if not -count <= number < count:
                raise ValueError(
                    f"indices must be from {-count} to {count - 1}, not {number}"
                )
            taken.append(number % count)
    else:
        last = as_int(indices, "indices", 1)
        if last > count:
            raise ValueError(f"indices must be from 1 to {count} blocks, not {last}")
        taken = list(range(count - last, count))
    if not taken:
        raise ValueError("indices must name at least one block")
    return taken, max(taken)


class VisionTransformer(_core.VisionTransformer):
    """timm's VisionTransformer with timm's constructor names and defaults.

    norm_layer, embed_norm_layer: 'layernorm', 'rmsnorm' or (name, eps); act_layer:
    'gelu', 'gelu_tanh', 'quick_gelu', 'silu', 'relu'; mlp_layer: 'Mlp', 'GluMlp',
    'SwiGLUPacked', 'SwiGLU'; block_fn: 'Block', 'ResPostBlock', 'ParallelScalingBlock',
    'ParallelThingsBlock', 'DiffParallelScalingBlock'; attn_layer: 'attn', 'diff'. Drop
    rates are accepted and do nothing: this is inference.

    dtype: 'float32'. seed: of the fresh weights (None: a new one each time);
    distributions are timm's, the bit stream is not torch's. weights: a mapping of
    exactly the state dict's keys to arrays, from which the model is built instead, one
    tensor at a time.

    TypeError: an unknown option or a wrong type. ValueError: a wrong value.
    """

    def __init__(
        self,
        img_size: int | tuple[int, int] = 224,
        patch_size: int | tuple[int, int] = 16,
        in_chans: int = 3,
        num_classes: int = 1000,
        global_pool: str = "token",
        *args: Any,
        dtype: str = "float32",
        seed: int | None = None,
        weights: Mapping[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        names = list(DEFAULTS)
        given = [img_size, patch_size, in_chans, num_classes, global_pool, *args]
        if len(given) > len(names):
            raise TypeError(
                f"at most {len(names)} positional arguments, not {len(given)}"
            )
        arguments = dict(zip(names, given, strict=False))
        twice = [k for k in kwargs if k in arguments]
        if twice:
            raise TypeError(f"{twice[0]} is given twice")
        arguments.update(kwargs)
        _check_dtype(dtype)
        mode = arguments.get("weight_init", "")
        if not isinstance(mode, str):
            raise TypeError(f"weight_init must be a str, not {type(mode).__name__}")
        if mode not in INIT_MODES:
            raise ValueError(
                f"weight_init must be one of {', '.join(map(repr, INIT_MODES))}, "
                f"not {mode!r}"
            )
        options = resolve(arguments)
        if weights is not None and not hasattr(weights, "keys"):
            raise TypeError(f"weights must be a mapping, not {type(weights).__name__}")
        super().__init__(
            options,
            weights=weights,
            seed=_seed(seed),
            weight_init="reset" if mode == "skip" else mode,
            fix_init=bool(arguments.get("fix_init", False)),
        )
        if weights is not None:
            extra = sorted(set(weights.keys()) - set(self.param_shapes()))
            if extra:
                raise ValueError(f"weights has unexpected keys: {_some(extra)}")
        self._init_state()

    def _init_state(self) -> None:
        self._pretrained_cfg: dict[str, Any] = {}
        self._head = Module(self, "head")
        self._pool_module: tuple[int, Module] | None = None
        self._pos_embeds: dict[tuple[int, tuple[int, int]], Float32] = {}

    # -- forward --

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
        {key: weights (B, H, N, N)}); the 'map' pool's are (B, H, 1, patches).
        """
        if return_attn is None:
            return self._forward(x, _LOGITS, attn_mask, is_causal)[0]
        keys, maps = self._maps(return_attn)
        out, _, arrays, _ = self._forward(x, _LOGITS, attn_mask, is_causal, maps=maps)
        return out, self._named_maps(keys, maps, arrays)

    def forward_features(
        self, x: Any, attn_mask: Any = None, is_causal: bool = False
    ) -> Float32:
        """Tokens (B, N, C) after the last block and `norm`, of images x."""
        features: Float32 = self._forward(x, _FEATURES, attn_mask, is_causal)[0]
        return features

    def _forward(
        self,
        x: Any,
        output: int,
        attn_mask: Any = None,
        is_causal: bool = False,
        **kwargs: Any,
    ) -> Any:
        """_core's _run, with the position embedding of the images' own grid."""
        if not self._dynamic():
            return self._run(x, output, attn_mask, is_causal, **kwargs)
        if not hasattr(x, "shape"):
            x = np.asarray(x)
        while True:  # again where another thread has changed the model meanwhile
            serial = self._serial
            pos_embed = self._pos_embed_for(x, serial)
            result = self._run(
                x,
                output,
                attn_mask,
                is_causal,
                pos_embed=pos_embed,
                serial=serial,
                **kwargs,
            )
            if result is not None:
                return result

    def _dynamic(self) -> bool:
        return bool(self._options()["dynamic_img_size"])

    def _pos_embed_for(self, x: Any, serial: int) -> Float32 | None:
        """The position embedding on x's grid (cached); None: the model's own."""
        if len(x.shape) != 4 or self.pos_embed is None:
            return None
        grid = self._grid(int(x.shape[2]), int(x.shape[3]))
        if grid == self.patch_embed.grid_size:
            return None
        key = (serial, grid)
        resampled = self._pos_embeds.get(key)
        if resampled is None:
            from .resample import resample_abs_pos_embed

            prefix = 0 if self._options()["no_embed_class"] else self.num_prefix_tokens
            resampled = resample_abs_pos_embed(
                self.pos_embed,
                new_size=grid,
                old_size=self.patch_embed.grid_size,
                num_prefix_tokens=prefix,
            )
            # Other threads do this too: nothing that one of them drops is used again.
            kept = [k for k in list(self._pos_embeds) if k[0] == serial]
            for old in set(self._pos_embeds) - set(kept[1 - _MOST_GRIDS :]):
                self._pos_embeds.pop(old, None)
            self._pos_embeds[key] = resampled
        return resampled

    def _maps(
        self, wanted: Sequence[int | str]
    ) -> tuple[list[int | str], list[tuple[int, int]]]:
        """return_attn as _run takes it: its keys, and (block, which) pairs."""
        if isinstance(wanted, (str, bytes)) or not hasattr(wanted, "__iter__"):
            raise TypeError(
                "return_attn must be a sequence of block indices and 'attn_pool', "
                f"not {wanted!r}"
            )
        depth = self._options()["depth"]
        both = self._options()["block_fn"] == "ParallelThingsBlock"
        keys: list[int | str] = []
        maps = []
        for key in wanted:
            if key == "attn_pool":
                keys.append(key)
                maps.append((_POOL_MAP, 0))
                continue
            if isinstance(key, str):
                raise ValueError(
                    "return_attn must name blocks by index, or 'attn_pool', "
                    f"not {key!r}"
                )
            if isinstance(key, bool) or not hasattr(key, "__index__"):
                raise TypeError(
                    "return_attn must name blocks by index, or 'attn_pool', "
                    f"not {key!r}"
                )
            block = key.__index__()
            if not -depth <= block < depth:
                raise ValueError(
                    f"return_attn must name blocks from {-depth} to {depth - 1}, "
                    f"not {block}"
                )
            for which in range(2 if both else 1):
                keys.append(block)
                maps.append((block % depth, which))
        return keys, maps

    def _named_maps(
        self,
        keys: list[int | str],
        maps: list[tuple[int, int]],
        arrays: list[Float32],
    ) -> dict[int | str, Float32]:
        """By key; the parallel attentions of one block one after the other as heads, a
        differential attention's pair as its difference."""
        named: dict[int | str, Float32] = {}
        for key, (block, which), weights in zip(keys, maps, arrays, strict=True):
            if block != _POOL_MAP and weights.shape[1] != self._options()["num_heads"]:
                b, h2, n, _ = weights.shape
                pair = weights.reshape(b, h2 // 2, 2, n, n)
                weights = pair[:, :, 0] - self._lambda(block, which) * pair[:, :, 1]
            if key in named and which:
                weights = np.concatenate([named[key], weights], axis=1)
            named[key] = weights
        return named

    def _lambda(self, block: int, which: int) -> np.float32:
        """timm.layers.DiffAttention's lambda of a block."""
        path = f"blocks.{block}."
        if f"{path}lambda_q1" not in self.param_shapes():
            both = f"{path}attns.0.attn.lambda_q1" in self.param_shapes()
            path += f"attns.{which}.attn." if both else "attn."
        q1, k1, q2, k2 = (
            self.get_parameter(f"{path}lambda_{n}").astype(np.float64)
            for n in ("q1", "k1", "q2", "k2")
        )
        init = 0.8 - 0.6 * np.exp(-0.3 * block)
        return np.float32(np.exp(q1 @ k1) - np.exp(q2 @ k2) + init)

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
        (spatial, prefix). stop_early: run no block after the last that is wanted.
        Gives (features (B, N, C), list), the list alone (intermediates_only), or a dict
        (output_dict) of 'image_intermediates', 'image_intermediates_prefix' and
        'image_features'.
        """
        if not isinstance(output_fmt, str):
            raise TypeError(
                f"output_fmt must be a str, not {type(output_fmt).__name__}"
            )
        if output_fmt not in ("NCHW", "NLC"):
            raise ValueError(f"output_fmt must be 'NCHW' or 'NLC', not {output_fmt!r}")
        depth = self._options()["depth"]
        taken, last = _take_indices(depth, indices)
        if not hasattr(x, "shape"):
            x = np.asarray(x)
        blocks = sorted(set(taken))
        output = _NOTHING if intermediates_only else _FEATURES
        final, arrays, _, _ = self._forward(
            x,
            output,
            attn_mask,
            is_causal,
            depth=last + 1 if stop_early or intermediates_only else depth,
            taps=[(i, int(bool(norm))) for i in blocks],
        )
        prefix_count = self.num_prefix_tokens
        prefix = [y[:, :prefix_count] for y in arrays] if prefix_count else None
        spatial = [y[:, prefix_count:] for y in arrays]
        if output_fmt == "NCHW":
            grid = self._grid(int(x.shape[2]), int(x.shape[3]))
            spatial = [
                np.ascontiguousarray(
                    y.reshape(len(y), *grid, y.shape[-1]).transpose(0, 3, 1, 2)
                )
                for y in spatial
            ]
        if output_dict:
            result: dict[str, Any] = {"image_intermediates": spatial}
            if prefix is not None and return_prefix_tokens:
                result["image_intermediates_prefix"] = prefix
            if not intermediates_only:
                result["image_features"] = final
            return result
        intermediates: list[Any] = spatial
        if return_prefix_tokens and prefix is not None:
            intermediates = list(zip(spatial, prefix, strict=True))
        return intermediates if intermediates_only else (final, intermediates)

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

    def profile(self, x: Any) -> dict[str, Any]:
        """Where one forward of x spends its time.

        Gives 'total' (seconds) and for each op 'seconds', 'flops' (of its matrix
        products) and 'calls'. Costs nothing when it is not asked for.
        """
        profile: dict[str, Any] = self._forward(x, _LOGITS, profile=True)[3]
        return profile

    def preprocess(self, images: Any, **kwargs: Any) -> Float32:
        """Pictures to a batch (B, in_chans, height, width) for this model.

        images: paths, bytes, PIL images or uint8 arrays. See vitpool.transforms.
        """
        from .transforms import preprocess

        batch: Float32 = preprocess(images, self, **kwargs)
        return batch

    # -- changes --

    def reset_classifier(
        self,
        num_classes: SupportsIndex,
        global_pool: str | None = None,
        *,
        add_attn_pool: bool = False,
        seed: int | None = None,
    ) -> None:
        """New classifier of num_classes outputs (0: none), and another pool if given.

        The head is freshly initialised. An attention pool is kept, bit for bit and as
        the same object, as long as the pool stays 'map' (or 'prr'); another pool drops
        it. A pool that needs an attention pool the model lacks is refused, unless
        add_attn_pool=True makes a fresh one. Norms stay where they are. A call that
        raises changes nothing.

        TypeError: num_classes is not an integer, global_pool not a str. ValueError: a
        negative count, a pool that is unknown or not possible here.
        """
        held = self._pool_module
        before = _share(self)
        super().reset_classifier(
            num_classes,
            global_pool,
            add_attn_pool=add_attn_pool,
            seed=_seed(seed),
        )
        # Who still holds what is gone from the model keeps its weights.
        self._head._model, self._head = before, Module(self, "head")
        if held is not None and held[0] != self._pool_serial:
            held[1]._model = before
            self._pool_module = None

    def load_state_dict(
        self, state_dict: Mapping[str, Any], strict: bool = True
    ) -> IncompatibleKeys:
        """Takes the parameters of a mapping from timm's keys to arrays; atomic.

        strict: every key must be there and no other. Gives (missing_keys,
        unexpected_keys). ValueError: keys (strict) or shapes that do not fit;
        TypeError: no mapping, or a dtype that is no float. Then nothing has changed.
        """
        if not hasattr(state_dict, "keys") or not hasattr(state_dict, "__getitem__"):
            raise TypeError(
                f"state_dict must be a mapping, not {type(state_dict).__name__}"
            )
        expected = self.param_shapes()
        keys = list(state_dict.keys())
        missing = [k for k in expected if k not in state_dict]
        unexpected = [k for k in keys if k not in expected]
        if strict and (missing or unexpected):
            parts = []
            if missing:
                parts.append(f"missing keys: {_some(missing)}")
            if unexpected:
                parts.append(f"unexpected keys: {_some(map(str, unexpected))}")
            raise ValueError(f"state_dict does not fit; {'; '.join(parts)}")
        self._replace(None, state_dict)
        return IncompatibleKeys(missing, unexpected)

    def set_input_size(
        self,
        img_size: int | tuple[int, int] | None = None,
        patch_size: int | tuple[int, int] | None = None,
    ) -> None:
        """Another image or patch size in pixels; embeddings resampled as in timm."""
        from .resample import resample_abs_pos_embed, resample_patch_embed

        serial = self._serial
        options = self._options()
        old_grid = self.patch_embed.grid_size
        weights: dict[str, Any] = {}
        if img_size is not None:
            options["img_size"] = as_pair(img_size, "img_size")
        if (
            patch_size is not None
            and as_pair(patch_size, "patch_size") != (options["patch_size"])
        ):
            options["patch_size"] = as_pair(patch_size, "patch_size")
            weights["patch_embed.proj.weight"] = resample_patch_embed(
                self.get_parameter("patch_embed.proj.weight"), options["patch_size"]
            )
        (h, w), (ph, pw) = options["img_size"], options["patch_size"]
        grid = (h // ph, w // pw)
        if min(grid) < 1:
            raise ValueError(
                f"img_size {(h, w)} must be at least patch_size {(ph, pw)}"
            )
        if options["pos_embed"] and grid != old_grid:
            weights["pos_embed"] = resample_abs_pos_embed(
                self.get_parameter("pos_embed"),
                new_size=grid,
                old_size=old_grid,
                num_prefix_tokens=0
                if options["no_embed_class"]
                else self.num_prefix_tokens,
            )
        if not self._replace(options, weights, serial):
            # Another thread has changed the model meanwhile: again, on what it is now.
            self.set_input_size(img_size, patch_size)

    def prune_intermediate_layers(
        self,
        indices: int | Sequence[int] = 1,
        prune_norm: bool = False,
        prune_head: bool = True,
    ) -> list[int]:
        """Drops the blocks after the last of indices, and norm and head if wanted.

        Gives the indices that were kept.
        """
        serial = self._serial
        options = self._options()
        taken, last = _take_indices(options["depth"], indices)
        options["depth"] = last + 1
        if prune_norm:
            options["norm"] = False
        if prune_head:
            options.update(fc_norm=False, num_classes=0, global_pool="")
        if not self._replace(options, {}, serial):  # changed by another thread: again
            return self.prune_intermediate_layers(indices, prune_norm, prune_head)
        return taken

    # -- parameters --

    def state_dict(self) -> dict[str, Float32]:
        """Every parameter by timm's key, as new float32 arrays."""
        now = _share(self)
        arrays = {name: now.get_parameter(name) for name in now.param_shapes()}
        for array in arrays.values():
            array.flags.writeable = True  # a copy of the caller's own
        return arrays

    def named_parameters(self) -> Iterator[tuple[str, Float32]]:
        """(name, new read-only array) of every parameter, in timm's order."""
        now = _share(self)
        for name in now.param_shapes():
            yield name, now.get_parameter(name)

    def get_parameter(self, target: str) -> Float32:
        """The parameter of this dotted name, e.g. 'blocks.0.attn.qkv.weight'.

        A new read-only float32 array. KeyError: there is none; the message has the
        nearest name.
        """
        try:
            return super().get_parameter(target)
        except KeyError:
            import difflib

            near = difflib.get_close_matches(target, self.param_shapes(), n=1)
            hint = f"; did you mean {near[0]!r}?" if near else ""
            raise KeyError(f"no parameter {target!r}{hint}") from None

    def no_weight_decay(self) -> set[str]:
        """Parameters that training should not decay."""
        return {"pos_embed", "cls_token", "reg_token", "dist_token"}

    def group_matcher(self, coarse: bool = False) -> dict[str, Any]:
        """Patterns that sort parameters into stem and blocks, for layer-wise rates."""
        return {
            "stem": r"^cls_token|reg_token|pos_embed|patch_embed|norm_pre",
            "blocks": [(r"^blocks\.(\d+)", None), (r"^norm", (99999,))],
        }

    def _array(self, name: str) -> Float32 | None:
        return self.get_parameter(name) if name in self.param_shapes() else None

    @property
    def cls_token(self) -> Float32 | None:
        """(1, 1, C), or None."""
        return self._array("cls_token")

    @property
    def reg_token(self) -> Float32 | None:
        """(1, reg_tokens, C), or None."""
        return self._array("reg_token")

    @property
    def pos_embed(self) -> Float32 | None:
        """(1, N, C), or None."""
        return self._array("pos_embed")

    @property
    def patch_embed(self) -> PatchEmbed:
        """The patch embedding: sizes and proj."""
        return PatchEmbed(self, "patch_embed")

    @property
    def norm_pre(self) -> Module:
        """The norm before the blocks."""
        return Module(self, "norm_pre")

    @property
    def blocks(self) -> Module:
        """The blocks, by index."""
        return Module(self, "blocks")

    @property
    def norm(self) -> Module:
        """The norm after the blocks."""
        return Module(self, "norm")

    @property
    def fc_norm(self) -> FcNorm:
        """The norm after the pool; it can be called on (B, C)."""
        return FcNorm(self, "fc_norm")

    @property
    def head(self) -> Module:
        """The classifier: one object until reset_classifier makes another."""
        return self._head

    def get_classifier(self) -> Module:
        """The classifier, model.head."""
        return self.head

    @property
    def attn_pool(self) -> Module | None:
        """The attention pool: one object for as long as the pool lives, or None."""
        serial = self._pool_serial
        if serial == 0:
            return None
        held = self._pool_module
        if held is None or held[0] != serial:
            held = self._pool_module = (serial, Module(self, "attn_pool"))
        return held[1]

    # -- facts --

    @property
    def config(self) -> dict[str, Any]:
        """The constructor arguments that give this model, but those at default."""
        return arguments_of(self._options())

    @property
    def num_classes(self) -> int:
        """Outputs of the head; 0 without one."""
        return int(self._options()["num_classes"])

    @property
    def global_pool(self) -> str:
        """'', 'avg', 'avgmax', 'max', 'token', 'map' or 'prr'."""
        return str(self._options()["global_pool"])

    @property
    def pool_include_prefix(self) -> bool:
        """Does the pool see the class and register tokens?"""
        return bool(self._options()["pool_include_prefix"] or self.global_pool == "prr")

    @property
    def embed_dim(self) -> int:
        """Width of a token, C."""
        return int(self._options()["embed_dim"])

    num_features = head_hidden_size = embed_dim

    @property
    def in_chans(self) -> int:
        """Channels of an image."""
        return int(self._options()["in_chans"])

    @property
    def img_size(self) -> tuple[int, int]:
        """(height, width) of an image in pixels."""
        size: tuple[int, int] = self._options()["img_size"]
        return size

    @property
    def has_class_token(self) -> bool:
        """Is there a class token?"""
        return bool(self._options()["class_token"])

    @property
    def num_reg_tokens(self) -> int:
        """Register tokens."""
        return int(self._options()["reg_tokens"])

    @property
    def num_prefix_tokens(self) -> int:
        """Class and register tokens."""
        options = self._options()
        return int(options["class_token"]) + int(options["reg_tokens"])

    @property
    def no_embed_class(self) -> bool:
        """Do the prefix tokens go without position embedding?"""
        return bool(self._options()["no_embed_class"])

    @property
    def dynamic_img_size(self) -> bool:
        """Does the model take any image size?"""
        return self._dynamic()

    @property
    def feature_info(self) -> list[dict[str, Any]]:
        """Module, channels and reduction (pixels a patch) of each block."""
        options = self._options()
        return [
            {
                "module": f"blocks.{i}",
                "num_chs": options["embed_dim"],
                "reduction": max(options["patch_size"]),
            }
            for i in range(options["depth"])
        ]

    @property
    def dtype(self) -> np.dtype[Any]:
        """What the model computes in."""
        return np.dtype(np.float32)

    @property
    def pretrained_cfg(self) -> dict[str, Any]:
        """timm's pretrained configuration: input size, mean, std, labels, ..."""
        return self._pretrained_cfg

    @pretrained_cfg.setter
    def pretrained_cfg(self, cfg: Mapping[str, Any]) -> None:
        self._pretrained_cfg = dict(cfg)

    default_cfg = pretrained_cfg

    # -- copies and text --

    def __copy__(self) -> Self:
        copy = type(self).__new__(type(self))
        copy._adopt(self)
        copy._init_state()
        copy._pretrained_cfg = dict(self._pretrained_cfg)
        return copy

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        # Weights never change in place, so that a copy may share them.
        copy = memo[id(self)] = self.__copy__()
        return copy

    def __reduce__(self) -> tuple[Any, ...]:
        now = self.__copy__()
        cfg = self._pretrained_cfg
        return _rebuild, (type(self), now.config, now.state_dict(), cfg)

    def _facts(self) -> dict[str, str]:
        options = self._options()
        count = sum(int(np.prod(s)) for s in self.param_shapes().values())
        name = self._pretrained_cfg.get("architecture") or "VisionTransformer"
        tag = self._pretrained_cfg.get("tag")
        return {
            "architecture": f"{name}.{tag}" if tag else str(name),
            "image": _by(options["img_size"]),
            "patch": _by(options["patch_size"]),
            "width x depth, heads": f"{options['embed_dim']} x {options['depth']}, "
            f"{options['num_heads']}",
            "pool": repr(options["global_pool"]),
            "classes": str(options["num_classes"]),
            "parameters": f"{count:,}",
            "dtype": "float32",
            "memory": f"{self.memory_bytes()['weights'] / 1e6:.1f} MB",
        }

    def __repr__(self) -> str:
        facts = self._facts()
        name = facts.pop("architecture")
        rows = "\n".join(f"  {k}: {v}" for k, v in facts.items())
        head = name if name == "VisionTransformer" else f"VisionTransformer {name}"
        return f"{head}(\n{rows}\n)"

    def _repr_html_(self) -> str:
        import html

        rows = "".join(
            f"<tr><th style='text-align:left'>{html.escape(k)}</th>"
            f"<td style='text-align:left'>{html.escape(v)}</td></tr>"
            for k, v in self._facts().items()
        )
        return f"<table>{rows}</table>"


def _rebuild(
    cls: type[VisionTransformer],
    config: dict[str, Any],
    weights: dict[str, Float32],
    pretrained_cfg: dict[str, Any],
) -> VisionTransformer:
    model = cls(**config, weights=weights)
    model.pretrained_cfg = pretrained_cfg
    return model


def _seed(seed: int | None) -> int:
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
    supported: tuple[Literal["float32"]] = ("float32",)
    if dtype not in supported:
        raise ValueError(f"dtype must be 'float32', not {dtype!r}")


def _by(pair: tuple[int, int]) -> str:
    return f"{pair[0]} x {pair[1]}"


def _some(names: Any, most: int = 8) -> str:
    names = list(names)
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(map(repr, names[:most])) + more
