# SPDX-License-Identifier: Apache-2.0
"""torch's own tensors by every door: the same numbers, or a refusal that says why.

tests/test_arrays.py has the same tables without torch.
"""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import pytest
import torch
from doors import DOORS
from models import X, refused, same, small, unchanged
from torch._subclasses.fake_tensor import FakeTensorMode

import vitpool
from vitpool import _core

pytestmark = pytest.mark.filterwarnings("ignore:The PyTorch API of MaskedTensors")

every_door = pytest.mark.parametrize("door", DOORS.values(), ids=DOORS)

FLOATS = [torch.float32, torch.float64, torch.float16, torch.bfloat16]
OTHERS = [
    *(torch.bool, torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64),
    *(torch.uint16, torch.uint32, torch.complex64, torch.complex128),
]
MASK = torch.ones(5, 5).tril().bool()


def tensor(array: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(array.copy())


def negated(given: torch.Tensor) -> torch.Tensor:
    """`given` as a lazy negation: the memory holds -given."""
    out = torch._neg_view(-given)
    assert out.is_neg()
    return out


@every_door
@pytest.mark.parametrize("dtype", FLOATS, ids=str)
@pytest.mark.parametrize("wants_grad", [False, True])
def test_floats_come_in_by_every_door(
    door: Any, dtype: torch.dtype, wants_grad: bool
) -> None:
    model = door.model()
    given = tensor(door.value).to(dtype)
    want = door.call(model, given.float().numpy())
    with torch.no_grad():  # outside, an answer would be without the gradient
        np.testing.assert_array_equal(
            door.call(model, given.clone().requires_grad_(wants_grad)), want
        )
        np.testing.assert_array_equal(
            door.call(model, torch.nn.Parameter(given, requires_grad=wants_grad)), want
        )


@every_door
def test_other_dtypes_come_in_by_none(door: Any) -> None:
    model = door.model()
    with unchanged(model):
        for dtype in OTHERS:
            if door.what == "attn_mask" and dtype == torch.bool:
                continue
            given = torch.zeros(door.value.shape, dtype=dtype)
            name = str(dtype).removeprefix("torch.")
            with refused(TypeError, door.what, "float32", "Tensor", name):
                door.call(model, given)


def test_a_bool_mask_is_applied_and_not_added() -> None:
    model = small(depth=2)
    want = model(X, attn_mask=MASK.numpy())
    for mask in (MASK, MASK.expand(2, 2, 5, 5), MASK.to_sparse().to_dense()):
        np.testing.assert_array_equal(model(X, attn_mask=mask), want)
    added = torch.where(MASK, 0.0, -torch.inf)
    np.testing.assert_array_equal(model(X, attn_mask=added), want)


@every_door
def test_lazy_negations_and_conjugations_are_done(door: Any) -> None:
    model = door.model()
    for dtype in FLOATS:
        given = tensor(door.value).to(dtype)
        want = door.call(model, given)
        np.testing.assert_array_equal(door.call(model, negated(given)), want)
        wants_grad = negated(given).requires_grad_()
        with torch.no_grad():
            np.testing.assert_array_equal(door.call(model, wants_grad), want)
    spectrum = torch.complex(-tensor(door.value), -tensor(door.value)).conj()
    want = door.call(model, door.value)
    np.testing.assert_array_equal(door.call(model, spectrum.imag), want)
    np.testing.assert_array_equal(door.call(model, -spectrum.real), want)
    with refused(TypeError, door.what, "complex64"):
        door.call(model, spectrum)


@every_door
def test_every_memory_layout_gives_the_same_bits(door: Any) -> None:
    model = door.model()
    want = door.call(model, door.value)
    given = tensor(door.value)
    wide = torch.zeros([2 * n for n in given.shape])
    strided = wide[(slice(None, None, 2),) * given.ndim]
    strided.copy_(given)
    last_first = given.movedim(-1, 0).contiguous().movedim(0, -1)
    with torch.inference_mode():
        inference = tensor(door.value)
    for layout in (strided, last_first, inference, given.share_memory_()):
        np.testing.assert_array_equal(door.call(model, layout), want)
    if given.ndim == 4:
        channels_last = given.to(memory_format=torch.channels_last)
        np.testing.assert_array_equal(door.call(model, channels_last), want)


def test_one_picture_for_the_whole_batch_by_stride_zero() -> None:
    model = small()
    for row in model(tensor(X[:1]).expand(4, 3, 32, 32)):
        np.testing.assert_array_equal(row, model(X)[0])


class Named(torch.Tensor):
    """A subclass, as torchvision's tv_tensors.Image is one."""


def test_a_subclass_that_holds_plain_numbers_is_read() -> None:
    model = small()
    np.testing.assert_array_equal(model(tensor(X).as_subclass(Named)), model(X))


def odd(array: np.ndarray) -> dict[str, torch.Tensor]:
    """Tensors whose memory is not their numbers, or not here."""
    from torch.masked import masked_tensor

    plain = tensor(array)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        out = {
            "sparse": plain.to_sparse(),
            "mkldnn": plain.to_mkldnn(),
            "meta": plain.to("meta"),
            "quantised": torch.quantize_per_tensor(plain, 0.1, 0, torch.quint8),
            "float8": plain.to(torch.float8_e4m3fn),
            "complex half": torch.zeros(array.shape, dtype=torch.complex32),
            "zero": torch._efficientzerotensor(array.shape),
            "masked": masked_tensor(plain, plain > 0),
            "nested": torch.nested.nested_tensor([plain, plain]),
            "jagged": torch.nested.nested_tensor(
                [plain.flatten(1) if plain.ndim > 1 else plain] * 2,
                layout=torch.jagged,
            ),
        }
        if array.ndim == 2:
            out["csr"] = plain.to_sparse_csr()
    with FakeTensorMode():
        out["fake"] = torch.zeros(array.shape)
    return out


@every_door
def test_what_is_no_plain_memory_is_refused(door: Any) -> None:
    """torch's DLPack would give out some of these as if they were plain."""
    model = door.model()
    with unchanged(model):
        for name, given in odd(door.value).items():
            with pytest.raises(TypeError, match=door.what) as raised:
                door.call(model, given)
            assert "float32" in str(raised.value), name
            if name in ("sparse", "meta", "float8"):
                assert name[:4].title() in str(raised.value).title()


@pytest.mark.parametrize("dtype", FLOATS, ids=str)
def test_a_whole_state_dict_is_loaded(dtype: torch.dtype) -> None:
    model = small(global_pool="map")
    weights = {k: tensor(v + 1).to(dtype) for k, v in model.state_dict().items()}
    want = {k: v.float().numpy() for k, v in weights.items()}
    given = {k: torch.nn.Parameter(v) for k, v in weights.items()}
    model.load_state_dict(given)
    assert same(model.state_dict(), want)
    assert same(
        vitpool.VisionTransformer(**model.config, weights=given).state_dict(), want
    )
    from vitpool.checkpoint.lazy import as_lazy

    for key, value in given.items():
        np.testing.assert_array_equal(as_lazy(value).read(), want[key])


def test_weights_of_integers_are_refused_whatever_holds_them() -> None:
    model = small()
    state = {k: tensor(v) for k, v in model.state_dict().items()}
    for dtype in (torch.int8, torch.int64, torch.bool):
        wrong = state | {"norm.bias": state["norm.bias"].to(dtype)}
        with refused(TypeError, "norm.bias", "float32", model=model):
            model.load_state_dict(wrong)


def test_pixels_of_torch_are_pixels() -> None:
    pixels = torch.arange(24, dtype=torch.uint8).reshape(2, 4, 3)
    mean, std = torch.tensor([0.5, 0.25, 0.125]), torch.ones(3)
    want = _core.normalize_u8(pixels.numpy(), (0.5, 0.25, 0.125), (1.0, 1.0, 1.0))
    np.testing.assert_array_equal(_core.normalize_u8(pixels, mean, std), want)
    with refused(TypeError, "pixels", "uint8", "int8"):
        _core.normalize_u8(pixels.to(torch.int8), mean, std)


def test_nothing_is_kept_of_a_tensor() -> None:
    model = small()
    given = {k: tensor(v + 1) for k, v in model.state_dict().items()}
    model.load_state_dict(given)
    before = model(X)
    for value in given.values():
        value.zero_()
    np.testing.assert_array_equal(model(X), before)
