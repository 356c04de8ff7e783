# SPDX-License-Identifier: Apache-2.0
"""Reading PyTorch pickles, through torch alone and with weights_only=True."""

from __future__ import annotations

import argparse
import importlib.util
import pickle
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from .lazy import LazyTensor, as_lazy


def open_pickle(path: Path) -> dict[str, LazyTensor]:
    """The tensors of a PyTorch pickle, by torch; no pickle is loaded in another way."""
    if importlib.util.find_spec("torch") is None:
        raise ValueError(
            "a PyTorch pickle is only read through torch, which is not "
            "installed; where it is, convert the file: safetensors.torch.save_file("
            "torch.load(file, weights_only=True), 'model.safetensors')"
        )
    import torch

    try:
        # timm's training script stores its arguments beside the weights.
        # An open file, since of a path torch asks the ending.
        with (
            torch.serialization.safe_globals([argparse.Namespace]),
            path.open("rb") as f,
        ):
            content = torch.load(f, map_location="cpu", weights_only=True)
    except (OSError, MemoryError):
        raise
    except Exception as error:
        # torch raises what its unpickler meets: KeyError, IndexError, UnicodeError, ...
        raise ValueError(_refusal(error)) from None
    if not isinstance(content, Mapping):
        raise ValueError(f"holds a {type(content).__name__}; {_SAVE}")
    state = unwrap(content)
    tensors = {
        key: as_lazy(value)
        for key, value in state.items()
        if isinstance(key, str) and isinstance(value, torch.Tensor)
    }
    if not tensors:
        inner = [repr(k)[:40] for k, v in state.items() if isinstance(v, Mapping)]
        held = f", but for what is in {', '.join(inner[:4])}" if inner else ""
        raise ValueError(f"holds no tensors{held}; {_SAVE}")
    return tensors


_SAVE = (
    "a state dict is expected, as torch.save(model.state_dict(), 'model.pth') writes it"
)


def _refusal(error: Exception) -> str:
    """Why torch did not load a file, without its advice to load it unsafely."""
    text = str(error)
    if found := re.search(r"GLOBAL ([\w.]+)", text):
        return (
            f"refused: it names {found[1]:.200}, which is code to run and no tensor; "
            f"{_SAVE}"
        )
    if isinstance(error, pickle.UnpicklingError):
        return f"refused: it holds more than tensors, or is damaged; {_SAVE}"
    first = (text.splitlines() or [""])[0]
    if not first or "weights_only" in text:
        first = type(error).__name__
    return f"damaged, or of no version of PyTorch's that is installed: {first:.200}"


# What training scripts wrap around a state dict, the preferred first: timm's four in
# timm's order, then I-JEPA's encoder, DINO's teacher, DeepSpeed's module.
_WRAPPERS = (
    *("state_dict_ema", "model_ema", "state_dict", "model"),
    *("encoder", "teacher", "module"),
)


def unwrap(content: Mapping[str, Any]) -> Mapping[str, Any]:
    """The innermost state dict of a training checkpoint."""
    for _ in range(4):  # a hostile pickle may hold a dict that holds itself
        inner = (content.get(key) for key in _WRAPPERS)
        found = next((value for value in inner if isinstance(value, Mapping)), None)
        if found is None:
            break
        content = found
    return content
