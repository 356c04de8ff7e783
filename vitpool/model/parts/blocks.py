# SPDX-License-Identifier: Apache-2.0
"""The transformer blocks, the lists they are in, and the patch embedding."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Generic, SupportsIndex, TypeVar, cast, overload

from ... import _core
from ..tensors import like
from .attention import Attention, DiffHeads, Heads, Masked, Mlp
from .layers import GELU, Conv2d, Dropout, Identity, LayerNorm, LayerScale, Linear
from .module import Child, Fact, Home, Module, Weight, states_of
from .sizes import grid_of
from .walk import Float32, exchange

M_co = TypeVar("M_co", bound=Module, covariant=True)

_NOTHING = 0  # the output that _run is not asked for


def computed_block(
    now: _core.VisionTransformer,
    path: str,
    x: Any,
    attn_mask: Any = None,
    is_causal: bool = False,
    rope: Float32 | None = None,
) -> Float32:
    """What the block at this path makes of tokens. rope: the core's table, or None."""
    i = int(path.rpartition(".")[2])
    _, taps, _, _ = now._run(
        x,
        _NOTHING,
        attn_mask,
        is_causal,
        first=i,
        depth=i + 1,
        taps=[(i, 0)],
        rope=rope,
    )
    return taps[0]


class _AnyBlock(Masked):
    __slots__ = ()

    def _compute(
        self,
        now: _core.VisionTransformer,
        x: Any,
        attn_mask: Any = None,
        is_causal: bool = False,
    ) -> Float32:
        return computed_block(now, self._path, x, attn_mask, is_causal)


class Block(_AnyBlock):
    """x + ls1(attn(norm1(x))), then x + ls2(mlp(norm2(x))). timm's Block."""

    __slots__ = ()
    norm1 = Child[LayerNorm]()
    attn = Child[Attention]()
    ls1 = Child[LayerScale]()
    drop_path1 = Child[Identity]()
    norm2 = Child[LayerNorm]()
    mlp = Child[Mlp]()
    ls2 = Child[LayerScale]()
    drop_path2 = Child[Identity]()


class ResPostBlock(_AnyBlock):
    """x + norm1(attn(x)), then x + norm2(mlp(x)). timm's ResPostBlock."""

    __slots__ = ()
    attn = Child[Attention]()
    norm1 = Child[LayerNorm]()
    drop_path1 = Child[Identity]()
    mlp = Child[Mlp]()
    norm2 = Child[LayerNorm]()
    drop_path2 = Child[Identity]()


class _ScalingBlock(_AnyBlock, Heads):
    __slots__ = ()
    in_norm = Child[LayerNorm]()
    in_proj = Child[Linear]()
    mlp_bias = Weight("(hidden,), or None where in_proj has a bias")
    q_norm = Child[LayerNorm]()
    k_norm = Child[LayerNorm]()
    attn_drop = Child[Dropout]()
    mlp_drop = Child[Dropout]()
    mlp_act = Child[GELU]()
    ls = Child[LayerScale]()
    drop_path = Child[Identity]()

    @Fact
    def in_split(self) -> list[int]:
        """How in_proj's answer is cut: hidden layer, queries, keys, values."""
        options = self._now()._options()
        return [options["mlp_hidden"], *[options["embed_dim"]] * 3]


class ParallelScalingBlock(_ScalingBlock):
    """Attention and MLP at once, from one product. timm's ParallelScalingBlock."""

    __slots__ = ()
    attn_out_proj = Child[Linear]()
    mlp_out_proj = Child[Linear]()


class DiffParallelScalingBlock(_ScalingBlock, DiffHeads):
    """The same with differential attention. timm's DiffParallelScalingBlock."""

    __slots__ = ()
    out_proj = Child[Linear]()


class Sequential(Module, Generic[M_co]):
    """Parts one after the other: by index, as a slice, and all together as a call.

    ``model.blocks[2:5](tokens)`` is what blocks 2, 3 and 4 make of tokens. A slice
    holds its parts, and calls them by the names that they had, as in torch.
    """

    __slots__ = ("_chosen",)
    _chosen: dict[str, Module] | None

    def __init__(
        self, home: Home, path: str, chosen: dict[str, Module] | None = None
    ) -> None:
        super().__init__(home, path)
        object.__setattr__(self, "_chosen", chosen)  # None: all that the model has

    def _roots(self) -> list[tuple[str, _core.VisionTransformer, str]]:
        if self._chosen is None:
            return super()._roots()
        parts = self._chosen
        return [
            (name, now, part._path)
            for (name, part), now in zip(
                parts.items(), states_of(parts.values()), strict=True
            )
        ]

    def _child_names(self) -> Sequence[str]:
        return super()._child_names() if self._chosen is None else list(self._chosen)

    def _at(self, name: str) -> Any:
        if self._chosen is None:
            return super()._at(name)
        first, _, rest = name.partition(".")
        return self._chosen[first].get_submodule(rest)

    def __len__(self) -> int:
        """How many parts there are."""
        return len(self._child_names())

    def __bool__(self) -> bool:
        return True

    def __iter__(self) -> Iterator[M_co]:
        """The parts in order."""
        return cast("Iterator[M_co]", self.children())

    @overload
    def __getitem__(self, index: SupportsIndex) -> M_co: ...
    @overload
    def __getitem__(self, index: slice) -> Sequential[M_co]: ...
    def __getitem__(self, index: SupportsIndex | slice) -> M_co | Sequential[M_co]:
        """The part of this index; of a slice, all of them as another Sequential.

        IndexError: there is none. TypeError: neither an integer nor a slice.
        """
        if not isinstance(index, slice) and not hasattr(index, "__index__"):
            raise TypeError(
                f"{self._path} takes an index or a slice, not {type(index).__name__}"
            )
        with exchange:
            names = self._child_names()
            if isinstance(index, slice):
                chosen = {name: self._at(name) for name in names[index]}
                return type(self)(self._home, self._path, self._named(chosen))
            number = index.__index__()
            if -len(names) <= number < len(names):
                return cast("M_co", self._at(names[number]))
        raise IndexError(
            f"{self._path} has {len(names)} items, not one of index {number}"
        )

    def _named(self, chosen: dict[str, Module]) -> dict[str, Module]:
        """The parts of a slice by the names that they have in it."""
        return chosen

    def forward(self, x: Any) -> Float32:
        """The same as calling it."""
        with exchange:
            parts = list(self)
            states = states_of(parts)
        y = _core.as_float32(x, "x")
        for part, now in zip(parts, states, strict=True):
            y = part._compute(now, y)
        return like(x, y)


class ModuleList(Sequential[M_co]):
    """Parts side by side, by index; a slice counts from 0. torch.nn.ModuleList."""

    __slots__ = ()

    def _named(self, chosen: dict[str, Module]) -> dict[str, Module]:
        return {str(i): part for i, part in enumerate(chosen.values())}

    def forward(self, x: Any) -> Float32:
        """NotImplementedError: parts side by side are no function."""
        raise NotImplementedError(
            f"{self._path} is a list of parts: call one of them, as {self._path}[0](x)"
        )


class ParallelThingsBlock(_AnyBlock):
    """x plus the sum of two attentions, then plus the sum of two MLPs: each of attns
    and ffns is norm, attn or mlp, ls, drop_path. timm's ParallelThingsBlock."""

    __slots__ = ()
    attns = Child[ModuleList[Sequential[Module]]]()
    ffns = Child[ModuleList[Sequential[Module]]]()

    @Fact
    def num_parallel(self) -> int:
        """Attentions, and MLPs: 2."""
        return 2


class Embedding(Module):
    """What makes patches of images, and of which sizes."""

    __slots__ = ()

    @Fact
    def img_size(self) -> tuple[int, int]:
        """(height, width) in pixels."""
        size: tuple[int, int] = self._option("img_size")
        return size

    @Fact
    def grid_size(self) -> tuple[int, int]:
        """(rows, columns) of patches."""
        return grid_of(self._now()._options())

    @Fact
    def num_patches(self) -> int:
        """Rows times columns."""
        rows, columns = grid_of(self._now()._options())
        return rows * columns

    @Fact
    def strict_img_size(self) -> bool:
        """Is an image of another size than img_size refused?"""
        return not self._option("dynamic_img_size")

    @Fact
    def dynamic_img_pad(self) -> bool:
        """Is an image padded to whole patches?"""
        return bool(self._option("dynamic_img_pad"))

    @Fact
    def flatten(self) -> bool:
        """Do patches come out in one row, or in rows and columns?"""
        return not self._option("dynamic_img_size")

    def feat_ratio(self, as_scalar: bool = True) -> int | tuple[int, int]:
        """Pixels a patch: the larger side's, or both."""
        size: tuple[int, int] = self._option("patch_size")
        return max(size) if as_scalar else size

    def dynamic_feat_size(self, img_size: tuple[int, int]) -> tuple[int, int]:
        """(rows, columns) of patches in an image of (height, width) pixels.

        ValueError: a size that this model does not take.
        """
        return self._now()._grid(*img_size)

    def _compute(self, now: _core.VisionTransformer, x: Any) -> Float32:
        x = _core.as_float32(x, "x")
        rows = super()._compute(now, x)  # which has checked x
        if not now._options()["dynamic_img_size"]:
            return rows
        return rows.reshape(len(x), *now._grid(x.shape[2], x.shape[3]), -1)


class PatchEmbed(Embedding):
    """norm(proj(x)) of images (B, in_chans, H, W): (B, patches, C), or (B, rows,
    columns, C) with dynamic_img_size. timm.layers.PatchEmbed."""

    __slots__ = ()
    proj = Child[Conv2d]()
    norm = Child[LayerNorm]()

    @Fact
    def patch_size(self) -> tuple[int, int]:
        """(height, width) in pixels."""
        size: tuple[int, int] = self._option("patch_size")
        return size
