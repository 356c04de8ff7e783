# SPDX-License-Identifier: Apache-2.0
"""Steps of optimizers in C, beside torch's formulas in float64; dropout's bits."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

import vitpool
from vitpool import _core

# Of one number, of several work items with a tail, and of one matrix.
SHAPES = [(1,), (40_003,), (37, 19)]
STEPS = 60


@pytest.fixture(autouse=True)
def _threads() -> Iterator[None]:
    before = vitpool.get_num_threads()
    yield
    vitpool.set_num_threads(before)


def numbers(shape: tuple[int, ...], seed: int) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def gradient(w: np.ndarray, step: int) -> np.ndarray:
    """A gradient that depends on the weights: errors would add up."""
    noise = numbers(w.shape, 1000 + step)
    return (0.3 * w + noise).astype(np.float32)


def adamw(
    w: np.ndarray,
    moments: list[np.ndarray],
    g: np.ndarray,
    step: int,
    *,
    lr: float,
    betas: tuple[float, float],
    eps: float,
    weight_decay: float,
) -> np.ndarray:
    """torch.optim.AdamW, _single_tensor_adam with decoupled weight decay."""
    m, v = moments
    w = w * (1 - lr * weight_decay)
    m += (g - m) * (1 - betas[0])
    v *= betas[1]
    v += (1 - betas[1]) * g * g
    denominator = np.sqrt(v) / np.sqrt(1 - betas[1] ** step) + eps
    return w - lr / (1 - betas[0] ** step) * m / denominator


def sgd(
    w: np.ndarray,
    moments: list[np.ndarray],
    g: np.ndarray,
    step: int,
    *,
    lr: float,
    momentum: float,
    weight_decay: float,
    nesterov: bool,
) -> np.ndarray:
    """torch.optim.SGD, _single_tensor_sgd."""
    g = g + weight_decay * w
    buf = moments[0]
    buf[:] = g if step == 1 else momentum * buf + g
    return w - lr * (g + momentum * buf if nesterov else buf)


def lars(
    w: np.ndarray,
    moments: list[np.ndarray],
    g: np.ndarray,
    step: int,
    *,
    lr: float,
    momentum: float,
    weight_decay: float,
    trust: float,
) -> np.ndarray:
    """util/lars.py of MAE; trust 0 is its parameter of one dimension."""
    if trust > 0:
        g = g + weight_decay * w
        weights, updates = np.linalg.norm(w), np.linalg.norm(g)
        g = g * (trust * weights / updates if weights > 0 and updates > 0 else 1.0)
    buf = moments[0]
    buf[:] = momentum * buf + g
    return w - lr * buf


def core_step(
    name: str,
    w: np.ndarray,
    moments: list[np.ndarray],
    g: np.ndarray,
    step: int,
    options: dict[str, Any],
) -> None:
    """One step in C with the options of the formulas above."""
    options = dict(options)
    if name == "adamw":
        options["beta1"], options["beta2"] = options.pop("betas")
        options["step"] = step
    getattr(_core, name)(w, *moments, g, **options)


CASES: list[tuple[str, Any, dict[str, Any]]] = [
    (
        "adamw",
        adamw,
        {"lr": 1e-2, "betas": (0.9, 0.999), "eps": 1e-8, "weight_decay": 0.05},
    ),
    (
        "adamw",
        adamw,
        {"lr": 1e-3, "betas": (0.8, 0.95), "eps": 1e-6, "weight_decay": 0.0},
    ),
    (
        "adamw",
        adamw,
        {"lr": 1e-5, "betas": (0.0, 0.0), "eps": 1e-3, "weight_decay": 0.3},
    ),
    ("sgd", sgd, {"lr": 0.1, "momentum": 0.9, "weight_decay": 1e-4, "nesterov": False}),
    ("sgd", sgd, {"lr": 0.05, "momentum": 0.9, "weight_decay": 1e-2, "nesterov": True}),
    ("sgd", sgd, {"lr": 0.1, "momentum": 0.0, "weight_decay": 0.0, "nesterov": False}),
    ("lars", lars, {"lr": 0.5, "momentum": 0.9, "weight_decay": 1e-2, "trust": 0.01}),
    ("lars", lars, {"lr": 0.1, "momentum": 0.9, "weight_decay": 1e-2, "trust": 0.0}),
]
IDS = [f"{name}-{i}" for i, (name, _, _) in enumerate(CASES)]


def state(name: str, shape: tuple[int, ...]) -> tuple[np.ndarray, list[np.ndarray]]:
    """Weights, and the moments before the first step."""
    zeros = [np.zeros(shape, np.float32) for _ in range(2 if name == "adamw" else 1)]
    return numbers(shape, 7), zeros


@pytest.mark.parametrize(("name", "formula", "options"), CASES, ids=IDS)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_many_steps_are_those_of_the_formula_in_float64(
    name: str, formula: Any, options: dict[str, Any], shape: tuple[int, ...]
) -> None:
    w, moments = state(name, shape)
    want, exact = w.astype(float), [m.astype(float) for m in moments]
    for step in range(1, STEPS + 1):
        g = gradient(w, step)
        core_step(name, w, moments, g, step, options)
        want = formula(want, exact, g.astype(float), step, **options)
    # A step rounds w once, and each change by some 1e-7 of itself.
    size = np.abs(want).max() + np.abs(want - numbers(shape, 7)).max()
    np.testing.assert_allclose(w, want, rtol=0, atol=4e-7 * size * np.sqrt(STEPS))
    for got, moment in zip(moments, exact, strict=True):
        np.testing.assert_allclose(
            got, moment, rtol=2e-6, atol=2e-6 * np.abs(moment).max()
        )


@pytest.mark.parametrize(("name", "formula", "options"), CASES, ids=IDS)
def test_bits_do_not_depend_on_threads(
    name: str, formula: Any, options: dict[str, Any]
) -> None:
    def steps(threads: int) -> list[bytes]:
        vitpool.set_num_threads(threads)
        w, moments = state(name, (1_100_003,))
        for step in range(1, 4):
            core_step(name, w, moments, gradient(w, step), step, options)
        return [a.tobytes() for a in (w, *moments)]

    one = steps(1)
    assert steps(2) == one
    assert steps(3) == one


def test_a_small_weight_decay_is_not_rounded() -> None:
    # 1 - lr weight_decay is 1 - 5e-8, in float32 1 - 6e-8: a fifth more.
    w = 1 + 0.1 * numbers((200_000,), 3)
    m, v = np.zeros_like(w), np.zeros_like(w)
    want, exact = w.astype(float), [m.astype(float), v.astype(float)]
    options = {"lr": 1e-5, "betas": (0.9, 0.99), "eps": 1e-8, "weight_decay": 5e-3}
    for step in range(1, 101):
        g = numbers(w.shape, step)
        core_step("adamw", w, [m, v], g, step, options)
        want = adamw(want, exact, g.astype(float), step, **options)  # type: ignore[arg-type]
    assert abs((w - want).mean()) < 0.01 * 100 * 5e-8


def test_a_step_without_gradient_moves_nothing() -> None:
    w, (m, v) = state("adamw", (33,))
    before = w.copy()
    _core.adamw(w, m, v, np.zeros_like(w), 0.1, 0.9, 0.999, 1e-8, 0.0, 1)
    _core.lars(w, m, np.zeros_like(w), 0.1, 0.9, 0.0, 0.001)
    np.testing.assert_array_equal(w, before)


def test_lars_of_weights_that_are_zero_has_no_ratio() -> None:
    w, buf, g = (
        np.zeros((4, 3), np.float32),
        np.zeros((4, 3), np.float32),
        numbers((4, 3), 1),
    )
    _core.lars(w, buf, g, 0.5, 0.9, 1e-2, 0.001)
    np.testing.assert_array_equal(buf, g)


@pytest.mark.parametrize("n", [0, 1, 7, 4096, 4099, 1_100_003])
def test_squares_are_summed_in_double_whatever_the_threads(n: int) -> None:
    g = numbers((n,), n) * 1e15
    vitpool.set_num_threads(1)
    got = _core.squares(g)
    assert got == pytest.approx((g.astype(float) ** 2).sum(), rel=1e-13)
    for threads in (2, 3):
        vitpool.set_num_threads(threads)
        assert _core.squares(g) == got


def test_empty_arrays_are_none_to_step() -> None:
    empty = [np.zeros((0, 5), np.float32) for _ in range(4)]
    _core.adamw(*empty, 0.1, 0.9, 0.999, 1e-8, 0.0, 1)
    _core.sgd(*empty[:3], 0.1, 0.9, 0.0, False)
    _core.lars(*empty[:3], 0.1, 0.9, 0.0, 0.1)


# -- what is refused, before anything changes --

FIT = np.ones((3, 2), np.float32)


def frozen() -> np.ndarray:
    array = FIT.copy()
    array.flags.writeable = False
    return array


BAD: list[tuple[str, Any, type[Exception], str]] = [
    ("list", [[1.0, 2.0]] * 3, TypeError, "must be an array of float32, not list"),
    (
        "float64",
        FIT.astype(float),
        TypeError,
        "must be an array of float32, not of float64",
    ),
    (
        "int32",
        FIT.astype(np.int32),
        TypeError,
        "must be an array of float32, not of int32",
    ),
    (
        "big endian",
        FIT.astype(">f4"),
        TypeError,
        "must be an array of float32, not of >f4",
    ),
    (
        "strided",
        np.ones((3, 4), np.float32)[:, ::2],
        ValueError,
        "must be C-contiguous",
    ),
    ("Fortran", np.asfortranarray(FIT.copy()), ValueError, "must be C-contiguous"),
    (
        "unaligned",
        np.frombuffer(bytearray(25), np.uint8)[1:].view(np.float32).reshape(3, 2),
        ValueError,
        "must be C-contiguous and aligned",
    ),
]
SIGNATURES: dict[str, tuple[list[str], dict[str, Any]]] = {
    "adamw": (
        ["w", "m", "v", "g"],
        {
            "lr": 0.1,
            "beta1": 0.9,
            "beta2": 0.99,
            "eps": 1e-8,
            "weight_decay": 0.1,
            "step": 1,
        },
    ),
    "sgd": (
        ["w", "buf", "g"],
        {"lr": 0.1, "momentum": 0.9, "weight_decay": 0.1, "nesterov": True},
    ),
    "lars": (
        ["w", "buf", "g"],
        {"lr": 0.1, "momentum": 0.9, "weight_decay": 0.1, "trust": 0.1},
    ),
}


def refuse(name: str, error: type[Exception], words: str, **wrong: Any) -> None:
    """The call raises, its message has these words, and nothing has changed."""
    names, options = SIGNATURES[name]
    arrays = {n: wrong.pop(n) if n in wrong else FIT.copy() for n in names}
    before = {n: np.array(a, copy=True) for n, a in arrays.items()}
    with pytest.raises(error, match=words):
        getattr(_core, name)(**arrays, **(options | wrong))
    for n, array in arrays.items():
        np.testing.assert_array_equal(array, before[n])


@pytest.mark.parametrize("name", SIGNATURES)
@pytest.mark.parametrize(("_", "bad", "error", "words"), BAD, ids=[b[0] for b in BAD])
def test_an_array_that_does_not_fit_is_refused_by_name(
    name: str, _: str, bad: Any, error: type[Exception], words: str
) -> None:
    for what in SIGNATURES[name][0]:
        refuse(name, error, f"{what} {words}", **{what: bad})


@pytest.mark.parametrize("name", SIGNATURES)
def test_other_shapes_frozen_memory_and_overlaps_are_refused(name: str) -> None:
    names, _ = SIGNATURES[name]
    for what in names[1:]:
        other = np.ones((2, 3), np.float32)
        refuse(
            name,
            ValueError,
            rf"{what} must have w's shape \(3, 2\), not \(2, 3\)",
            **{what: other},
        )
    for what in names[:-1]:
        refuse(name, ValueError, f"{what} must be writable", **{what: frozen()})
    names_g = {"g": frozen()}  # the gradient is only read
    getattr(_core, name)(
        **{n: FIT.copy() for n in names[:-1]}, **names_g, **SIGNATURES[name][1]
    )
    room = np.ones(9, np.float32)
    shared = {names[1]: room[:6].reshape(3, 2), "g": room[3:].reshape(3, 2)}
    refuse(name, ValueError, f"{names[1]} and g must not share memory", **shared)


@pytest.mark.parametrize("name", SIGNATURES)
def test_a_number_that_is_none_or_out_of_range_is_refused_by_name(name: str) -> None:
    for what, good in SIGNATURES[name][1].items():
        if what in ("step", "nesterov"):
            continue
        refuse(name, TypeError, f"{what} must be a number, not str", **{what: "1"})
        for bad in (-0.1, float("nan"), float("inf")):
            refuse(
                name,
                ValueError,
                f"{what} must be 0 or more and .*, not {bad}",
                **{what: bad},
            )
        assert isinstance(good, float)


def test_betas_below_one_whole_steps_and_bools() -> None:
    for beta in ("beta1", "beta2"):
        refuse(
            "adamw",
            ValueError,
            f"{beta} must be 0 or more and below 1, not 1.0",
            **{beta: 1.0},
        )
    refuse("adamw", ValueError, "step must be from 1", step=0)
    refuse("adamw", TypeError, "step must be an integer, not float", step=1.0)
    refuse("sgd", TypeError, "nesterov must be a bool, not int", nesterov=1)


def test_squares_take_what_a_step_takes() -> None:
    for _, bad, error, words in BAD:
        with pytest.raises(error, match=f"g {words}"):
            _core.squares(bad)
    assert _core.squares(frozen()) == 6


# -- dropout's bits --


def mix(z: int) -> int:
    """SplitMix64's finaliser."""
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9 % 2**64
    z = (z ^ (z >> 27)) * 0x94D049BB133111EB % 2**64
    return z ^ (z >> 31)


def bits(seed: int, site: int, image: int, i: int) -> int:
    """csrc/base/drop.h, in Python's integers."""
    golden, a, b = 0x9E3779B97F4A7C15, 0x85EBCA6B, 0xC2B2AE35
    of_site = mix((seed + golden) % 2**64) + (site + 1) * golden
    key = mix((mix(of_site % 2**64) + (image + 1) * golden) % 2**64)
    h = (i * 0x9E3779B9 % 2**32) ^ (key % 2**32)
    for half in (0, key >> 32):
        h ^= (h >> 16 ^ half) if half else 0
        h = (h ^ (h >> 16)) * a % 2**32
        h = (h ^ (h >> 13)) * b % 2**32
    return (h ^ (h >> 16)) >> 8


@pytest.mark.parametrize(
    ("seed", "site", "image"),
    [(0, 0, 0), (1, 2, 3), (2**64 - 1, 97, 2**40), (5, 2**64 - 1, 0)],
)
def test_bits_of_dropout_are_what_the_header_says(
    seed: int, site: int, image: int
) -> None:
    got = _core.drop_bits(seed, site, image, 50)
    assert got.dtype == np.uint32
    assert got.tolist() == [bits(seed, site, image, i) for i in range(50)]


def test_bits_of_dropout_are_even_and_unlike_those_of_neighbours() -> None:
    count = 1_000_000
    first = _core.drop_bits(3, 4, 5, count)
    assert first.max() < 2**24
    share = np.bincount(first >> 16, minlength=256) / count
    np.testing.assert_allclose(share, 1 / 256, rtol=0.1)  # 6 standard deviations
    uniform = first / 2**24 - 0.5
    for other in ((4, 4, 5), (3, 5, 5), (3, 4, 6)):
        theirs = _core.drop_bits(*other, count) / 2**24 - 0.5
        assert abs((uniform * theirs).mean()) * 12 < 5e-3  # 5 standard deviations
    assert abs((uniform[1:] * uniform[:-1]).mean()) * 12 < 5e-3


def test_wrong_seeds_and_counts_are_refused() -> None:
    for i, name in enumerate(("seed", "site", "image", "count")):
        for error, bad in ((ValueError, -1), (ValueError, 2**64), (TypeError, 1.0)):
            arguments: list[Any] = [1, 1, 1, 1]
            arguments[i] = bad
            with pytest.raises(error, match=name):
                _core.drop_bits(*arguments)
