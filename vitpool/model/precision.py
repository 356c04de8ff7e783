# SPDX-License-Identifier: Apache-2.0
"""The same model in another dtype: `to`, `calibrate`, and which matrices stay wide."""

from __future__ import annotations

import copy
from collections.abc import Iterable
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Any, NamedTuple

from ..config import Dtype, as_dtype
from ..text import did_you_mean
from .copying import Copying
from .dtypes import Shapes, arithmetic, dtype_of, in_blocks, is_integer, matrices
from .parts import Float32, asked_for
from .quantized import plan_int8

if TYPE_CHECKING:
    from typing_extensions import Self


class Change(NamedTuple):
    """What a model of another dtype has that this one has not.

    dtypes: what matrices are kept as from then on. weights: parameters with other
    numbers, whose product with the activations stays what it was.
    """

    dtypes: dict[str, str]
    weights: dict[str, Float32]


class Precise(Copying):
    """The part of a model that makes one of another dtype."""

    @property
    def dtype(self) -> Dtype:
        """'float32', 'bfloat16', 'float16' or 'int8': that of the blocks' matrices.

        If they differ, of most of their numbers; 'int8' with activations of 8 bits or
        16. Outputs, and what is no matrix, are float32. show_config()['dtypes'] says
        how products of each are computed here.
        """
        return dtype_of(self._snapshot())

    def to(
        self,
        *args: Any,
        device: Any = None,
        dtype: Any = None,
        non_blocking: bool = False,
        memory_format: Any = None,
        keep: str | Iterable[str] = (),
        images: Any = None,
    ) -> Self:
        """A new model of another dtype, which shares what stays as it is.

        This one does not change, where torch's module would; it is given back where
        nothing is to be changed. What is no matrix is float32 in every dtype, and so
        are outputs.

        dtype: by name, or NumPy's, ml_dtypes' or torch's object, also by position.
            'bfloat16', 'float16': every matrix, rounded to nearest: half the memory.
            Products are in that dtype where the CPU has a unit for it, else in float32.
            'int8': the blocks' matrices as integers with a scale for each output, a
            quarter of the memory, with activations that are rounded row by row; the
            patch embedding, attention pool and head are float32. The noisiest
            matrices take activations of 16 bits, and where that makes less noise a
            norm's gain moves into the weights that read it, by powers of two. Of a
            model that is int8 already no matrix is rounded again, unless images are
            given.
            'float32': back, with the numbers as they are kept.
        keep: names of parameters or modules, or patterns of them, whose matrices stay
            float32: 'head', 'blocks.11.*', 'blocks.*.mlp.fc2'.
        images: with 'int8', inputs to measure errors on, as the model takes them.
        device: 'cpu'. non_blocking and memory_format mean nothing here.

        ValueError: another device or dtype, a pattern that matches nothing, numbers
        that float16 has not. TypeError: keep or images without a dtype.
        """
        name = asked_for((*args, device, dtype))
        if name is None:
            if keep or images is not None:
                raise TypeError("keep and images go with a dtype, as 'int8'")
            return self
        wanted = as_dtype(name)
        if images is not None and wanted != "int8":
            raise ValueError(f"images are for 'int8', not {wanted!r}")
        model = copy.copy(self)
        kept = kept_wide(keep, model.param_shapes())
        change = change_to(model, wanted, kept, images)
        now = model._dtypes()
        if not change.weights and all(now[n] == d for n, d in change.dtypes.items()):
            return self
        untrained = set(model.untrained()) & set(change.weights)
        model._replace(None, change.weights, untrained, change.dtypes)
        return model

    def calibrate(self, images: Any) -> Self:
        """A new int8 model, whose choices are made on these images: to('int8') on them.

        images: as the model takes them, (B, in_chans, height, width); a hundred are
        enough. Best of a float32 model: what is rounded already is rounded once more.
        """
        return self.to("int8", images=images)

    def _extra_repr(self) -> str:
        dtype = self.dtype
        return "" if dtype == "float32" else f"dtype={dtype}: {arithmetic(dtype)}"


def kept_wide(keep: str | Iterable[str], shapes: Shapes) -> frozenset[str]:
    """The parameters that these patterns match, by their names or their modules'.

    ValueError: one that matches nothing. TypeError: no strings.
    """
    if not isinstance(keep, Iterable):
        raise TypeError(f"keep must be names, not {type(keep).__name__}")
    patterns = [keep] if isinstance(keep, str) else list(keep)
    kept: set[str] = set()
    for pattern in patterns:
        if not isinstance(pattern, str):
            raise TypeError(f"keep must be names, not {type(pattern).__name__}")
        found = {name for name in shapes if _matches(name, pattern)}
        if not found:
            known = dict.fromkeys(path for name in shapes for path in _paths(name))
            hint = did_you_mean(pattern, known, most=3)
            raise ValueError(f"keep: {pattern!r} matches no parameter{hint}")
        kept |= found
    return frozenset(kept)


def _matches(name: str, pattern: str) -> bool:
    return any(fnmatchcase(path, pattern) for path in _paths(name))


def _paths(name: str) -> list[str]:
    """A parameter's name, and those of the modules it is in: 'a.b.c', 'a.b', 'a'."""
    words = name.split(".")
    return [".".join(words[:count]) for count in range(len(words), 0, -1)]


def change_to(
    model: Any, dtype: Dtype, kept: frozenset[str], images: Any = None
) -> Change:
    """What to change for a model of this dtype. kept: parameters that are float32."""
    names = matrices(model.param_shapes())
    if dtype != "int8":
        return Change({n: "float32" if n in kept else dtype for n in names}, {})
    now = model._dtypes()
    wide = dict.fromkeys(names, "float32")
    integers = [name for name in in_blocks(names) if name not in kept]
    if images is None and all(is_integer(now[name]) for name in integers):
        return Change(wide | {name: now[name] for name in integers}, {})
    plan = plan_int8(model, images, kept)
    return Change(wide | dict(plan[0]), dict(plan[1]))
