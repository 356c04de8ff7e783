# SPDX-License-Identifier: Apache-2.0
"""Whether a file's tensors are of the dtypes that the folder's config.json says."""

from __future__ import annotations

from collections.abc import Mapping

from ..text import printable
from .lazy import StateDict


def check_dtypes(stored: StateDict, dtypes: Mapping[str, str]) -> None:
    """ValueError where they differ, in whatever tensor: one of the two is of another
    model, and what is rounded once more would go unnoticed.

    dtypes: as config.json has them, of what is not float32.
    """
    for key, title in dtypes.items():
        if key not in stored.tensors:
            _refuse(stored, f"has no {key!r:.100}, of which config.json says {title}")
    for key, tensor in stored.tensors.items():
        said = dtypes.get(key, "float32")
        if tensor.dtype != said.removesuffix("_a16"):
            is_of = tensor.dtype or "unknown dtype"
            _refuse(stored, f"{key!r:.100} is {is_of}, and config.json says {said}")


def _refuse(stored: StateDict, what: str) -> None:
    raise ValueError(printable(f"{stored.source}: {what}"))
