# SPDX-License-Identifier: Apache-2.0
"""How much noise a matrix of another dtype brings into its block's output."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, TypeAlias

import numpy as np
from numpy.typing import NDArray

from .. import _core
from .dtypes import is_integer
from .parts import Float32

if TYPE_CHECKING:
    from .base import PlainViT

Noises: TypeAlias = dict[str, float]  # by parameter

_NOTHING = 0  # the output that _run is not asked for
_BLOCK = re.compile(r"blocks\.(\d+)\.(.+)")
_NUMBERS = 1 << 24  # of all blocks' outputs at once: 64 MB
# A channel that hardly moves is held to the quietest that does.
_LEAST_SPREAD = 0.01


def halves_of(name: str) -> tuple[str, ...]:
    """A matrix and, of a SwiGLU's two, the other one: the core wants one dtype."""
    if ".fc1_g." in name or ".fc1_x." in name:
        return name.replace(".fc1_x.", ".fc1_g."), name.replace(".fc1_g.", ".fc1_x.")
    return (name,)


class Measure:
    """Noise of matrices, on the reference's own residual stream.

    reference: a model that stays as it is. images: what goes through it. model: the
    same model, which knows of positions for other sizes.

    A matrix's noise is the mean, over the channels of its block's output, of the
    squared difference that the matrix makes over the channel's variance: tokens of
    enormous numbers, and the few channels that have them, would hide all others in one
    sum of squares.
    """

    def __init__(
        self,
        reference: _core.VisionTransformer,
        images: Float32,
        model: PlainViT,
    ) -> None:
        self.reference = reference
        self._images = images
        self._model = model
        options = reference._options()
        self._depth: int = options["depth"]
        self._rope = None
        if options["rope"] != "none":
            self._rope = reference._rope(*reference._grid(*images.shape[-2:]))
        self._chunks = list(self._streams())
        self._spread = self._spreads()

    def noises(
        self,
        names: Sequence[str],
        dtype: str,
        weights: Mapping[str, Float32] | None = None,
        source: _core.VisionTransformer | None = None,
    ) -> Noises:
        """The noise of each of these matrices, alone in its block, or with its other
        half, which has to be of the same dtype.

        dtype: what they are kept as. weights: parameters with other numbers, as folds
        give them: only those of the same kind and of what it reads are taken. source: a
        model that has these matrices already, to be taken from it to the bit.
        """
        kinds: dict[str, dict[int, str]] = defaultdict(dict)
        for name in names:
            found = _BLOCK.fullmatch(halves_of(name)[0])
            assert found is not None
            kinds[found[2]][int(found[1])] = name
        out: Noises = {}
        for of_kind in kinds.values():
            changed = [half for name in of_kind.values() for half in halves_of(name)]
            trial = self._trial(changed, dtype, weights or {}, source)
            for block, name in of_kind.items():
                noise = self._noise(trial, block)
                out |= {half: noise for half in halves_of(name) if half in names}
        return out

    def _trial(
        self,
        names: list[str],
        dtype: str,
        weights: Mapping[str, Float32],
        source: _core.VisionTransformer | None,
    ) -> _core.VisionTransformer:
        """The reference with these matrices in that dtype, and with all other numbers
        of `weights`: a fold changes nothing else that it computes."""
        trial = self.reference._snapshot()
        given: dict[str, object] = dict(weights)
        if source is not None:
            integers = is_integer(dtype)
            read = source._integers if integers else source.get_parameter
            given |= {name: read(name) for name in names}
        trial._replace(None, given, set(trial.untrained()), dict.fromkeys(names, dtype))
        return trial

    def _streams(self) -> Iterator[list[Float32]]:
        """For some of the images after the others: what goes into block 0, 1, ..., and
        what comes out of the last."""
        taps = [(i, 0, "in") for i in range(self._depth)]
        taps.append((self._depth - 1, 0, "out"))
        many = 1
        start = 0
        while start < len(self._images):
            some = self._images[start : start + many]
            arrays = self._model._forward(self.reference, some, _NOTHING, taps=taps)[1]
            start += many
            many = max(1, _NUMBERS // (arrays[0][0].size * len(arrays)))
            yield arrays

    def _spreads(self) -> list[NDArray[np.float64]]:
        """The variance of each channel of each block's output."""
        out = []
        for block in range(self._depth):
            rows = [c[block + 1].reshape(-1, c[0].shape[-1]) for c in self._chunks]
            mean = _mean([x.sum(0, dtype=np.float64) for x in rows], rows)
            squares = [((x - mean) ** 2).sum(0) for x in rows]
            spread = _mean(squares, rows)
            out.append(np.maximum(spread, _LEAST_SPREAD * np.median(spread)))
        return out

    def _noise(self, trial: _core.VisionTransformer, block: int) -> float:
        sums, rows = [], []
        for streams in self._chunks:
            before, after = streams[block], streams[block + 1]
            out = trial._run(
                before,
                _NOTHING,
                first=block,
                depth=block + 1,
                taps=[(block, 0, "out")],
                rope=self._rope,
            )[1][0]
            apart = (out - after).reshape(-1, out.shape[-1])
            sums.append(np.einsum("ij,ij->j", apart, apart, dtype=np.float64))
            rows.append(apart)
        with np.errstate(all="ignore"):
            return float(np.mean(_mean(sums, rows) / self._spread[block]))


def _mean(
    sums: Sequence[NDArray[np.float64]], rows: Sequence[Float32]
) -> NDArray[np.float64]:
    total: NDArray[np.float64] = np.sum(sums, axis=0) / sum(map(len, rows))
    return total
