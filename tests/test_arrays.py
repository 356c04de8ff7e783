# SPDX-License-Identifier: Apache-2.0
"""What comes in as an array: the dtype decides, and no protocol changes it."""

from __future__ import annotations

import array
import gc
import io
import sys
from contextlib import suppress
from typing import Any

import numpy as np
import pytest
from doors import (
    DOORS,
    FLOATS,
    OTHERS,
    WAYS,
    ByArray,
    ByDlpack,
    ByInterface,
    Tensor,
    carries,
)
from models import X, refused, same, small, unchanged

from vitpool import _core
from vitpool.checkpoint.lazy import as_float32

MASK = np.tril(np.ones((5, 5), bool))

# NumPy's own advice against its matrices.
pytestmark = pytest.mark.filterwarnings("ignore:the matrix subclass")

every_door = pytest.mark.parametrize("door", DOORS.values(), ids=DOORS)
every_way = pytest.mark.parametrize("way", WAYS)


# dtypes


@every_door
@every_way
def test_floats_come_in_by_every_door(door: Any, way: str) -> None:
    model = door.model()
    for dtype in FLOATS:
        given = door.value.astype(dtype)
        if carries(way, given):
            want = door.call(model, np.ascontiguousarray(given.astype(np.float32)))
            got = door.call(model, WAYS[way](given))
            np.testing.assert_array_equal(got, want)
            assert got.dtype == want.dtype


def layouts(a: Any) -> dict[str, Any]:
    """The numbers of `a`, 256 x 256, in other orders and places."""
    apart = np.zeros((256, 512), a.dtype)
    apart[:, ::2] = a
    odd = np.frombuffer(b"." + a.tobytes(), a.dtype, offset=1).reshape(a.shape)
    shut = a.copy()
    shut.flags.writeable = False
    return {
        "as it is": a,
        "read-only": shut,
        "columns first": np.asfortranarray(a),
        "gaps": apart[:, ::2],
        "reversed": np.ascontiguousarray(a[::-1, ::-1])[::-1, ::-1],
        "between two numbers": odd,
        "big-endian": a.astype(">f2"),
        "big-endian, columns first": np.asfortranarray(a.astype(">f2")),
    }


def test_every_float16_is_the_same_number_in_float32_however_it_lies() -> None:
    halves = np.arange(65536, dtype=np.uint16).view(np.float16).reshape(256, 256)
    bits = halves.view(np.uint16)
    nan = np.isnan(halves)
    for layout, given in layouts(halves).items():
        before = given.tobytes()
        for cast in (lambda a: _core.as_float32(a, "x"), as_float32):
            got = cast(given)
            assert got.dtype == np.float32, layout
            assert got.flags.c_contiguous, layout
            np.testing.assert_array_equal(got, halves.astype(np.float64), layout)
            # zeros have signs, and what a NaN says stays, too
            assert (np.signbit(got) == np.signbit(halves)).all(), layout
            kept = got.view(np.uint32) >> 13 & 0x3FF
            assert (kept[nan] == (bits[nan] & 0x3FF | 0x200)).all(), layout
        assert given.tobytes() == before, layout


@pytest.mark.parametrize("shape", [(), (0,), (3, 0, 2), (1,), (2, 3, 5, 7)])
def test_float16_of_any_shape_keeps_it(shape: tuple[int, ...]) -> None:
    given = np.full(shape, -1.5, np.float16)
    for got in (_core.as_float32(given, "x"), as_float32(given)):
        assert got.shape == shape
        assert (got == -1.5).all()
        assert got.dtype == np.float32


@every_door
@every_way
def test_other_dtypes_come_in_by_none(door: Any, way: str) -> None:
    model = door.model()
    with unchanged(model):
        for dtype in OTHERS:
            given = np.zeros(door.value.shape, dtype)
            if door.what == "attn_mask" and dtype is bool:
                continue
            if carries(way, given):
                with refused(TypeError, door.what, "float32", given.dtype):
                    door.call(model, WAYS[way](given))


@every_way
def test_a_bool_mask_is_applied_and_not_added(way: str) -> None:
    model = small(depth=2)
    want = model(X, attn_mask=MASK)
    np.testing.assert_array_equal(model(X, attn_mask=WAYS[way](MASK)), want)
    np.testing.assert_array_equal(model(X, attn_mask=MASK.tolist()), want)
    assert not np.allclose(want, model(X, attn_mask=MASK.astype(np.float32)))


@every_door
@pytest.mark.parametrize("wants_grad", [False, True])
def test_a_lazy_negation_keeps_its_sign(door: Any, wants_grad: bool) -> None:
    model = door.model()
    want = door.call(model, door.value)
    got = door.call(model, Tensor(-door.value, wants_grad, negative=True))
    np.testing.assert_array_equal(got, want)


class Hidden(Tensor):
    """What NumPy's protocol refuses and DLPack would give: a fake tensor of torch's."""

    def __array__(self, dtype: Any = None, copy: Any = None) -> np.ndarray:
        raise RuntimeError("these are not my numbers")


@every_door
def test_dlpack_gives_nothing_that_numpys_protocol_refuses(door: Any) -> None:
    model = door.model()
    with refused(TypeError, door.what, "not my numbers", model=model):
        door.call(model, Hidden(door.value))


# what holds numbers


@every_door
def test_lists_and_buffers_are_taken_as_numpy_takes_them(door: Any) -> None:
    model = door.model()
    want = door.call(model, door.value)
    flat = array.array("f", door.value.ravel().tolist())
    for given in (
        door.value.tolist(),
        list(door.value),
        memoryview(door.value),
        memoryview(flat).cast("B").cast("f", list(door.value.shape)),
        door.value[None].view(np.recarray)[0],
    ):
        np.testing.assert_array_equal(door.call(model, given), want)


@pytest.mark.parametrize(
    "given",
    [
        *(None, "picture", b"picture", 3, 3.5, True, object(), {}, {1.0}, range(3)),
        *(io.BytesIO(b"abcd"), memoryview(b"abcd"), np.float32(3), np.int64(3)),
        *([], [1, 2], [None], ["a"], [b"a"], [1.0, [2.0]], [{}], np.ma.masked, type),
    ],
    ids=lambda given: repr(given).partition(" at 0x")[0],  # the same in each process
)
def test_what_holds_no_picture_comes_in_by_no_door(given: object) -> None:
    for door in DOORS.values():
        if given is None and door.what in ("attn_mask", "pos_embed"):
            continue  # means that there is none
        model = door.model()
        with unchanged(model):
            with pytest.raises((TypeError, ValueError), match=door.what):
                door.call(model, given)


def test_a_file_is_refused_and_not_detached() -> None:
    file = io.BufferedReader(io.BytesIO(b"abcd"))  # it has a detach() of its own
    with refused(TypeError, "x", "BufferedReader"):
        small()(file)
    assert file.read() == b"abcd"


def views(value: np.ndarray) -> dict[str, np.ndarray]:
    """The same numbers in every memory layout."""
    wide = np.zeros([2 * n for n in value.shape], np.float32)
    strided = wide[(slice(None, None, 2),) * value.ndim]
    strided[...] = value
    readonly = value.copy()
    readonly.flags.writeable = False
    raw = np.zeros(value.nbytes + 1, np.uint8)[1:].view(np.float32)
    unaligned = raw.reshape(value.shape)
    unaligned[...] = value
    backwards = (slice(None, None, -1),) * value.ndim
    return {
        "strided": strided,
        "reversed": np.ascontiguousarray(value[backwards])[backwards],
        "fortran": np.asfortranarray(value),
        "readonly": readonly,
        "unaligned": unaligned,
    }


@every_door
@pytest.mark.parametrize("layout", list(views(X)))
@pytest.mark.parametrize("way", ["array", "__array_interface__", "DLPack"])
def test_every_memory_layout_gives_the_same_bits(
    door: Any, layout: str, way: str
) -> None:
    if way == "DLPack" and layout == "unaligned":
        return  # NumPy itself exports none
    model = door.model()
    given = views(door.value)[layout]
    if way == "DLPack":
        try:
            given.__dlpack__(max_version=(1, 0))
        except (TypeError, BufferError):  # read-only, before NumPy 2
            return
    before = given.copy()
    want = door.call(model, door.value)
    plain = {
        "array": lambda a: a,
        "__array_interface__": ByInterface,
        "DLPack": ByDlpack,
    }
    np.testing.assert_array_equal(door.call(model, plain[way](given)), want)
    np.testing.assert_array_equal(given, before)


def test_channels_last_pictures_give_the_same_bits() -> None:
    model = small(global_pool="map")
    given = np.ascontiguousarray(X.transpose(0, 2, 3, 1)).transpose(0, 3, 1, 2)
    np.testing.assert_array_equal(model(given), model(X))


def test_one_picture_for_the_whole_batch_by_stride_zero() -> None:
    model = small()
    given = np.broadcast_to(X[:1], (4, 3, 32, 32))
    for whole in (given, ByDlpack(given), ByInterface(given)):
        for row in model(whole):
            np.testing.assert_array_equal(row, model(X)[0])


class Subclass(np.ndarray):
    """A subclass with an idea of its own of what a conversion gives."""

    def __array_finalize__(self, obj: Any) -> None:
        pass

    def astype(self, *args: Any, **kwargs: Any) -> Any:
        raise AssertionError("the subclass was asked")


@every_door
def test_subclasses_are_read_as_arrays(door: Any) -> None:
    model = door.model()
    want = door.call(model, door.value)
    given = [door.value.view(Subclass)]
    if door.value.ndim == 2:
        given.append(np.matrix(door.value))
    for subclass in given:
        got = door.call(model, subclass)
        np.testing.assert_array_equal(got, want)
        assert type(got) is np.ndarray


# masked arrays


class Masked(np.ndarray):
    """A masked array of another library than NumPy, as astropy's."""

    mask = True


@every_door
def test_a_masked_array_is_refused_and_not_stripped_of_its_mask(door: Any) -> None:
    model = door.model()
    masked = np.ma.masked_greater(door.value, 0.5)
    nested = list(masked) if masked.ndim > 1 else None
    with unchanged(model):
        for given in (
            masked,
            np.ma.array(door.value),
            door.value.view(Masked),
            ByArray(masked),
            nested,
            None if nested is None else tuple(nested),
            None if masked.ndim < 4 else [list(part) for part in nested or ()],
        ):
            if given is not None:
                with refused(TypeError, door.what, "masked", "fill"):
                    door.call(model, given)
    np.testing.assert_array_equal(
        door.call(model, masked.filled(0)),
        door.call(model, np.asarray(masked.filled(0))),
    )


# errors of the one who gives


class Raises:
    def __init__(self, error: BaseException) -> None:
        self.error = error

    def __array__(self, dtype: Any = None, copy: Any = None) -> np.ndarray:
        raise self.error


class RaisesDlpack(Raises):
    """Only by DLPack."""

    __array__ = property()  # type: ignore[assignment]

    def __dlpack__(self, **kwargs: Any) -> Any:
        raise self.error

    def __dlpack_device__(self) -> tuple[int, int]:
        return 1, 0


@pytest.mark.parametrize("way", [Raises, RaisesDlpack])
def test_a_refusal_of_the_given_object_is_the_cause_of_ours(way: Any) -> None:
    model = small()
    for error, kind in (
        (TypeError("mine"), TypeError),
        (RuntimeError("mine"), TypeError),
        (NotImplementedError("mine"), TypeError),
        (BufferError("mine"), TypeError),
        (ValueError("mine"), ValueError),
    ):
        with refused(kind, "x must be an array of float32", way.__name__, "mine"):
            model(way(error))
        with pytest.raises(kind) as raised:
            model(X, attn_mask=way(error))
        assert raised.value.__cause__ is error
        assert raised.value.__cause__.__traceback__ is not None


def test_no_reference_is_kept_to_the_cause_of_a_refusal() -> None:
    model, error = small(), TypeError("mine")
    counts = []
    for _ in range(5):
        with suppress(TypeError):
            model(Raises(error))
        error.__traceback__ = None
        gc.collect()
        counts.append(sys.getrefcount(error))
    assert len(set(counts)) == 1


@pytest.mark.parametrize("way", [Raises, RaisesDlpack])
def test_any_other_error_of_the_given_object_comes_through(way: Any) -> None:
    model = small()
    for error in (KeyError("mine"), MemoryError("mine"), OSError(5, "mine")):
        with unchanged(model), pytest.raises(type(error)) as raised:
            model(way(error))
        assert raised.value is error


@every_door
def test_an_array_of_another_device_is_refused(door: Any) -> None:
    model = door.model()
    with refused(TypeError, door.what, "not on the CPU", model=model):
        door.call(model, ByDlpack(door.value, device=2))


# what comes out


def test_as_float32_copies_only_what_it_converts() -> None:
    assert _core.as_float32(X, "x") is X
    for given in (X.astype(np.float64), X[:, ::-1], X.astype(">f4"), X.tolist()):
        got = _core.as_float32(given, "x")
        np.testing.assert_array_equal(got, np.asarray(given, np.float32))
        assert got.dtype == np.float32
        assert got.flags.c_contiguous
    assert _core.as_float32(2.5, "x").shape == ()
    assert type(_core.as_float32(X.view(Subclass), "x")) is np.ndarray
    with refused(TypeError, "mine", "object"):
        _core.as_float32(object(), "mine")


def test_pixels_and_their_statistics_come_in_by_the_same_door() -> None:
    pixels = np.arange(24, dtype=np.uint8).reshape(2, 4, 3)
    mean, std = np.float32([0.5, 0.25, 0.125]), np.float32([1, 2, 4])
    want = _core.normalize_u8(pixels, mean, std)
    for way, give in WAYS.items():
        got = _core.normalize_u8(give(pixels), give(mean), give(std))
        np.testing.assert_array_equal(got, want, err_msg=way)
        for dtype in (np.int8, np.float32, bool):
            with refused(TypeError, "pixels", "uint8"):
                _core.normalize_u8(give(pixels.astype(dtype)), mean, std)
    np.testing.assert_array_equal(
        _core.normalize_u8(pixels[::-1, :, ::-1], tuple(mean), list(std)),
        _core.normalize_u8(np.ascontiguousarray(pixels[::-1, :, ::-1]), mean, std),
    )
    with refused(TypeError, "masked"):
        _core.normalize_u8(np.ma.array(pixels), mean, std)
    with refused(ValueError, "pixels", "(2, 12)"):
        _core.normalize_u8(pixels.reshape(2, 12), mean, std)
    for wrong in (mean[:2], np.ones(4, np.float32)):
        with refused(ValueError, "mean"):
            _core.normalize_u8(pixels, wrong, std)
        with refused(ValueError, "std"):
            _core.normalize_u8(pixels, mean, wrong)


@every_way
def test_no_reference_is_kept_to_what_came_in_or_was_refused(way: str) -> None:
    model = small()
    arrays = [X, X.astype(np.float16), MASK, MASK.astype(int), X[:, :1].copy()]
    given = [WAYS[way](array) for array in arrays]
    given += [np.ma.array(X), [np.ma.array(X[0])] * 2, ByDlpack(X, device=2)]

    def call() -> None:
        for one in given:
            for door in DOORS.values():
                with suppress(TypeError, ValueError):
                    door.call(model, one)

    call()
    gc.collect()  # of an error, its traceback and frames that hold each other
    before = [sys.getrefcount(one) for one in (*arrays, *given)]
    for _ in range(5):
        call()
    gc.collect()
    assert [sys.getrefcount(one) for one in (*arrays, *given)] == before


def test_what_comes_in_is_not_kept_by_a_model() -> None:
    model = small()
    given = {k: v + 1 for k, v in model.state_dict().items()}
    want = {k: v.copy() for k, v in given.items()}
    model.load_state_dict({k: ByDlpack(v) for k, v in given.items()})
    for value in given.values():
        value[...] = 0
    assert same(model.state_dict(), want)
