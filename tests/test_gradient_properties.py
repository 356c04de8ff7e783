# SPDX-License-Identifier: Apache-2.0
"""What a training pass depends on, and what it does not: bits, threads, chunks."""

from __future__ import annotations

import itertools
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import drop_masks
import numpy as np
import pytest
from golden import recipe
from gradient_measure import FLOOR, Found, errors

import vitpool
from vitpool import _core
from vitpool.train import features_of, part_of

OPTIONS: dict[str, Any] = {
    "img_size": 32,
    "patch_size": 8,
    "embed_dim": 32,
    "depth": 3,
    "num_heads": 2,
    "num_classes": 6,
    "global_pool": "map",
    "init_values": 0.1,
    "qk_norm": True,
    "reg_tokens": 1,
}
RATES = {
    "drop": 0.1,
    "pos_drop": 0.1,
    "patch_drop": 0.3,
    "proj_drop": 0.1,
    "attn_drop": 0.2,
    "drop_path": 0.3,
}
BATCH = 5
PARTS = ("head", "pool", 2, "all")
LARGE = 2**28


def make(**options: Any) -> Any:
    model = vitpool.VisionTransformer(**OPTIONS | options)
    model.load_state_dict(recipe.weights(model.param_shapes()))
    return model


MODEL = make()
PICTURES = recipe.picture((BATCH, 3, 32, 32))
TARGETS = recipe.uniform((BATCH, 6), "targets").astype(np.float32) ** 2


def run(
    part: Any = "all",
    rows: slice = slice(None),
    into: dict[str, np.ndarray] | None = None,
    model: Any = MODEL,
    **how: Any,
) -> Found:
    """A training pass of a part, at its entry; into: gradients, added to."""
    what = part_of(model, part)
    x = features_of(model, what, PICTURES)[rows]
    shapes = model.param_shapes()
    grads = into
    if grads is None:
        grads = {name: np.zeros(shapes[name], np.float32) for name in what.names}
    losses, logits = model._gradients(
        np.ascontiguousarray(x),
        TARGETS[rows],
        grads,
        entry=what.entry,
        block=what.block,
        **{"scale": 1 / BATCH, "rates": RATES, "seed": 11} | how,
    )
    return Found(losses, logits, grads)


def assert_same(got: Found, expected: Found) -> None:
    np.testing.assert_array_equal(got.losses, expected.losses)
    np.testing.assert_array_equal(got.logits, expected.logits)
    for name, value in expected.grads.items():
        np.testing.assert_array_equal(got.grads[name], value, err_msg=name)


def assert_close(got: Found, expected: Found) -> None:
    found = errors(got, expected, nought=1e-5)  # in float32
    assert max(found.values()) < 4 * FLOOR, found


def test_masks_are_the_formulas() -> None:
    for seed, site, image, count in (
        (0, 0, 0, 1),
        (1, 2, 3, 1000),
        (2**64 - 1, 8 * 40 + 5, 10**6, 777),
        (0x9E3779B97F4A7C15, 17, 2**31, 64),
    ):
        expected = drop_masks.bits(seed, site, image, count)
        got = _core.drop_bits(seed, site, image, count)
        assert got.dtype == np.uint32
        np.testing.assert_array_equal(got, expected)
        assert expected.max() < 2**24


@pytest.mark.parametrize("part", PARTS)
@pytest.mark.parametrize("memory", [1, LARGE])
def test_a_gradient_does_not_depend_on_threads(part: Any, memory: int) -> None:
    before = vitpool.get_num_threads()
    found = []
    try:
        for threads in (1, 2, 3):
            vitpool.set_num_threads(threads)
            found.append(run(part, memory=memory))
    finally:
        vitpool.set_num_threads(before)
    assert_same(found[1], found[0])
    assert_same(found[2], found[0])


@pytest.mark.parametrize("part", [1, 2, "all"])
@pytest.mark.parametrize("memory", [1, LARGE])
def test_checkpointing_changes_no_bit(part: Any, memory: int) -> None:
    """Where the chunks are the same: one image each, or one of all."""
    kept = run(part, memory=memory)
    assert_same(run(part, memory=memory, checkpointing=True), kept)


@pytest.mark.parametrize("part", PARTS)
@pytest.mark.parametrize("memory", [1, 2**19])
@pytest.mark.parametrize("checkpointing", [False, True])
def test_chunks_give_the_gradient_of_the_whole(
    part: Any, memory: int, checkpointing: bool
) -> None:
    how = {"memory": memory, "checkpointing": checkpointing}
    assert_close(run(part, **how), run(part))


@pytest.mark.parametrize("part", PARTS)
def test_pieces_of_a_batch_add_up(part: Any) -> None:
    """Gradients are added, a scale is kept, and masks go by the place in the batch."""
    whole = run(part)
    grads: dict[str, np.ndarray] | None = None
    losses, logits = 0.0, []
    for start, end in itertools.pairwise((0, 2, 2, 5)):
        piece = run(part, slice(start, end), grads, image=start)
        grads, losses = piece.grads, losses + piece.losses
        logits.append(piece.logits)
    assert grads is not None
    assert_close(Found(losses, np.concatenate(logits), grads), whole)


@pytest.mark.parametrize(
    "change",
    [
        {"seed": 12},
        {"image": 1},
        {"scale": 0.5},
        {"rates": {}},
        {"rates": RATES | {"drop": 0.2}},
        {"rates": RATES | {"drop_path": 0.0}},
        {"loss": "binary_cross_entropy"},
        {"loss": "mse"},
    ],
)
def test_what_a_gradient_depends_on_changes_it(change: dict[str, Any]) -> None:
    one, other = run(), run(**change)
    assert any((other.grads[name] != g).any() for name, g in one.grads.items())
    assert_same(run(**change), other)


@pytest.mark.parametrize(
    "names",
    [
        ["head.bias"],
        ["attn_pool.latent", "blocks.2.ls1.gamma"],
        ["blocks.1.mlp.fc1.weight"],
        ["norm.weight", "blocks.0.attn.k_norm.weight"],
        ["pos_embed"],
        ["patch_embed.proj.weight", "cls_token", "head.weight"],
        [],
    ],
)
def test_some_gradients_are_those_of_all(names: list[str]) -> None:
    """What is not asked for may be left out, and changes no bit of the rest."""
    every = run()
    some = run(into={name: np.zeros_like(every.grads[name]) for name in names})
    np.testing.assert_array_equal(some.logits, every.logits)
    for name in names:
        np.testing.assert_array_equal(some.grads[name], every.grads[name], name)


@pytest.mark.parametrize("pool", ["token", "avg", "avgmax", "max", "map", "prr"])
def test_every_pool_has_its_bits_on_any_number_of_threads(pool: str) -> None:
    model = make(global_pool=pool)
    before = vitpool.get_num_threads()
    try:
        vitpool.set_num_threads(1)
        one = run(model=model)
        vitpool.set_num_threads(3)
        assert_same(run(model=model), one)
    finally:
        vitpool.set_num_threads(before)


def test_passes_of_several_threads_do_not_meet() -> None:
    """One model, and gradients of each caller's own."""
    expected = [run(seed=seed) for seed in range(3)]
    with ThreadPoolExecutor(4) as threads:
        for i, found in enumerate(threads.map(lambda i: run(seed=i % 3), range(24))):
            assert_same(found, expected[i % 3])


def test_a_training_pass_changes_no_weight() -> None:
    before = {k: np.array(v) for k, v in MODEL.state_dict().items()}
    run()
    for name, value in MODEL.state_dict().items():
        np.testing.assert_array_equal(value, before[name], err_msg=name)


def test_without_rates_the_logits_are_those_of_inference() -> None:
    found = run(rates={})
    np.testing.assert_allclose(found.logits, MODEL(PICTURES), rtol=0, atol=1e-5)


def test_a_batch_of_none_has_no_loss() -> None:
    found = run(rows=slice(0, 0))
    assert found.losses.tolist() == [0.0]
    assert found.logits.shape == (0, 6)
    assert not any(g.any() for g in found.grads.values())


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_what_is_not_finite_is_told_by_the_loss(value: float) -> None:
    pictures = PICTURES.copy()
    pictures[1, 0, 3, 3] = value
    grads = {"head.bias": np.zeros(6, np.float32)}
    losses, logits = MODEL._gradients(pictures, TARGETS, grads)
    assert not np.isfinite(losses[0])
    np.testing.assert_array_equal(logits[0], run(rates={}).logits[0])
