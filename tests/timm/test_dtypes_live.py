# SPDX-License-Identifier: Apache-2.0
"""Weights of other dtypes as torch has them: tensors in, its modules beside ours."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import reference
import torch
from low_precision import KEPT, in_dtype
from models import BASE, X, refused, small
from timm.models import vision_transformer as vit

from vitpool.model import VisionTransformer


def tensors(state: dict[str, Any]) -> dict[str, torch.Tensor]:
    """A state dict of ours as torch's, dtype by dtype."""
    return {
        key: torch.from_numpy(np.asarray(value, np.float32)).bfloat16()
        if value.dtype.name == "bfloat16"
        else torch.from_numpy(value)
        for key, value in state.items()
    }


@pytest.mark.parametrize("dtype", KEPT)
def test_torchs_tensors_of_every_dtype_go_in_to_the_bit(dtype: str) -> None:
    model = in_dtype(small(), dtype)
    state = tensors(model.state_dict())
    kind = getattr(torch, dtype.removesuffix("_a16"))
    assert state["head.weight"].dtype == kind
    other = in_dtype(small(num_classes=10), dtype)
    other.load_state_dict({k: torch.zeros_like(v) for k, v in state.items()})
    other.load_state_dict(state)
    assert other(X).tobytes() == model(X).tobytes()
    wide = VisionTransformer(**BASE, weights=state)
    for key in wide.param_shapes():
        np.testing.assert_array_equal(wide.get_parameter(key), model.get_parameter(key))


def test_torchs_integers_without_a_scale_change_nothing() -> None:
    model = small().to("int8")
    state = tensors(model.state_dict())
    key = "blocks.0.attn.qkv.weight"
    with refused(TypeError, key, "missing", model=model):
        model.load_state_dict({k: v for k, v in state.items() if k != f"{key}_scale"})
    with refused(TypeError, key, "float64", model=model):
        model.load_state_dict(state | {f"{key}_scale": state[f"{key}_scale"].double()})


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_torchs_module_takes_a_state_dict_of_ours(dtype: torch.dtype) -> None:
    name: Any = str(dtype).removeprefix("torch.")
    ours = small().to(name)
    theirs = reference.build(BASE).to(dtype)
    theirs.load_state_dict(tensors(ours.state_dict()))
    with torch.inference_mode():
        want = theirs.float().eval()(torch.from_numpy(X)).numpy()
    wide = ours.to("float32")(X)
    assert np.abs(wide - want).max() < (1e-5 if name == "float32" else 0.02)


def test_a_constructor_takes_what_timms_takes() -> None:
    """device and dtype are its factory arguments."""
    for dtype in (None, torch.float32, torch.bfloat16, torch.float16):
        made = VisionTransformer(**BASE, device=torch.device("cpu"), dtype=dtype)
        theirs = vit.VisionTransformer(**BASE, dtype=dtype)
        kind = str(theirs.head.weight.dtype).removeprefix("torch.")
        assert made.dtype == kind
    with refused(ValueError, "device", "meta"):
        VisionTransformer(**BASE, device=torch.device("meta"))
