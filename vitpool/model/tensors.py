# SPDX-License-Identifier: Apache-2.0
"""A torch tensor in gives torch tensors out; torch is not imported.

Only who has imported torch can hold a tensor, so it is found in sys.modules.
"""

from __future__ import annotations

import sys
from typing import Any, Protocol, TypeVar


class TorchTensor(Protocol):
    """What a type checker knows torch's tensors by, without torch."""

    requires_grad: bool


T = TypeVar("T")
Tensor = TypeVar("Tensor", bound=TorchTensor)


def like(x: Any, answer: T) -> T:
    """The answer of a call with x: where x is a torch tensor, so are the arrays in it.

    answer: an array, or a tuple, list or dict of answers; what is none, as None, stays.
    A tensor is a plain one on the CPU and shares the array's memory: float32 whatever
    x's dtype, and without a gradient. ValueError: x requires one, outside of
    torch.no_grad() and torch.inference_mode(), and would get none.
    """
    torch: Any = sys.modules.get("torch")
    tensor: Any = getattr(torch, "Tensor", ())
    if not isinstance(x, tensor):
        return answer
    if x.requires_grad and torch.is_grad_enabled():
        raise ValueError(
            "x requires a gradient, and vitpool computes none: call the model under "
            "torch.no_grad(), or with x.detach()"
        )
    tensors: T = _tensors(torch, answer)
    return tensors


def _tensors(torch: Any, answer: Any) -> Any:
    if isinstance(answer, dict):
        return {key: _tensors(torch, value) for key, value in answer.items()}
    if isinstance(answer, (tuple, list)):
        return type(answer)(_tensors(torch, value) for value in answer)
    return torch.from_numpy(answer) if hasattr(answer, "__array__") else answer
