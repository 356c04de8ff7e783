# SPDX-License-Identifier: Apache-2.0
"""Tensors that know their shape and are read only when asked for.

A conversion renames, slices and joins them without touching the data, so a whole
checkpoint is adapted while at most one tensor is in memory.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from .. import _core
from ..text import printable

Array = NDArray[Any]
Shape = tuple[int, ...]
T = TypeVar("T")


def _claim(shape: Shape) -> Array:
    """An array of a shape that has no data, to ask NumPy what an operation gives."""
    return np.broadcast_to(np.empty((), np.bool_), shape)


class LazyTensor:
    """A shape, and a function that reads the data as an array of that shape.

    dtype: NumPy's name of what a file or an array holds; '' of what is computed.
    """

    __slots__ = ("dtype", "read", "shape")

    def __init__(
        self, shape: Sequence[int], read: Callable[[], Array], dtype: str = ""
    ) -> None:
        self.shape: Shape = tuple(shape)
        self.read = read
        self.dtype = dtype

    def map(
        self, function: Callable[[Array], Array], shape: Sequence[int]
    ) -> LazyTensor:
        """`function` of the data, which gives an array of the shape `shape`."""
        return LazyTensor(shape, lambda: function(self.read()))

    def reshape(self, *shape: int) -> LazyTensor:
        """The same data in another shape; -1 stands for what is left, as in NumPy."""
        try:
            full = _claim(self.shape).reshape(shape).shape
        except ValueError:
            raise ValueError(f"the shape {self.shape} does not fit {shape}") from None
        return self.map(lambda data: data.reshape(full), full)

    def transpose(self, *axes: int) -> LazyTensor:
        """The axes in another order."""
        if len(axes) != len(self.shape):
            raise ValueError(f"{len(axes)} axes expected, got the shape {self.shape}")
        shape = [self.shape[axis] for axis in axes]
        return self.map(lambda data: data.transpose(axes), shape)

    def __getitem__(self, index: Any) -> LazyTensor:
        """A slice of the data; its shape comes from slicing an array of no bytes."""
        try:
            shape = _claim(self.shape)[index].shape
        except IndexError:
            raise ValueError(f"no item {index} in the shape {self.shape}") from None
        return self.map(lambda data: data[index], shape)


def concatenate(parts: Sequence[LazyTensor]) -> LazyTensor:
    """The parts one below the other (axis 0)."""
    if len({part.shape[1:] for part in parts}) != 1 or not parts[0].shape:
        raise ValueError(f"cannot join the shapes {[part.shape for part in parts]}")
    shape = (sum(part.shape[0] for part in parts), *parts[0].shape[1:])

    def read() -> Array:
        return np.concatenate([part.read() for part in parts])

    return LazyTensor(shape, read)


def zeros(*shape: int) -> LazyTensor:
    """A float32 tensor of zeros."""
    return LazyTensor(shape, lambda: np.zeros(shape, np.float32))


def as_lazy(value: Any) -> LazyTensor:
    """A LazyTensor as it is, an array (of NumPy, or torch on the CPU) as one."""
    if isinstance(value, LazyTensor):
        return value
    shape = getattr(value, "shape", None)
    if shape is None:
        raise TypeError(f"an array is expected, got {type(value).__name__}")
    dtype = str(getattr(value, "dtype", "")).removeprefix("torch.")
    # integers are no floats, but may be the half of some: see `integers`
    read = np.asarray if dtype == "int8" else as_array
    return LazyTensor(tuple(shape), lambda: read(value), dtype)


def as_array(value: Any) -> Array:
    """A float32 array of `value`, which a model would take."""
    try:
        return _core.as_float32(value, "a tensor")
    except TypeError as error:
        raise ValueError(str(error)) from None


def as_float32(data: Array) -> NDArray[np.float32]:
    """Contiguous float32 of a float16, bfloat16, float32 or float64 array."""
    kind = data.dtype
    if kind.kind != "f" and kind.name != "bfloat16":
        lacks = ", or int8 with its float32 NAME_scale" if kind == np.int8 else ""
        raise ValueError(
            f"has dtype {kind}, where float16, bfloat16, float32 or float64"
            f"{lacks} is expected"
        )
    if kind.type is np.float16:
        return _core.as_float32(data, "a tensor")  # which NumPy's cast is slow at
    # The order is asked for too: ascontiguousarray makes a scalar one-dimensional.
    return np.asarray(data, np.float32, order="C")


class StateDict(Mapping[str, NDArray[np.float32]]):
    """Mapping of key to float32 array; every access reads the tensor anew.

    source: the file's name, for messages.
    untrained: keys of random numbers that no file had.
    dtypes: what a model keeps these keys in, where that is not float32.
    """

    def __init__(
        self,
        tensors: Mapping[str, LazyTensor],
        source: str = "",
        untrained: Sequence[str] = (),
        dtypes: Mapping[str, str] | None = None,
    ) -> None:
        self.tensors = dict(tensors)
        self.source = source
        self.untrained = untrained
        self.dtypes = {k: v for k, v in (dtypes or {}).items() if k in self.tensors}

    def __getitem__(self, key: str) -> NDArray[np.float32]:
        return self._read(key, lambda tensor: as_float32(tensor.read()))

    def _read(self, key: str, read: Callable[[LazyTensor], T]) -> T:
        """What `read` gives of a tensor; its ValueError says which, of which file."""
        tensor = self.tensors[key]
        try:
            return read(tensor)
        except ValueError as error:
            at = f"{self.source}: {key}" if self.source else key
            raise ValueError(printable(f"{at}: {error}")) from None

    def kept(self) -> Mapping[str, Any]:
        """The same keys, but that integers are (int8 array, float32 scale)."""
        return _Kept(self)

    def __iter__(self) -> Iterator[str]:
        return iter(self.tensors)

    def __len__(self) -> int:
        return len(self.tensors)

    def shapes(self) -> dict[str, Shape]:
        """The shape of every tensor, without reading any."""
        return {key: tensor.shape for key, tensor in self.tensors.items()}


class _Kept(Mapping[str, Any]):
    """The tensors of a StateDict, integers as they are."""

    def __init__(self, weights: StateDict) -> None:
        self.weights = weights

    def __getitem__(self, key: str) -> Any:
        return self.weights._read(key, _as_kept)

    def __iter__(self) -> Iterator[str]:
        return iter(self.weights)

    def __len__(self) -> int:
        return len(self.weights)


def _as_kept(tensor: LazyTensor) -> Any:
    integers = getattr(tensor, "integers", None)
    return as_float32(tensor.read()) if integers is None else integers()


def lazy_tensors(state_dict: Mapping[str, Any]) -> dict[str, LazyTensor]:
    """The tensors of any mapping of key to array."""
    if isinstance(state_dict, StateDict):
        return dict(state_dict.tensors)
    return {key: as_lazy(state_dict[key]) for key in state_dict}
