# SPDX-License-Identifier: Apache-2.0
"""vitpool's own architectures, made small, as entries of an audit."""

from __future__ import annotations

from typing import Any

from ...config import DEFAULTS
from ...registry import list_models
from ...registry.create import plan_model
from .timm.table import Entry

SMALL: dict[str, Any] = {
    "img_size": 32,
    "patch_size": 8,
    "embed_dim": 32,
    "depth": 1,
    "num_heads": 2,
    "mlp_ratio": 2.0,
    "num_classes": 10,
}
SOURCE = "from vitpool import VisionTransformer as make"


def own_models(pattern: str = "") -> list[Entry]:
    """An entry for each architecture that matches, as in `list_models`.

    Of those that are the same but for their size, the first. The checks are of
    VisionTransformer's interface: architectures of other classes are left out.

    Raises:
        ValueError: none matches, or only such of other classes.
    """
    found: dict[str, Entry] = {}
    others = set()
    for name in list_models(pattern):
        plan = plan_model(name)
        if plan.family != "VisionTransformer":
            others.add(plan.family)
            continue
        options = plan.options | SMALL
        given = {k: v for k, v in options.items() if DEFAULTS.get(k, ...) != v}
        entry = Entry(f"vitpool:{name}", SOURCE, (3, 32, 32), given)
        found.setdefault(repr(sorted(given.items())), entry)
    if not found:
        only = f": {', '.join(sorted(others))} are not audited" if others else ""
        raise ValueError(f"no architecture of vitpool matches {pattern!r}{only}")
    return list(found.values())
