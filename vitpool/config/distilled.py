# SPDX-License-Identifier: Apache-2.0
"""VisionTransformerDistilled's options, resolved: VisionTransformer's, but for what its
two heads and its second token cannot have.

Source: timm.models.deit.VisionTransformerDistilled.
"""

from __future__ import annotations

from typing import Any

from . import vit
from .checks import as_bool
from .family import Family

# Option -> what it must be, and why: timm's class takes others and then fails, or
# leaves them without an effect.
_MUST: dict[str, tuple[Any, str]] = {
    "global_pool": ("token", "the two heads read the class and distillation tokens"),
    "class_token": (True, "one of the two heads reads the class token"),
    "reg_tokens": (0, "it has a class and a distillation token before the patches"),
    "pos_embed": ("learn", "its class always has a position embedding"),
    "no_embed_class": (False, "its class and distillation tokens have positions"),
}


def resolve(a: dict[str, Any]) -> dict[str, Any]:
    """The core's options."""
    options = vit.resolve(a)
    for name, (value, why) in _MUST.items():
        if a[name] != value:
            raise ValueError(
                f"{name} must be {value!r} in a VisionTransformerDistilled, "
                f"not {a[name]!r}: {why}"
            )
    if a["fc_norm"] is not None and as_bool(a["fc_norm"], "fc_norm"):
        raise ValueError(
            "fc_norm must be False or None in a VisionTransformerDistilled, not True: "
            "its norm stands before the heads' tokens are taken"
        )
    return options | {"family": "VisionTransformerDistilled", "dist_token": True}


FAMILY = Family(vit.DEFAULTS, resolve, vit.arguments, vit.implied)
