# SPDX-License-Identifier: Apache-2.0
"""timm's plain Vision Transformers in C behind a CPython module, without PyTorch.

>>> import vitpool
>>> model = vitpool.create_model("vit_digits", pretrained=True)
>>> model(x)  # float32 (batch, num_classes)
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from ._core import __version__, get_num_threads, set_num_threads, show_config

if TYPE_CHECKING:
    from . import data, models, testing, train
    from .checkpoint import LeftOutWarning, load_checkpoint, open_state_dict
    from .checkpoint.live_timm import from_timm
    from .config import NaFlexVitCfg
    from .model import (
        Beit,
        Eva,
        NaFlexVit,
        VisionTransformer,
        VisionTransformerDistilled,
        VisionTransformerRelPos,
    )
    from .registry import (
        create_model,
        get_pretrained_cfg,
        get_pretrained_cfg_value,
        is_model,
        is_model_pretrained,
        list_models,
        list_modules,
        list_pretrained,
        model_entrypoint,
    )
    from .registry.folder import save_pretrained
    from .testing.comparison import compare, quantize
    from .transforms import (
        create_transform,
        resolve_data_config,
        resolve_model_data_config,
        samples,
    )

# What `import vitpool` does not load until it is asked for, and where it is.
_LAZY = {
    "LeftOutWarning": "checkpoint",
    "Beit": "model",
    "Eva": "model",
    "NaFlexVit": "model",
    "NaFlexVitCfg": "config",
    "VisionTransformer": "model",
    "VisionTransformerDistilled": "model",
    "VisionTransformerRelPos": "model",
    "create_model": "registry",
    "get_pretrained_cfg": "registry",
    "get_pretrained_cfg_value": "registry",
    "is_model": "registry",
    "is_model_pretrained": "registry",
    "list_models": "registry",
    "list_modules": "registry",
    "list_pretrained": "registry",
    "model_entrypoint": "registry",
    "from_timm": "checkpoint.live_timm",
    "load_checkpoint": "checkpoint",
    "open_state_dict": "checkpoint",
    "save_pretrained": "registry.folder",
    "compare": "testing.comparison",
    "quantize": "testing.comparison",
    "create_transform": "transforms",
    "resolve_data_config": "transforms",
    "resolve_model_data_config": "transforms",
    "samples": "transforms",
}

__all__ = [
    "Beit",
    "Eva",
    "LeftOutWarning",
    "NaFlexVit",
    "NaFlexVitCfg",
    "VisionTransformer",
    "VisionTransformerDistilled",
    "VisionTransformerRelPos",
    "__version__",
    "compare",
    "create_model",
    "create_transform",
    "data",
    "from_timm",
    "get_num_threads",
    "get_pretrained_cfg",
    "get_pretrained_cfg_value",
    "is_model",
    "is_model_pretrained",
    "list_models",
    "list_modules",
    "list_pretrained",
    "load_checkpoint",
    "model_entrypoint",
    "models",
    "open_state_dict",
    "quantize",
    "resolve_data_config",
    "resolve_model_data_config",
    "samples",
    "save_pretrained",
    "set_num_threads",
    "show_config",
    "testing",
    "train",
]

# timm's modules, NumPy's and ours, which are there as soon as the package is.
_MODULES = ("data", "models", "testing", "train")


def __getattr__(name: str) -> Any:
    if name in _MODULES:
        return importlib.import_module(f".{name}", __name__)
    if name not in _LAZY:
        raise AttributeError(f"module 'vitpool' has no attribute {name!r}")
    value = getattr(importlib.import_module(f".{_LAZY[name]}", __name__), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(set(globals()) | set(_LAZY) | set(_MODULES))
