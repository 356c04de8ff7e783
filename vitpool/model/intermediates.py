# SPDX-License-Identifier: Apache-2.0
"""forward_intermediates: which blocks, and the shapes of the answer."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from ..config import as_int
from .parts import Float32


def take_indices(
    count: int, indices: int | Sequence[int] | None
) -> tuple[list[int], int]:
    """Which blocks, and the last: timm.models._features.featuretake_indices."""
    if indices is None:
        taken = list(range(count))
    elif isinstance(indices, (tuple, list)):
        taken = []
        for i in indices:
            if isinstance(i, bool) or not hasattr(i, "__index__"):
                raise TypeError(f"indices must be integers, not {type(i).__name__}")
            number = i.__index__()
            if not -count <= number < count:
                raise ValueError(
                    f"indices must be from {-count} to {count - 1}, not {number}"
                )
            taken.append(number % count)
    else:
        last = as_int(indices, "indices", 1)
        if last > count:
            raise ValueError(f"indices must be from 1 to {count} blocks, not {last}")
        taken = list(range(count - last, count))
    if not taken:
        raise ValueError("indices must name at least one block")
    return taken, max(taken)


def check_format(output_fmt: str) -> None:
    """TypeError or ValueError for what is no output_fmt."""
    if not isinstance(output_fmt, str):
        raise TypeError(f"output_fmt must be a str, not {type(output_fmt).__name__}")
    if output_fmt not in ("NCHW", "NLC"):
        raise ValueError(f"output_fmt must be 'NCHW' or 'NLC', not {output_fmt!r}")


def arrange(
    final: Float32 | None,
    blocks: list[Float32],
    prefix_tokens: int,
    grid: tuple[int, int] | None,
    *,
    return_prefix_tokens: bool,
    intermediates_only: bool,
    output_dict: bool,
) -> Any:
    """The outputs (B, N, C) of blocks as forward_intermediates gives them.

    grid: (rows, columns) of patches, to give (B, C, rows, columns); None for (B, N, C).
    """
    prefix = [y[:, :prefix_tokens] for y in blocks] if prefix_tokens else None
    spatial = [y[:, prefix_tokens:] for y in blocks]
    if grid is not None:
        spatial = [
            np.ascontiguousarray(
                y.reshape(len(y), *grid, y.shape[-1]).transpose(0, 3, 1, 2)
            )
            for y in spatial
        ]
    if output_dict:
        result: dict[str, Any] = {"image_intermediates": spatial}
        if prefix is not None and return_prefix_tokens:
            result["image_intermediates_prefix"] = prefix
        if not intermediates_only:
            result["image_features"] = final
        return result
    intermediates: list[Any] = spatial
    if return_prefix_tokens and prefix is not None:
        intermediates = list(zip(spatial, prefix, strict=True))
    return intermediates if intermediates_only else (final, intermediates)
