# SPDX-License-Identifier: Apache-2.0
"""Reading PyTorch pickles, through torch alone and with weights_only=True."""

from __future__ import annotations

import argparse
import importlib.util
import pickle
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
        with torch.serialization.safe_globals([argparse.Namespace]):
            content = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise ValueError(
            f"refused: it needs more than weights_only=True allows, or is "
            f"damaged: {str(error).splitlines()[0]}"
        ) from None
    except (OSError, MemoryError):
        raise
    except Exception as error:
        # torch raises what its unpickler meets: KeyError, IndexError, UnicodeError, ...
        lines = str(error).splitlines() or [type(error).__name__]
        raise ValueError(f"torch cannot read it: {lines[0]}") from None
    if not isinstance(content, Mapping):
        raise ValueError(f"holds a {type(content).__name__}, not a state dict")
    return {
        key: as_lazy(value)
        for key, value in unwrap(content).items()
        if isinstance(key, str) and isinstance(value, torch.Tensor)
    }


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
