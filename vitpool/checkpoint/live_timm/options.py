# SPDX-License-Identifier: Apache-2.0
"""The constructor's options that describe a live timm model as it stands."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from .beit import read_beit
from .eva import read_eva
from .naflex import read_naflex
from .reader import TRY, Reader, alike_among, class_name
from .relpos import read_relpos
from .vit import read_distilled, read_vit

# timm's classes that there are here too, and who reads them.
READERS: dict[str, Callable[[Reader], dict[str, Any]]] = {
    "VisionTransformer": read_vit,
    "VisionTransformerDistilled": read_distilled,
    "Eva": read_eva,
    "Beit": read_beit,
    "VisionTransformerRelPos": read_relpos,
    "NaFlexVit": read_naflex,
}


def class_of(module: Any, like_timm: bool = False) -> str:
    """The name of the class of ours, and timm's, that a live module is of.

    like_timm: classes of these names are taken from anywhere, and subclasses; whether
    they compute the same is for the caller to find out.
    TypeError for anything else.
    """
    name = class_name(module)
    alike = alike_among(module, READERS)
    if not hasattr(module, "named_modules") or not (
        name in READERS or (like_timm and alike)
    ):
        *most, last = READERS
        raise TypeError(
            f"from_timm takes a timm {', '.join(most)} or {last}, got {name}; "
            + (
                TRY
                if alike
                else "a wrapper's own module (of torch.compile, DataParallel) has to "
                "be taken out first"
            )
        )
    return name if name in READERS else alike


def read_options(module: Any, like_timm: bool = False) -> dict[str, Any]:
    """The options of class_of(module, like_timm) that describe a live timm model.

    TypeError as there; ValueError, naming the path, for what is not supported.
    """
    name = class_of(module, like_timm)
    reader = Reader(module, like_timm)
    try:
        reader.take("", name)
        options = READERS[name](reader)
        reader.finish()
    except AttributeError as error:
        if not like_timm:
            raise
        raise ValueError(f"from_timm: not built as timm's is: {error}") from None
    return options
