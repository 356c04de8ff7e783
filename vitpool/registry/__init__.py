# SPDX-License-Identifier: Apache-2.0
"""Model names, their pretrained configurations, and `create_model`.

The names are 280 of timm 1.0.31, all those of its modules `vision_transformer`, `eva`,
`deit`, `beit`, `vision_transformer_relpos` and `naflexvit`, and of
`vision_transformer_hybrid` `vit_base_mci_224`; and our own `vit_digits`. What each
stands for is data: `registry.json`, written from timm by
`tools/make_registry.py` and read at the first question.
"""

from __future__ import annotations

from .create import create_model, model_entrypoint
from .names import (
    get_arch_name,
    get_pretrained_cfg,
    get_pretrained_cfg_value,
    is_model,
    is_model_in_modules,
    is_model_pretrained,
    list_models,
    list_modules,
    list_pretrained,
    split_model_name_tag,
)
from .table import PACKAGED

__all__ = [
    "PACKAGED",
    "create_model",
    "get_arch_name",
    "get_pretrained_cfg",
    "get_pretrained_cfg_value",
    "is_model",
    "is_model_in_modules",
    "is_model_pretrained",
    "list_models",
    "list_modules",
    "list_pretrained",
    "model_entrypoint",
    "split_model_name_tag",
]
