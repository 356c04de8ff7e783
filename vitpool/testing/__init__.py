# SPDX-License-Identifier: Apache-2.0
"""Is this model what it should be: compared, audited, pinned.

Names are loaded when they are asked for, and torch is never imported: a torch module
that is given has brought it.
"""

from __future__ import annotations

import importlib
from typing import Any

# Packages that are doors of their own.
_MODULES = ("audit",)
# Where each name is.
_LAZY = {
    "assert_models_close": "close",
    "compare": "comparison",
    "images": "seeded",
    "open_record": "records",
    "write_record": "records",
}


def __getattr__(name: str) -> Any:
    if name in _MODULES:
        return importlib.import_module(f".{name}", __name__)
    if name not in _LAZY:
        raise AttributeError(f"module 'vitpool.testing' has no attribute {name!r}")
    value = getattr(importlib.import_module(f".{_LAZY[name]}", __name__), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(set(globals()) | set(_LAZY) | set(_MODULES))
