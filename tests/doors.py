# SPDX-License-Identifier: Apache-2.0
"""Every door that an array comes in by, and every way in which one is given.

A door takes floats, and the mask's also bools, whatever the way: what a number means
may not depend on the protocol that carries it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import ml_dtypes
import numpy as np
from golden import recipe
from models import BASE, X, small

import vitpool

FLOATS = [np.float32, np.float64, np.float16, ml_dtypes.bfloat16, ">f4", ">f8"]
OTHERS = [
    *(bool, np.uint8, np.int8, np.int32, np.int64, np.uint16, np.complex64),
    *(np.longdouble, ml_dtypes.float8_e4m3fn, ml_dtypes.int4, object),
    *("U3", "S2", "M8[s]", [("r", "f4"), ("g", "f4")]),
]


@dataclass(frozen=True)
class Door:
    """A call that takes an array: its name for it, one that fits, what comes out."""

    what: str
    value: np.ndarray
    call: Callable[[Any, Any], np.ndarray]
    options: dict[str, Any] = field(default_factory=dict)

    def model(self) -> Any:
        return small(**{"global_pool": "avg"} | self.options)


def _load(model: Any, bias: Any) -> np.ndarray:
    model.load_state_dict({"head.bias": bias}, strict=False)
    return np.array(model.head.bias)


def _assign(model: Any, bias: Any) -> np.ndarray:
    model.head.bias = bias
    return np.array(model.head.bias)


def _set_head(model: Any, weight: Any) -> np.ndarray:
    model.set_head(weight)
    return np.array(model.head.weight)


def _build(model: Any, bias: Any) -> np.ndarray:
    weights = recipe.weights(model.param_shapes()) | {"head.bias": bias}
    options = BASE | {"global_pool": "avg"}
    return np.array(vitpool.VisionTransformer(**options, weights=weights).head.bias)


TOKENS = recipe.picture((2, 5, 32))
DOORS = {
    "forward": Door("x", X, lambda m, x: m(x)),
    "forward_features": Door("x", X, lambda m, x: m.forward_features(x)),
    "forward_intermediates": Door(
        "x", X, lambda m, x: m.forward_intermediates(x)[1][0]
    ),
    "profile": Door("x", X, lambda m, x: np.array(len(m.profile(x)))),
    "any size": Door(
        "x",
        recipe.picture((2, 3, 48, 32)),
        lambda m, x: m(x),
        {"dynamic_img_size": True},
    ),
    "intermediates of any size": Door(
        "x", X, lambda m, x: m.forward_intermediates(x)[0], {"dynamic_img_size": True}
    ),
    "forward_head": Door("x", TOKENS, lambda m, x: m.forward_head(x)),
    "pool": Door("x", TOKENS, lambda m, x: m.pool(x)),
    "fc_norm": Door("x", TOKENS[:, 0], lambda m, x: m.fc_norm(x)),
    "patch_embed": Door("x", X, lambda m, x: m.patch_embed(x)),
    "proj": Door("x", X, lambda m, x: m.patch_embed.proj(x)),
    "a block": Door("x", TOKENS, lambda m, x: m.blocks[0](x)),
    "blocks": Door("x", TOKENS, lambda m, x: m.blocks(x)),
    "attention": Door("x", TOKENS, lambda m, x: m.blocks[0].attn(x)),
    "attention's mask": Door(
        "attn_mask",
        recipe.picture((5, 5)),
        lambda m, mask: m.blocks[0].attn(TOKENS, attn_mask=mask),
    ),
    "attn_mask": Door(
        "attn_mask", recipe.picture((5, 5)), lambda m, mask: m(X, attn_mask=mask)
    ),
    "pos_embed": Door(
        "pos_embed", TOKENS[:1], lambda m, p: m._run(X, 3, pos_embed=p)[0]
    ),
    "load_state_dict": Door("head.bias", recipe.picture((10,)), _load),
    "assigned": Door("head.bias", recipe.picture((10,)), _assign),
    "set_head": Door("weight", recipe.picture((10, 32)), _set_head),
    "weights": Door("head.bias", recipe.picture((10,)), _build),
}


class ByArray:
    """What has __array__ alone, as a table of pandas."""

    def __init__(self, array: np.ndarray) -> None:
        self.array = array

    def __array__(self, dtype: Any = None, copy: Any = None) -> np.ndarray:
        return self.array if dtype is None else self.array.astype(dtype)


class ByInterface:
    """What has __array_interface__ alone."""

    def __init__(self, array: np.ndarray) -> None:
        self.array = array

    @property
    def __array_interface__(self) -> dict[str, Any]:
        return self.array.__array_interface__


class ByDlpack:
    """What has DLPack alone; `device` as in DLDeviceType, 1 for the CPU."""

    def __init__(self, array: np.ndarray, device: int = 1) -> None:
        self.array, self.device = array, device

    def __dlpack__(self, **kwargs: Any) -> Any:
        if self.device != 1:
            raise BufferError("not on the CPU")
        return self.array.__dlpack__(**kwargs)

    def __dlpack_device__(self) -> tuple[int, int]:
        return self.device, 0


class Tensor:
    """torch's ways, without torch.

    Like torch.Tensor it does not export while it wants a gradient, gives out bfloat16
    by no protocol, keeps a negation lazy (`negative`), which NumPy's protocol refuses
    and DLPack forgets, and makes anything a float32 when told so.
    """

    def __init__(
        self, array: np.ndarray, wants_grad: bool = False, negative: bool = False
    ) -> None:
        self.array, self.wants_grad, self.negative = array, wants_grad, negative

    @property
    def dtype(self) -> str:
        return f"torch.{self.array.dtype.name}"

    @property
    def shape(self) -> tuple[int, ...]:
        return self.array.shape

    def detach(self) -> Tensor:
        return type(self)(self.array, False, self.negative)

    def resolve_conj(self) -> Tensor:
        return self

    def resolve_neg(self) -> Tensor:
        return type(self)(-self.array, self.wants_grad) if self.negative else self

    def float(self) -> Tensor:
        return type(self)(self.array.astype(np.float32), self.wants_grad, self.negative)

    def __array__(self, dtype: Any = None, copy: Any = None) -> np.ndarray:
        if self.wants_grad or self.negative:
            raise RuntimeError("Can't call numpy() on a Tensor like this")
        if self.array.dtype == ml_dtypes.bfloat16:
            raise TypeError("Got unsupported ScalarType BFloat16")
        return self.array

    def __dlpack__(self, **kwargs: Any) -> Any:
        if self.wants_grad:
            raise BufferError("Can't export tensors that require gradient")
        return self.array.__dlpack__(**kwargs)

    def __dlpack_device__(self) -> tuple[int, int]:
        return 1, 0


def _native(array: np.ndarray) -> np.ndarray:
    """Tensors, and what DLPack carries, have the machine's own order of bytes."""
    return array.astype(array.dtype.newbyteorder("="))


WAYS: dict[str, Callable[[np.ndarray], Any]] = {
    "array": lambda array: array,
    "__array__": ByArray,
    "__array_interface__": ByInterface,
    "DLPack": lambda array: ByDlpack(_native(array)),
    "tensor": lambda array: Tensor(_native(array)),
    "tensor that wants a gradient": lambda array: Tensor(_native(array), True),
}


def carries(way: str, array: np.ndarray) -> bool:
    """Can an array of this dtype be given in this way at all?"""
    if way == "__array_interface__":
        return array.dtype.kind != "V"
    if way == "DLPack":
        return array.dtype.kind in "biufc" and array.dtype != np.longdouble
    return True
