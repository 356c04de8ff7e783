# SPDX-License-Identifier: Apache-2.0
"""A torch tensor in gives torch tensors out; torch is not imported."""

from __future__ import annotations

import sys
from typing import Any


def like(x: Any, answer: Any) -> Any:
    """The answer of a call with x: where x is a torch tensor, so are the arrays in it,
    which share memory. answer: an array, or a tuple, list or dict of answers."""
    torch = sys.modules.get("torch")
    if torch is None or not isinstance(x, torch.Tensor):
        return answer
    if isinstance(answer, dict):
        return {key: like(x, value) for key, value in answer.items()}
    if isinstance(answer, (tuple, list)):
        return type(answer)(like(x, value) for value in answer)
    return torch.from_numpy(answer) if hasattr(answer, "__array__") else answer
