# SPDX-License-Identifier: Apache-2.0
"""A side of a comparison: whatever gives its stages in order, one at a time.

The names of stages, in order: patch_embed, pos_embed (tokens with their prefix and
positions), norm_pre; for each block blocks.I.attn (the residual stream after attention)
and blocks.I.mlp (after the block), or blocks.I alone where a block cannot be split;
norm, pool, fc_norm, head, head_dist, and output where what is given is none of these. A
stage is there where the module is and is no Identity. pool always is; head unless the
model has no classes.
"""

from __future__ import annotations

import re
from collections.abc import Generator, Mapping, Sequence
from typing import Any, NamedTuple, Protocol, TypeAlias, runtime_checkable

import numpy as np
from numpy.typing import NDArray

Array: TypeAlias = NDArray[np.floating[Any]]
# (name, output) of each stage; what is sent in stands for that output from there on.
Stages: TypeAlias = Generator[tuple[str, Array], Array | None, None]

_BEFORE = ("patch_embed", "pos_embed", "norm_pre")
_AFTER = ("norm", "pool", "fc_norm", "head", "head_dist", "output")
_BLOCK = re.compile(r"blocks\.(0|[1-9][0-9]*)(?:\.(attn|mlp))?")


def place(name: str) -> tuple[int, int, int]:
    """Where a stage stands among all; a block whole stands where its MLP does.

    ValueError: no stage has this name.
    """
    if name in _BEFORE:
        return 0, _BEFORE.index(name), 0
    if name in _AFTER:
        return 2, _AFTER.index(name), 0
    block = _BLOCK.fullmatch(name)
    if block is None:
        raise ValueError(f"no stage is called {name!r}")
    return 1, int(block[1]), int(block[2] != "attn")


@runtime_checkable
class Side(Protocol):
    """One of two models that are compared. A class of ours derives from this one, and
    takes over what it has not."""

    # How a report calls it.
    name: str
    # Channels, height, width.
    input_size: tuple[int, int, int]
    # What its numbers were recorded on; None: it computes, of any pictures.
    images: Array | None = None

    def facts(self) -> dict[str, Any]:
        """What it is, by name: 'global_pool', 'norm.eps', 'blocks.3.mlp.act', ..."""
        return {}

    def parameters(self) -> Mapping[str, Array]:
        """Parameters by timm's keys, each read when it is asked for."""
        return {}

    def pixels(self, files: Sequence[Any]) -> tuple[Array, dict[str, Any]]:
        """Pictures (B, channels, height, width) of files, by its own preprocessing, and
        the facts of that: 'preprocessing.mean', ...

        TypeError, with the reason: it has none.
        """
        raise TypeError(f"{self.name} says nothing of how pictures are prepared")

    def stages(self, images: Array) -> Stages:
        """Runs images: (name, output) of each stage in order. send(array) goes on with
        that array, of the same shape, in place of the output, send(None) with the
        output. An output is an array of its own, which nobody changes."""
        ...

    def exact(self) -> Side:
        """A copy that computes in float64. TypeError, with the reason: it cannot."""
        raise TypeError(f"{self.name} cannot be had in float64")

    def drawn(self, seed: int) -> Side:
        """A copy whose weights are drawn: by key, shape and seed alone.

        TypeError, with the reason: it cannot be had.
        """
        raise TypeError(f"{self.name} cannot be had with drawn weights")


class Pair(NamedTuple):
    """The two that are compared."""

    reference: Side
    candidate: Side
