# SPDX-License-Identifier: Apache-2.0
"""Writing safetensors files, one tensor in memory at a time."""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import partial
from typing import IO, TYPE_CHECKING

import ml_dtypes
import numpy as np
from numpy.typing import NDArray

from .integers import SCALE
from .lazy import LazyTensor

if TYPE_CHECKING:
    from ..model import PlainViT

# What is written, by NumPy's name: the header's name, and the dtype of the bytes.
_WRITTEN = {
    "float64": ("F64", np.dtype("<f8")),
    "float32": ("F32", np.dtype("<f4")),
    "bfloat16": ("BF16", np.dtype(ml_dtypes.bfloat16)),
    "float16": ("F16", np.dtype("<f2")),
    "int8": ("I8", np.dtype("i1")),
}


def write_safetensors(
    file: IO[bytes], tensors: Mapping[str, LazyTensor], metadata: Mapping[str, str]
) -> None:
    """Write tensors to a file that is open; each is read once, and let go.

    tensors: of dtype float64, float32, bfloat16, float16 or int8. The widest come first, as the
    safetensors library has it, so that each begins at a multiple of its size.
    """
    order = sorted(tensors, key=lambda name: -_WRITTEN[tensors[name].dtype][1].itemsize)
    header: dict[str, object] = {"__metadata__": dict(metadata)}
    start = 0
    for name in order:
        title, dtype = _WRITTEN[tensors[name].dtype]
        shape = tensors[name].shape
        stop = start + int(np.prod(shape, dtype=np.int64)) * dtype.itemsize
        entry = {"dtype": title, "shape": shape, "data_offsets": [start, stop]}
        header[name], start = entry, stop
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    file.write(len(text).to_bytes(8, "little") + text)
    for name in order:
        dtype = _WRITTEN[tensors[name].dtype][1]
        data = np.ascontiguousarray(tensors[name].read(), dtype)
        # as bytes, since ml_dtypes' arrays have no buffer that a file takes
        file.write(data.reshape(-1).view(np.uint8).data)


def stored(model: PlainViT) -> dict[str, LazyTensor]:
    """What a file of a model's holds: each parameter as the model keeps it.

    Integers are two tensors, `NAME` and `NAME_scale`.
    """

    def integers(name: str) -> NDArray[np.int8]:
        return model._integers(name)[0]

    def scale(name: str) -> NDArray[np.float32]:
        return model._integers(name)[1]

    out = {}
    shapes = model.param_shapes()
    for name, title in model._dtypes().items():
        shape = shapes[name]
        if title.startswith("int8"):
            out[name] = LazyTensor(shape, partial(integers, name), "int8")
            out[name + SCALE] = LazyTensor(shape[:1], partial(scale, name), "float32")
        else:
            read = partial(model.get_parameter, name)
            out[name] = LazyTensor(shape, read, title)
    return out
