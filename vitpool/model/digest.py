# SPDX-License-Identifier: Apache-2.0
"""A text that changes with any weight, by which one model's numbers are told from
another's."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from typing import Any


def digest(model: Any, names: Iterable[str]) -> str:
    """Of these parameters, in their order: names, shapes, every bit, and what is kept
    as another dtype than float32."""
    # here: a model alone needs no Pillow, and no pool of threads
    from concurrent.futures import ThreadPoolExecutor

    from ..transforms import default_workers

    dtypes = model._dtypes()

    def one(name: str) -> bytes:
        array = model.get_parameter(name)
        kept = "" if dtypes[name] == "float32" else f" {dtypes[name]}"
        told = hashlib.blake2b(f"{name} {array.shape}{kept}".encode(), digest_size=16)
        told.update(array)
        return told.digest()

    with ThreadPoolExecutor(default_workers()) as pool:
        whole = b"".join(pool.map(one, names))
    return hashlib.blake2b(whole, digest_size=16).hexdigest()
