# SPDX-License-Identifier: Apache-2.0
"""Reading safetensors files, one or several with an index, without mapping them."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .content import content_of
from .lazy import Array, LazyTensor

# safetensors itself stops at 100 MB. 10,000 tensors need some 2 MB.
MAX_HEADER = 16 * 2**20
# A kernel has 4 dimensions; NumPy stops at 64.
MAX_DIMENSIONS = 16

# A dtype by its name in the header; those of ml_dtypes by their name there.
_DTYPES = {
    "F64": "<f8",
    "F32": "<f4",
    "F16": "<f2",
    "BF16": "bfloat16",
    "I64": "<i8",
    "I32": "<i4",
    "I16": "<i2",
    "I8": "i1",
    "U64": "<u8",
    "U32": "<u4",
    "U16": "<u2",
    "U8": "u1",
    "BOOL": "?",
    "F8_E4M3": "float8_e4m3fn",
    "F8_E5M2": "float8_e5m2",
}


class _Reader:
    """Reads at any offset of one open file.

    The safetensors library maps the file into memory, and a mapped file which another
    process truncates kills the reader with SIGBUS. read() returns fewer bytes instead.
    """

    def __init__(self, path: Path) -> None:
        self.file = path.open("rb", buffering=0)
        self.size = os.fstat(self.file.fileno()).st_size

    def __del__(self) -> None:
        # The last tensor of a mapping closes the file. No `with` could: tensors are
        # read long after open_state_dict has returned.
        if hasattr(self, "file"):
            self.file.close()

    def read(self, offset: int, count: int) -> Array:
        """`count` bytes at `offset`, as uint8; ValueError where the file has fewer."""
        data: NDArray[np.uint8] = np.empty(count, np.uint8)
        view = data.data
        done = 0
        while done < count:
            # pread, as several threads may read through one open file.
            got = os.preadv(self.file.fileno(), [view[done:]], offset + done)
            if not got:
                raise ValueError("truncated: the file ended while it was read")
            done += got
        return data


def _dtype(name: Any) -> np.dtype[Any] | None:
    """The NumPy dtype of a header's name; None for a name that is unknown."""
    known = _DTYPES.get(name) if isinstance(name, str) else None
    if known is None or len(known) <= 3:
        return np.dtype(known) if known else None
    import ml_dtypes  # registers the dtypes that NumPy lacks

    return np.dtype(getattr(ml_dtypes, known))


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result = dict(pairs)
    if len(result) != len(pairs):
        raise ValueError("a key occurs twice")
    return result


def _is_count(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def open_safetensors(path: Path) -> dict[str, LazyTensor]:
    """The tensors of one safetensors file.

    The header is 8 bytes of length and then JSON: {name: {dtype, shape, data_offsets}}.
    It is parsed here, under the library's own rules (every byte of the data belongs to
    exactly one tensor), since the library shares its offsets only with a mapping.
    """
    reader = _Reader(path)
    if reader.size < 8:
        raise ValueError(f"not a safetensors file: {reader.size} bytes long")
    length = int.from_bytes(reader.read(0, 8).tobytes(), "little")
    if length > min(MAX_HEADER, reader.size - 8):
        raise ValueError(
            f"truncated or damaged: its header claims {length} bytes, the file has "
            f"{reader.size}, and {MAX_HEADER} is the limit"
        )
    text = reader.read(8, length).tobytes()
    try:
        if not text.startswith(b"{"):
            raise ValueError("it does not start with '{'")
        header = json.loads(text.decode("utf-8"), object_pairs_hook=_unique)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"damaged safetensors header: {error}") from None
    header.pop("__metadata__", None)

    base = 8 + length
    spans = []
    tensors = {}
    for key, entry in header.items():
        try:
            tensors[key], span = _safetensor(reader, base, entry)
        except ValueError as error:
            raise ValueError(f"tensor {key!r:.100}: {error}") from None
        spans.append(span)
    end = 0
    for start, stop in sorted(spans):
        if start != end:
            raise ValueError(
                f"damaged safetensors header: data starts at {start}, where "
                f"{end} is expected"
            )
        end = stop
    if base + end > reader.size:
        raise ValueError(
            f"truncated: {reader.size} of {base + end} bytes are there; fetch it again"
        )
    if base + end < reader.size:
        raise ValueError(
            f"damaged: its header accounts for {base + end} bytes, the file has "
            f"{reader.size}"
        )
    return tensors


def metadata_of(path: Path) -> dict[str, Any]:
    """The texts of a safetensors file that `open_safetensors` has found sound."""
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        found = json.loads(file.read(length)).get("__metadata__")
    return found if isinstance(found, dict) else {}


def _safetensor(
    reader: _Reader, base: int, entry: Any
) -> tuple[LazyTensor, tuple[int, int]]:
    """One header entry as a tensor, and where its data starts and stops."""
    if not isinstance(entry, dict):
        raise ValueError("its entry is not an object")
    name, shape, offsets = (entry.get(k) for k in ("dtype", "shape", "data_offsets"))
    dtype = _dtype(name)
    if dtype is None:
        raise ValueError(f"unknown dtype {name!r:.100}")
    if not isinstance(shape, list) or not all(map(_is_count, shape)):
        raise ValueError(f"shape {shape!r:.100} is not a list of counts")
    if len(shape) > MAX_DIMENSIONS:
        raise ValueError(f"{len(shape)} dimensions; at most {MAX_DIMENSIONS} are read")
    if not isinstance(offsets, list) or [*map(_is_count, offsets)] != [True, True]:
        raise ValueError(f"data_offsets {offsets!r:.100} are not two counts")
    start, stop = offsets
    count = dtype.itemsize
    for n in shape:  # Python's integers: no overflow
        count *= n
    if stop - start != count:
        raise ValueError(f"{stop - start} bytes of data for {name} {shape}")

    def read() -> Array:
        data: Array = reader.read(base + start, count).view(dtype)
        return data.reshape(shape)

    return LazyTensor(shape, read, dtype.name), (start, stop)


def open_index(path: Path) -> dict[str, LazyTensor]:
    """The tensors of a model in several safetensors files, by its index."""
    wanted = read_index(path)
    shards: dict[str, dict[str, LazyTensor]] = {}
    tensors = {}
    for key, file in wanted.items():
        if file not in shards:
            shards[file] = _open_shard(path.with_name(file))
        if key not in shards[file]:
            raise ValueError(f"{key!r:.100} is not in {file}")
        tensors[key] = shards[file][key]
    return tensors


def _open_shard(path: Path) -> dict[str, LazyTensor]:
    if not path.is_file():
        raise ValueError(f"{path.name}, which it lists, is not beside it")
    try:
        if content_of(path) != "safetensors":
            raise ValueError("not a safetensors file, though its name says so")
        return open_safetensors(path)
    except ValueError as error:
        raise ValueError(f"{path.name}: {error}") from None


def read_index(path: Path) -> dict[str, str]:
    """Key to the name of the file beside the index that holds it.

    Only files that lie beside the index: it is not trusted with paths.
    """
    if path.stat().st_size > MAX_HEADER:
        raise ValueError(f"longer than {MAX_HEADER} bytes")
    try:
        index = json.loads(path.read_text("utf-8-sig"))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"starts like JSON, but is not: {error}") from None
    weight_map = index.get("weight_map")
    if not isinstance(weight_map, dict):
        if isinstance(index, dict) and {"model_type", "architecture"} & set(index):
            raise ValueError("a model's configuration: its weights are another file")
        shown = ", ".join(f"{key!r:.40}" for key in list(index)[:4])
        raise ValueError(
            f"a JSON document (with {shown or 'nothing'}), as a server sends it for an "
            "error; an index of weights has a 'weight_map'"
        )
    names = {str(key): str(file) for key, file in weight_map.items()}
    for file in dict.fromkeys(names.values()):
        if os.path.basename(file) != file or "\\" in file:
            raise ValueError(f"{file!r:.100} is not a safetensors file beside it")
        if file.endswith((".bin", ".pt", ".pth")):
            raise ValueError(
                f"lists PyTorch's pickles ({file!r:.100}): several files are read as "
                "safetensors alone; save them as one, or as safetensors"
            )
        if not file.endswith(".safetensors"):
            raise ValueError(f"{file!r:.100} is not a safetensors file beside it")
    return names
