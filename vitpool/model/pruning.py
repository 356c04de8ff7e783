# SPDX-License-Identifier: Apache-2.0
"""A model without its last blocks: the options and the weights that it then has."""

from __future__ import annotations

from typing import Any

from .. import _core
from .parts import Float32

# rope_type 'mixed' has frequencies of each block in one parameter: (2, depth, ...).
_OF_BLOCKS = "rope.freqs"


def prune(
    model: _core.VisionTransformer, depth: int, without_norm: bool, without_head: bool
) -> None:
    """Leaves a snapshot its first `depth` blocks; without_norm, without_head: what
    follows them goes as well."""
    options, weights = model._options(), {}
    _drop_blocks(options, depth)
    if without_norm:
        options["norm"] = False
    if without_head:
        options.update(fc_norm=False, num_classes=0)
        if not options["dist_token"]:  # whose heads' mean is of two tokens, always
            options["global_pool"] = ""
    if _OF_BLOCKS in model.param_shapes():
        freqs: Float32 = model.get_parameter(_OF_BLOCKS)
        weights[_OF_BLOCKS] = freqs[:, :depth]
    model._replace(options, weights, set(model.untrained()) & set(weights))


def _drop_blocks(options: dict[str, Any], depth: int) -> None:
    """Of the blocks with all key and value heads some of the last go."""
    first = options["num_full_attn_blocks"]
    last = max(0, options["num_full_attn_last"] - (options["depth"] - depth))
    if first + last >= depth:
        options["num_kv_heads"] = first = last = 0
    options.update(depth=depth, num_full_attn_blocks=first, num_full_attn_last=last)
