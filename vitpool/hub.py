# SPDX-License-Identifier: Apache-2.0
"""Models from anywhere: the Hugging Face hub, and folders in timm's hub layout.

A source is `hf-hub:org/name[@revision]`, `local-dir:/path` or the path of a folder that
holds config.json (timm's, flat as before 2022 or with `pretrained_cfg` inside) and the
weights. The hub's cache, tokens and offline mode are huggingface_hub's (extra `hub`).
"""

from .registry.folder import (
    WEIGHT_FILES,
    load_model_config,
    parse_config,
    save_pretrained,
    weights_path,
)
from .registry.hub import HUB_TIMEOUT, HubError, HubUnreachableError, download
from .registry.sources import WEIGHT_SUFFIXES, split_source

__all__ = [
    "HUB_TIMEOUT",
    "WEIGHT_FILES",
    "WEIGHT_SUFFIXES",
    "HubError",
    "HubUnreachableError",
    "download",
    "load_model_config",
    "parse_config",
    "save_pretrained",
    "split_source",
    "weights_path",
]
