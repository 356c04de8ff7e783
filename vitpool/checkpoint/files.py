# SPDX-License-Identifier: Apache-2.0
"""Weight files as lazy mappings: safetensors, NumPy archives, PyTorch pickles.

Files come from strangers. Whatever is wrong with one is a ValueError that names it, and
no claim in a file makes us allocate more than the file could hold.
"""

from __future__ import annotations

import os
from pathlib import Path

from .lazy import LazyTensor, StateDict

PICKLES = (".pth", ".pt", ".bin", ".ckpt", ".tar")


def open_state_dict(path: str | os.PathLike[str]) -> StateDict:
    """Open a weights file; its tensors are read as float32, one at a time.

    path: `.safetensors`, `.safetensors.index.json` (a model in several files), `.npz`,
        or a PyTorch pickle (`.pth`, `.pt`, `.bin`, `.ckpt`, `.tar`), which torch loads
        with weights_only=True.
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
        raise IsADirectoryError(f"{path} is a folder; a weights file is expected")
    if not path.exists():
        raise FileNotFoundError(f"no such weights file: {path}")
    if not path.is_file():
        raise ValueError(f"{path} is a pipe or a device; a weights file is expected")
    try:
        tensors = _clean(_open(path))
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None
    return StateDict(tensors, str(path))


def _open(path: Path) -> dict[str, LazyTensor]:
    """The tensors of a file of any kind; only that kind's reader is imported."""
    name = path.name.lower()
    if name.endswith(".safetensors"):
        from .safetensors_file import open_safetensors

        return open_safetensors(path)
    if name.endswith(".index.json"):
        from .safetensors_file import open_index

        return open_index(path)
    if name.endswith(".npz"):
        from .npz_file import open_npz

        return open_npz(path)
    if name.endswith(PICKLES):
        from .torch_file import open_pickle

        return open_pickle(path)
    raise ValueError(
        "the name's ending must be .safetensors, .safetensors.index.json, .npz or one "
        f"of PyTorch's ({', '.join(PICKLES)})"
    )


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
