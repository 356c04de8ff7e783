# SPDX-License-Identifier: Apache-2.0
"""Reading NumPy archives, the form of Google's JAX checkpoints."""

from __future__ import annotations

import zipfile
import zlib
from pathlib import Path

import ml_dtypes
import numpy as np

from .lazy import Array, LazyTensor, Shape

_ZIP_ERRORS = (
    OSError,
    EOFError,
    ValueError,
    RuntimeError,  # an encrypted member; an unknown compression (NotImplementedError)
    zipfile.BadZipFile,
    zlib.error,
)


def open_npz(path: Path) -> dict[str, LazyTensor]:
    """The arrays of a NumPy archive; each is decompressed when it is read."""
    try:
        archive = np.load(path, allow_pickle=False)
        if not isinstance(archive, np.lib.npyio.NpzFile):
            raise ValueError("it holds one array, not an archive")
        zipped = archive.zip
        if zipped is None:
            raise ValueError("the archive is closed")
        infos = zipped.infolist()
        if len({info.filename for info in infos}) != len(infos):
            raise ValueError("a name occurs twice")
        return {
            info.filename.removesuffix(".npy"): _npz_member(archive, info)
            for info in infos
            if info.filename.endswith(".npy")
        }
    except _ZIP_ERRORS as error:
        raise ValueError(f"not a readable .npz archive: {error}") from None


def _npz_member(archive: np.lib.npyio.NpzFile, info: zipfile.ZipInfo) -> LazyTensor:
    """One array, whose header's claim is checked against its size in the archive."""
    assert archive.zip is not None
    shape: Shape
    with archive.zip.open(info) as stream:
        version = np.lib.format.read_magic(stream)
        if version == (1, 0):
            shape, _, dtype = np.lib.format.read_array_header_1_0(stream)
        elif version == (2, 0):
            shape, _, dtype = np.lib.format.read_array_header_2_0(stream)
        else:
            raise ValueError(f"{info.filename}: .npy version {version} is not read")
        start = stream.tell()
    count = dtype.itemsize
    for n in shape:
        count *= n
    stored = info.file_size - start
    if dtype.hasobject or count != stored or min(shape, default=0) < 0:
        raise ValueError(f"{info.filename}: {stored} bytes of data for {dtype} {shape}")

    # JAX's archives hold bfloat16 as two anonymous bytes, and so NumPy writes it.
    bfloat16 = dtype == np.dtype("V2")

    def read() -> Array:
        try:
            data = archive[info.filename]
        except _ZIP_ERRORS as error:
            raise ValueError(f"damaged: {error}") from None
        return data.view(ml_dtypes.bfloat16) if bfloat16 else data

    return LazyTensor(shape, read, "bfloat16" if bfloat16 else dtype.name)
