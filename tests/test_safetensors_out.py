# SPDX-License-Identifier: Apache-2.0
"""How a safetensors file of ours is laid out."""

from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import safetensors.numpy

from vitpool.checkpoint import lazy_tensors, write_safetensors


def header_of(file: Path) -> dict[str, Any]:
    data = file.read_bytes()
    header: dict[str, Any] = json.loads(data[8 : 8 + struct.unpack("<Q", data[:8])[0]])
    return header


def test_tensors_of_odd_sizes_begin_at_multiples_of_theirs(tmp_path) -> None:
    arrays = {
        "a": np.arange(3, dtype=np.int8),
        "b": np.ones((3, 1), np.float32),
        "c": np.full(5, 0.5, ml_dtypes.bfloat16),
        "d": np.zeros((0, 2), np.float16),
        "e": np.array(2.5, np.float32),
        "f": np.arange(6, dtype=np.int8)[::-1],
    }
    file = tmp_path / "odd.safetensors"
    with file.open("wb") as out:
        write_safetensors(out, lazy_tensors(arrays), {"x": "y"})
    header = header_of(file)
    assert header.pop("__metadata__") == {"x": "y"}
    data = file.read_bytes()
    start = 8 + struct.unpack("<Q", data[:8])[0]
    assert start % 8 == 0
    for name, array in arrays.items():
        offset = start + header[name]["data_offsets"][0]
        assert offset % array.itemsize == 0
        assert data[offset:][: array.nbytes] == array.tobytes()
        assert header[name]["shape"] == list(array.shape)
    theirs = dict(safetensors.deserialize(data))
    assert theirs.keys() == arrays.keys()
