# SPDX-License-Identifier: Apache-2.0
"""Weight files as lazy mappings: safetensors, NumPy archives, PyTorch pickles.

Files come from strangers. Whatever is wrong with one is a ValueError that names it, and
no claim in a file makes us allocate more than the file could hold.
"""

from __future__ import annotations

import os
from pathlib import Path

from ..text import printable
from .content import content_of, folder_of, unfinished
from .integers import paired
from .lazy import LazyTensor, StateDict


def open_state_dict(path: str | os.PathLike[str]) -> StateDict:
    """Open a weights file; its tensors are read as float32, one at a time.

    path: safetensors, an index of several safetensors files (.safetensors.index.json),
        an archive of NumPy's (.npz), or a state dict of PyTorch's (.pth, .pt, .bin,
        .ckpt), which torch loads with weights_only=True. The content tells which, not
        the name.
    Of 8-bit integers, NAME of int8 with NAME_scale of float32 beside it, the mapping
    has NAME alone: each integer times the scale of its output.
    The keys are the file's own, but for what training wraps around a model: of
    {'state_dict_ema': ...} and the like the inner one is taken (averaged weights first,
    as in timm), and the prefixes 'module.' and '_orig_mod.' are removed.
    Raises FileNotFoundError or another OSError where the file cannot be opened, and
    ValueError, naming the file, for content that is damaged or not understood.
    """
    try:
        path = Path(os.fspath(path))
    except TypeError:
        raise TypeError(f"path must be a path, got {type(path).__name__}") from None
    if path.is_dir():
        raise IsADirectoryError(folder_of(path))
    if not path.exists():
        if path.is_symlink():
            raise FileNotFoundError(
                f"{path} is a link to {os.readlink(path)!r}, where there is nothing"
            )
        raise FileNotFoundError(f"no such weights file: {path}")
    if not path.is_file():
        raise ValueError(f"{path} is a pipe or a device; a weights file is expected")
    try:
        tensors = paired(_clean(_open(path)))
    except ValueError as error:
        raise ValueError(printable(f"{path}: {error}{unfinished(path)}")) from None
    return StateDict(tensors, str(path))


def shard_names(path: str | os.PathLike[str]) -> list[str]:
    """The files, beside an index of several, that it names; ValueError for no index."""
    from .safetensors_file import read_index

    try:
        return list(dict.fromkeys(read_index(Path(path)).values()))
    except ValueError as error:
        raise ValueError(printable(f"{path}: {error}")) from None


def _open(path: Path) -> dict[str, LazyTensor]:
    """The tensors of a file of any kind; only that kind's reader is imported."""
    content = content_of(path)
    if content == "safetensors":
        from .safetensors_file import open_safetensors as read
    elif content == "index":
        from .safetensors_file import open_index as read
    elif content == "npz":
        from .npz_file import open_npz as read
    else:
        from .torch_file import open_pickle as read
    return read(path)


def _clean(tensors: dict[str, LazyTensor]) -> dict[str, LazyTensor]:
    """Keys without the prefixes of DistributedDataParallel and torch.compile."""
    if not tensors:
        raise ValueError("it holds no tensors")
    cleaned = {}
    for key, tensor in tensors.items():
        for prefix in ("_orig_mod.", "module.", "_orig_mod."):
            key = key.removeprefix(prefix)
        if key in cleaned:
            raise ValueError(f"{key!r:.100} is there with and without a prefix")
        cleaned[key] = tensor
    return cleaned
