# SPDX-License-Identifier: Apache-2.0
"""What a model's parameters are kept as: in words, as arrays that hold it, and back.

A matrix is float32, bfloat16, float16, or integers with a float32 scale for each
output, which state dicts have beside it, as ``NAME_scale``. All else is float32.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from .. import _core
from ..config import Dtype

SCALE = "_scale"
_INTEGERS = ("int8", "int8_a16")
Shapes = Mapping[str, tuple[int, ...]]


def matrices(shapes: Shapes) -> list[str]:
    """The parameters that may be of another dtype than float32, in the model's order:
    the weights of linear layers, and of the patch embedding.

    RelPosMlp's small ones are not among them: they are read once, for a table."""
    return [
        name
        for name, shape in shapes.items()
        if name.endswith(".weight") and len(shape) > 1 and "rel_pos.mlp." not in name
    ]


def is_buffer(name: str) -> bool:
    """Is this key of a state dict a buffer in torch, which nothing trains?"""
    return name.endswith((".running_mean", ".running_var"))


def num_parameters(shapes: Shapes) -> int:
    """The numbers of all parameters, without those of buffers."""
    return sum(math.prod(s) for name, s in shapes.items() if not is_buffer(name))


def counters(names: Iterable[str]) -> set[str]:
    """The keys that torch has beside a BatchNorm's running statistics,
    ``num_batches_tracked``: how many batches they were gathered from. No output depends
    on it, so a model here does not keep it, and its state dict is without it, which
    torch loads strictly; one that has it loads here strictly, too."""
    end = "running_var"
    return {
        f"{name.removesuffix(end)}num_batches_tracked"
        for name in names
        if name.endswith(f".{end}")
    }


def in_blocks(names: Iterable[str]) -> list[str]:
    """Those of these parameters that blocks have."""
    return [name for name in names if name.startswith("blocks.")]


def is_integer(dtype: str) -> bool:
    """Is a parameter of this dtype one of integers with scales?"""
    return dtype in _INTEGERS


def dtype_of(now: _core.VisionTransformer) -> Dtype:
    """The dtype that most numbers of the blocks' matrices are of, or, without blocks,
    of all matrices; 'int8' with activations of 8 bits or 16."""
    shapes, dtypes = now.param_shapes(), now._dtypes()
    names = matrices(shapes)
    counts: Counter[str] = Counter()
    for name in in_blocks(names) or names:
        counts[dtypes[name].removesuffix("_a16")] += math.prod(shapes[name])
    return cast("Dtype", counts.most_common(1)[0][0]) if counts else "float32"


def told(now: _core.VisionTransformer) -> str:
    """The dtypes of the matrices in words: 'bfloat16', or how many are of each."""
    dtypes = now._dtypes()
    counts = Counter(dtypes[name] for name in matrices(now.param_shapes()))
    if len(counts) == 1:
        return next(iter(counts))
    ordered = counts.most_common()
    return ", ".join(f"{dtype}: {count} matrices" for dtype, count in ordered)


def arithmetic(dtype: str) -> str:
    """How products with weights of this dtype are computed here, and on what unit."""
    kernel = _core.show_config()["dtypes"][dtype]
    target = kernel["micro_kernel"].rpartition("__")[2]
    return f"{kernel['arithmetic']} ({target})"


# -- out, as arrays --


def arrays_of(
    now: _core.VisionTransformer, name: str, dtype: str, *, dequantize: bool
) -> Iterator[tuple[str, NDArray[Any]]]:
    """(key, array of the caller's own) of a parameter, and of its scale if it has one.

    dtype: what it is kept as. dequantize: all as float32.
    """
    if is_integer(dtype) and not dequantize:
        integers, scale = now._integers(name)
        yield name, integers
        yield name + SCALE, scale
        return
    array = now.get_parameter(name)
    array.flags.writeable = True
    if dtype == "float16" and not dequantize:
        yield name, array.astype(np.float16)
    elif dtype == "bfloat16" and not dequantize:
        yield name, array.astype(_bfloat16())
    else:
        yield name, array


def _bfloat16() -> Any:
    try:
        from ml_dtypes import bfloat16
    except ImportError:
        raise ImportError(
            "NumPy has no bfloat16: pip install ml_dtypes, or state_dict("
            "dequantize=True), which is float32"
        ) from None
    return bfloat16


# -- in --


class Given(Mapping[str, Any]):
    """A state dict for the core: integers and the scale beside them come as a pair.

    When one is read: TypeError for int8 without its scale, ValueError for the scale of
    what is not int8.
    """

    def __init__(self, arrays: Mapping[str, Any]) -> None:
        # one that pairs them itself, as vitpool.checkpoint's
        kept = getattr(arrays, "kept", None)
        self._arrays = arrays if kept is None else kept()
        self._keys = dict.fromkeys(arrays.keys())  # it may have no __iter__

    def scales(self) -> set[str]:
        """The keys of what stands beside a parameter."""
        ours = (k for k in self._keys if isinstance(k, str) and k.endswith(SCALE))
        return {key for key in ours if key.removesuffix(SCALE) in self._keys}

    def __contains__(self, name: object) -> bool:
        return name in self._keys

    def __iter__(self) -> Iterator[str]:
        return iter(self._keys)

    def __len__(self) -> int:
        return len(self._keys)

    def __getitem__(self, name: str) -> Any:
        value, scale = self._arrays[name], name + SCALE
        dtype = str(getattr(value, "dtype", "float32")).removeprefix("torch.")
        if scale in self._keys and dtype == "int8":
            return value, self._arrays[scale]
        if scale in self._keys:
            raise ValueError(f"{scale} is there, but {name} is {dtype}, not int8")
        if dtype == "int8":
            raise TypeError(
                f"{name} must be float32, or int8 with a scale: it is an int8 "
                f"{type(value).__name__}, and its scale, {scale}, is missing"
            )
        return value


class Stored(Mapping[str, Any]):
    """A model's parameters as a pickle holds them, for a constructor.

    arrays: float32, float16, bfloat16 as its bits (uint16), integers with their scale.
    dtypes: what is kept as another dtype than float32.
    """

    def __init__(self, arrays: Mapping[str, Any], dtypes: Mapping[str, str]) -> None:
        self._arrays, self.dtypes = arrays, dtypes

    @classmethod
    def of(cls, now: _core.VisionTransformer) -> Stored:
        """The parameters of a model as they are kept, to the bit."""
        arrays: dict[str, Any] = {}
        dtypes = now._dtypes()
        for name, dtype in dtypes.items():
            if is_integer(dtype):
                arrays[name] = now._integers(name)
                continue
            array = now.get_parameter(name)
            if dtype == "bfloat16":
                arrays[name] = (array.view(np.uint32) >> np.uint32(16)).astype("u2")
            elif dtype == "float16":
                arrays[name] = array.astype(np.float16)
            else:
                array.flags.writeable = True
                arrays[name] = array
        return cls(arrays, {n: d for n, d in dtypes.items() if d != "float32"})

    @property
    def arrays(self) -> Mapping[str, Any]:
        """What a pickle holds."""
        return self._arrays

    def kept(self) -> Stored:
        """Itself: integers come with their scale."""
        return self

    def __getitem__(self, name: str) -> Any:
        value = self._arrays[name]
        if getattr(value, "dtype", None) == np.uint16:
            return (value.astype(np.uint32) << np.uint32(16)).view(np.float32)
        return value

    def __iter__(self) -> Iterator[str]:
        return iter(self._arrays)

    def __len__(self) -> int:
        return len(self._arrays)
